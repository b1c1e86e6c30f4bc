"""Metrics of a run: one JSON object a line, and the same numbers as TensorBoard events."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping

import numpy as np
import tensorboardX

from sparsejax.codec.atomic import write_atomically


class MetricsLog:
  """Appends rows of numbers to metrics.jsonl and to TensorBoard.

  Args:
    folder: the run's folder, which exists.
    resume_after: rows of later epochs are dropped, for the run repeats them. 0 starts anew.
  """

  def __init__(self, folder: str | pathlib.Path, resume_after: int = 0):
    self.path = pathlib.Path(folder) / 'metrics.jsonl'
    kept = [row for row in read_metrics(self.path) if row['epoch'] <= resume_after]
    write_atomically(self.path, ''.join(json.dumps(row) + '\n' for row in kept).encode())
    self._events = tensorboardX.SummaryWriter(str(pathlib.Path(folder) / 'tensorboard'),
                                              purge_step=resume_after + 1)

  def write(self, epoch: int, numbers: Mapping[str, float]) -> None:
    """Adds the numbers of one epoch, counted from 1."""
    row = {'epoch': epoch, **{name: float(value) for name, value in numbers.items()}}
    with self.path.open('a', encoding='utf-8') as file:
      file.write(json.dumps(row) + '\n')
    for name, value in numbers.items():
      self._events.add_scalar(name, value, epoch)

  def histogram(self, epoch: int, name: str, values: np.ndarray) -> None:
    """Adds a histogram to TensorBoard alone."""
    self._events.add_histogram(name, np.asarray(values).reshape(-1), epoch)

  def close(self) -> None:
    self._events.close()


def read_metrics(path: str | pathlib.Path) -> list[dict[str, float]]:
  """Returns the rows of a metrics.jsonl, oldest first; a missing file has none.

  A last line that was cut off by a crash is left out; a broken line elsewhere raises ValueError.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return []
  lines = path.read_bytes().splitlines()
  rows = []
  for number, line in enumerate(lines, 1):
    try:
      row = json.loads(line)
      if not isinstance(row, dict) or 'epoch' not in row:
        raise ValueError('no object with an epoch')
    except ValueError as error:             # JSONDecodeError and UnicodeDecodeError are ValueErrors
      if number == len(lines):
        break
      raise ValueError(f'{path}, line {number} is not a row of metrics: {error}; restore the file '
                       'or start in a new workdir') from error
    rows.append(row)
  return rows
