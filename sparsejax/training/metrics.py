"""Metrics of a run: one JSON object a line, and the same numbers as TensorBoard events."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from sparsejax.codec.atomic import write_atomically

METRICS_FILE, EVENTS_FOLDER = 'metrics.jsonl', 'tensorboard'
_FLUSH_SECONDS = 20.0


class MetricsLog:
  """Appends rows of numbers to metrics.jsonl and to TensorBoard.

  Events are written by this thread: tensorboardX's own, once it has met a full disk, lets whoever
  adds to its queue wait for ever. They are a copy, made anew from the rows when a run goes on.

  Args:
    folder: the run's folder, which exists.
    resume_after: rows of later epochs are dropped, for the run repeats them. 0 starts anew.

  Raises:
    OSError: here and in every method, naming the file, if it cannot be written.
  """

  def __init__(self, folder: str | pathlib.Path, resume_after: int = 0):
    self.path = pathlib.Path(folder) / METRICS_FILE
    self._folder = pathlib.Path(folder) / EVENTS_FOLDER
    kept = [row for row in read_metrics(self.path) if row['epoch'] <= resume_after]
    write_atomically(self.path, ''.join(json.dumps(row) + '\n' for row in kept).encode())
    with _naming(self._folder):
      self._folder.mkdir(exist_ok=True)
      self._events = EventsWriter(str(self._folder / 'events'))
      # TensorBoard forgets what files of an earlier start say of these steps.
      self._events.write_event(Event(step=1, session_log=SessionLog(status=SessionLog.START),
                                     wall_time=time.time()))
      for row in kept:
        self._add(int(row['epoch']), {name: row[name] for name in row if name != 'epoch'})
    self._flushed = time.monotonic()

  def write(self, epoch: int, numbers: Mapping[str, float]) -> None:
    """Adds the numbers of one epoch, counted from 1."""
    row = {'epoch': epoch, **{name: float(value) for name, value in numbers.items()}}
    with _naming(self.path), self.path.open('a', encoding='utf-8') as file:
      file.write(json.dumps(row) + '\n')
    with _naming(self._folder):
      self._add(epoch, numbers)
      if time.monotonic() - self._flushed > _FLUSH_SECONDS:
        self._events.flush()
        self._flushed = time.monotonic()

  def histogram(self, epoch: int, name: str, values: np.ndarray) -> None:
    """Adds a histogram to TensorBoard alone."""
    values = np.asarray(values).reshape(-1)
    with _naming(self._folder):
      self._event(epoch, summary.histogram(name, values, 'auto'))

  def sync(self) -> None:
    """Has the rows on the disk, not only in the system's memory, such as before a checkpoint."""
    with _naming(self.path), self.path.open('ab') as file:
      os.fsync(file.fileno())

  def close(self) -> None:
    with _naming(self._folder):
      self._events.close()

  def _add(self, epoch: int, numbers: Mapping[str, float]) -> None:
    for name, value in numbers.items():
      self._event(epoch, summary.scalar(name, value))

  def _event(self, epoch: int, content: summary.Summary) -> None:
    self._events.write_event(Event(step=epoch, summary=content, wall_time=time.time()))


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
  """Gives OSErrors from here the name of the file, which those of a write lack."""
  try:
    yield
  except OSError as error:
    raise OSError(error.errno or errno.EIO, f'{error.strerror or error}; free the disk and run the '
                  'same command again', str(path)) from error


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
