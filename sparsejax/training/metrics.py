"""Metrics of a run: one JSON object a line, and the same numbers as TensorBoard events."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from sparsejax.codec.atomic import write_atomically

METRICS_FILE, EVENTS_FOLDER = 'metrics.jsonl', 'tensorboard'


class MetricsLog:
  """Appends rows of numbers to metrics.jsonl and to TensorBoard.

  Events are written here, not by tensorboardX's writer: its thread ends at a full disk, and lets
  whoever adds to its queue wait for ever. They are a copy, made anew from the rows when a run goes
  on.

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
      name = f'events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}'
      self._events = (self._folder / name).open('ab')
    # The second has TensorBoard forget what files of an earlier start say of steps from 1 on.
    self._add_events([Event(file_version='brain.Event:2'),
                      Event(step=1, session_log=SessionLog(status=SessionLog.START)),
                      *(event for row in kept for event in _scalars(row))])

  def write(self, epoch: int, numbers: Mapping[str, float]) -> None:
    """Adds the numbers of one epoch, counted from 1."""
    row = {'epoch': epoch, **{name: float(value) for name, value in numbers.items()}}
    with _naming(self.path), self.path.open('a', encoding='utf-8') as file:
      file.write(json.dumps(row) + '\n')
    self._add_events(_scalars(row))

  def histogram(self, epoch: int, name: str, values: np.ndarray) -> None:
    """Adds a histogram to TensorBoard alone."""
    content = summary.histogram(name, np.asarray(values).reshape(-1), 'auto')
    self._add_events([Event(step=epoch, summary=content)])

  def sync(self) -> None:
    """Has the rows on the disk, not only in the system's memory, such as before a checkpoint."""
    with _naming(self.path), self.path.open('ab') as file:
      os.fsync(file.fileno())

  def close(self) -> None:
    with _naming(self._folder):
      self._events.close()

  def _add_events(self, events: Iterable[Event]) -> None:
    now = time.time()
    with _naming(self._folder):
      for event in events:
        event.wall_time = now
        self._events.write(record(event))
      self._events.flush()


def record(event: Event) -> bytes:
  """Returns an event as a record of TensorFlow: its length, and itself, each with a checksum."""
  data = event.SerializeToString()
  size = struct.pack('<Q', len(data))
  return (size + struct.pack('<I', masked_crc32c(size)) + data
          + struct.pack('<I', masked_crc32c(data)))


def _scalars(row: Mapping[str, float]) -> list[Event]:
  """Returns the events of a row of metrics."""
  return [Event(step=int(row['epoch']), summary=summary.scalar(name, value))
          for name, value in row.items() if name != 'epoch']


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
