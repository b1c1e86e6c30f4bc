"""The fields of a finished run's config and its last figures, for TensorBoard's table of runs.

They stand in a file of their own among the run's events, so that TensorBoard finds them under the
name of the run, beside its curves. The file has one name and is written anew as a whole: a run
whose end is repeated is listed once.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import ml_collections
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event

from sparsejax.codec.atomic import write_atomically
from sparsejax.paths import flatten
from sparsejax.training.metrics import EVENTS_FOLDER, record

# TensorBoard reads the files of a folder by name: the last, letters after digits.
HPARAMS_FILE = 'events.out.tfevents.hparams'
# Keys of the ledger; those that a run has not are left out.
FIGURES = ('validation_error_percent', 'weights_kept', 'bytes_file', 'bytes_coded')


def fields(config: ml_collections.ConfigDict) -> dict[str, bool | int | float | str]:
  """Returns {'optimiser.learning_rate': 1e-3, ...}; lists become texts, and None is left out."""
  found = {path.replace('/', '.'): value for path, value in flatten(config.to_dict()).items()}
  return {name: value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
          for name, value in sorted(found.items()) if value is not None}


def figures(sheet: Mapping[str, Any]) -> dict[str, float]:
  """Returns {'final/weights_kept': 1000.0, ...} of a ledger."""
  return {f'final/{name}': float(sheet[name]) for name in FIGURES if sheet.get(name) is not None}


def write_hparams(folder: pathlib.Path, config: ml_collections.ConfigDict,
                  sheet: Mapping[str, Any]) -> pathlib.Path:
  """Writes the fields of the config and the figures of the ledger; returns the file.

  Args:
    folder: of the run.

  Raises:
    OSError: if it cannot be written.
  """
  numbers, step = figures(sheet), int(sheet['epochs'])
  contents = [*summary.hparams(fields(config), numbers),
              *(summary.scalar(name, value) for name, value in numbers.items())]
  events = [Event(file_version='brain.Event:2'),
            *(Event(step=step, summary=content) for content in contents)]
  now = time.time()
  for event in events:
    event.wall_time = now
  path = folder / EVENTS_FOLDER / HPARAMS_FILE
  path.parent.mkdir(exist_ok=True)
  write_atomically(path, b''.join(map(record, events)))
  return path
