"""What a process that leaves the files to another has in their places: they keep nothing."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, NoReturn


class NoCheckpoints:
  """In the place of `Checkpoints`: holds none, and forgets what it is given."""

  def __init__(self, folder: str | pathlib.Path, max_to_keep: int = 2):
    del max_to_keep
    self.folder = pathlib.Path(folder)

  def numbers(self) -> list[int]:
    return []

  def latest_epoch(self) -> None:
    return None

  def save(self, number: int, state: Any, notes: Any = None) -> None:
    del number, state, notes

  def load(self, number: int, like: Any) -> NoReturn:
    del like
    raise ValueError(f'checkpoint {self.folder / str(number)} is read by process 0 alone')

  def close(self) -> None:
    pass


class NoLog:
  """In the place of `MetricsLog`."""

  def write(self, epoch: int, numbers: Mapping[str, float]) -> None:
    del epoch, numbers

  def sync(self) -> None:
    pass

  def close(self) -> None:
    pass
