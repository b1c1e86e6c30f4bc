"""The words or characters that a run's network knows by number, as a file in the folder of the run.

So a report or a later use can read and write text without the data set, and with no other numbering
than that of the training.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from sparsejax.codec import write_atomically

FILE = 'vocabulary.json'


def of(dataset: Any) -> tuple[str, ...]:
  """Returns the names of what a network on this data set reads, by number; () for images."""
  if hasattr(dataset, 'vocabulary'):              # texts with a class each
    return tuple(dataset.vocabulary)
  whole = getattr(dataset, 'train_images', None)
  return tuple(dataset.class_names) if whole is not None and whole.ndim == 2 else ()


def write(folder: str | pathlib.Path, names: Sequence[str]) -> None:
  """Writes the file, atomically; nothing where there are no names."""
  if names:
    write_atomically(pathlib.Path(folder) / FILE, json.dumps(list(names)).encode())


def read(folder: str | pathlib.Path, count: int) -> tuple[str, ...]:
  """Returns the names.

  Args:
    folder: of the run. count: how many numbers its network knows.
  Raises:
    ValueError: if the file is missing or damaged, or is not of this network.
  """
  path = pathlib.Path(folder) / FILE
  try:
    names = json.loads(path.read_bytes())
  except FileNotFoundError as error:
    raise ValueError(f'{path} is missing; the report of a run writes it: restore it from a '
                     'copy') from error
  except ValueError as error:                     # JSONDecodeError, UnicodeDecodeError
    raise ValueError(f'{path} is damaged: {error}; restore it from a copy') from error
  if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
    raise ValueError(f'{path} is no list of words; restore it from a copy')
  if len(names) != count or len(set(names)) != count:
    raise ValueError(f'{path} names {len(set(names)):,} different words, the network knows '
                     f'{count:,}: it is of another run; restore it from a copy')
  return tuple(names)
