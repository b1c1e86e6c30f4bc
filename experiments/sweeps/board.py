"""The live table of a sweep: every member on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from experiments.sweeps.members import Member

LINES = 20            # plain lines of a program, from its first epoch to its last
ROWS = 40             # members that a terminal shows; those of the program that runs come first


class Board:
  """Shows how the members stand; a context manager.

  Args:
    console: where to print. members: with what is known of each before, {name: state}.
  """

  def __init__(self, console: Console, members: Sequence[Member], states: Mapping[str, str]):
    self._console = console
    self._epochs = {member.name: member.config.epochs for member in members}
    self._news: dict[str, dict[str, Any]] = {
        member.name: {'state': states.get(member.name, '')} for member in members}
    self._clock, self._first = time.perf_counter(), 0
    self._live = Live(get_renderable=self._table, console=console, refresh_per_second=2,
                      transient=True) if console.is_terminal else None

  def __enter__(self) -> Board:
    if self._live is not None:
      self._live.start()
    return self

  def __exit__(self, *error: object) -> None:
    if self._live is not None:
      self._live.stop()

  def line(self, text: str) -> None:
    """Prints a line above the table."""
    self._console.print(text, soft_wrap=True, highlight=False)

  def show(self, name: str, news: Mapping[str, Any]) -> None:
    """Takes what is new of a member: `state`, `epoch`, and numbers of its metrics."""
    before = self._news[name].get('state')
    self._news[name] |= news
    if self._live is None and news.get('state') not in (None, before, 'training'):
      self.line(f'{name}: {news["state"]}')

  def epoch(self, names: Sequence[str], epoch: int) -> None:
    """Is told that a program has ended an epoch of the members it still trains."""
    epochs = self._epochs[names[0]]
    now = time.perf_counter()
    if not self._first or epoch <= self._first:
      self._clock, self._first = now, epoch
    if self._live is not None or (epoch % max(1, epochs // LINES) and epoch != epochs):
      return
    parts = [f'epoch {epoch}/{epochs}', f'{len(names)} members']
    for key, label in (('train_nll_nats', 'NLL'), ('validation_error_percent', 'validation error'),
                       ('train_error_percent', 'train error')):
      values = [self._news[name][key] for name in names if key in self._news[name]]
      if values:
        parts.append(f'{label} {np.min(values):.4g} to {np.max(values):.4g}')
    if epoch > self._first:
      left = (now - self._clock) / (epoch - self._first) * (epochs - epoch)
      parts.append(f'{left:.0f} s left')
    self.line('  '.join(parts))

  def _table(self) -> Table:
    table = Table()
    for name in ('member', 'state', 'epoch', 'NLL', 'error, %', 'density'):
      table.add_column(name, justify='left' if name in ('member', 'state') else 'right')
    order = sorted(self._news, key=lambda name: self._news[name]['state'] != 'training')
    for name in order[:ROWS]:
      news = self._news[name]
      error = news.get('validation_error_percent', news.get('train_error_percent'))
      table.add_row(name, str(news['state']),
                    f'{news["epoch"]}/{self._epochs[name]}' if 'epoch' in news else '',
                    *(f'{value:{form}}' if value is not None else '' for value, form in (
                        (news.get('train_nll_nats'), '.4f'), (error, '.2f'),
                        (news.get('density'), '.4f'))))
    if len(order) > ROWS:
      table.caption = f'and {len(order) - ROWS} more'
    return table
