"""Progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich import progress as bars
from rich.console import Console

LINES = 20  # plain lines in a whole run


class Progress:
  """Shows epoch, error, density and time left; a context manager.

  Args:
    console: where to print. done, epochs: epochs behind and in all.
  """

  def __init__(self, console: Console, done: int, epochs: int):
    self._console, self._done, self._epochs = console, done, epochs
    self._seen = ''
    self._start = time.perf_counter()
    self._bar = None
    if console.is_terminal:
      self._bar = bars.Progress(bars.TextColumn('epoch'), bars.MofNCompleteColumn(),
                                bars.BarColumn(), bars.TextColumn('{task.description}'),
                                bars.TimeRemainingColumn(), console=console)

  def __enter__(self) -> Progress:
    if self._bar is not None:
      self._bar.start()
      self._task = self._bar.add_task('', total=self._epochs, completed=self._done)
    return self

  def __exit__(self, *error: object) -> None:
    if self._bar is not None:
      self._bar.stop()

  def show(self, epoch: int, numbers: Mapping[str, float]) -> None:
    """Shows the numbers of one epoch, counted from 1."""
    parts = [f'NLL {numbers["train_nll_nats"]:.4f}']
    for name in ('validation_error_percent', 'train_error_percent'):
      if name in numbers:
        self._seen = f'{name.split("_")[0]} error {numbers[name]:.2f} %'
        self._seen += f'  density {numbers["density"]:.4f}'
    if self._seen:
      parts.append(self._seen)
    text = '  '.join(parts)
    if self._bar is not None:
      self._bar.update(self._task, completed=epoch, description=text)
      return
    every = max(1, self._epochs // LINES)
    if epoch % every == 0 or epoch == self._epochs:
      spent = time.perf_counter() - self._start
      left = spent / (epoch - self._done) * (self._epochs - epoch)
      self._console.print(f'epoch {epoch}/{self._epochs}  {text}  {left:.0f} s left')
