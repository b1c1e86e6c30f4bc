"""Where a run goes on: the newest state that is sound and of which all else is there too."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.early_stopping import BestEpoch, best_of
from sparsejax.training.checkpoint import Checkpoints, DamagedCheckpoint, first_sound
from sparsejax.training.fit import TrainState
from sparsejax.training.metrics import METRICS_FILE, read_metrics

CHECKPOINTS_FOLDER, INSIDE_FOLDER, BEST_FOLDER = 'checkpoints', 'inside_epoch', 'best'


class Stores(NamedTuple):
  """The states that a run keeps.

  Attributes:
    whole: by number of whole epochs. inside: those inside an epoch, by number of steps.
    best: of early stopping, None without it.
  """

  whole: Checkpoints
  inside: Checkpoints
  best: BestEpoch | None

  def close(self) -> None:
    for store in self:
      if store is not None:
        store.close()


class Point(NamedTuple):
  """Where a run goes on.

  Attributes:
    epochs: whole ones behind it. state: then, or inside the next.
    losses: NLL of each step behind it in the next, (steps,). seconds: spent on these.
    rows: metrics of the whole epochs.
  """

  epochs: int
  state: TrainState
  losses: np.ndarray
  seconds: float
  rows: list[dict[str, float]]


def stores(folder: pathlib.Path, early_stopping: Any, store: Any = Checkpoints) -> Stores:
  """Returns the stores of a run's folder.

  Args:
    early_stopping: that of its config, or None. store: what keeps the checkpoints.
  """
  best = BestEpoch(folder / BEST_FOLDER, early_stopping, store=store) if early_stopping else None
  return Stores(store(folder / CHECKPOINTS_FOLDER), store(folder / INSIDE_FOLDER, max_to_keep=1),
                best)


def resume_point(folder: pathlib.Path, kept: Stores, start: TrainState, steps: int,
                 warn: Callable[[str], None]) -> Point:
  """Returns the newest usable point of a run: its beginning only where nothing was ever kept.

  A state is usable if its files are sound, the metrics of all epochs before it are there and, with
  early stopping, so is the best of these epochs. Training repeats itself bit for bit, so an older
  one ends no differently. `warn` is told what is skipped and why.

  Args:
    start: the state before the first step. steps: of an epoch.

  Raises:
    ValueError: if states were kept and none of them is usable.
  """
  rows = read_metrics(folder / METRICS_FILE)
  found = [((number, 0), kept.whole, number) for number in kept.whole.numbers()]
  found += [(divmod(number, steps), kept.inside, number) for number in kept.inside.numbers()]
  if kept.best is not None:
    found += [((number, 0), kept.best.store, number) for number in kept.best.store.numbers()]
  if not found:
    if rows:
      warn(f'{folder / METRICS_FILE} tells of {len(rows)} epochs, but no state was kept yet; this '
           'run starts from the beginning')
    return Point(0, start, np.zeros(0, np.float32), 0.0, [])
  found.sort(key=lambda entry: entry[0], reverse=True)
  return first_sound([(store.folder / str(number), functools.partial(
      _point, folder, kept, start, place, store, number, rows))
      for place, store, number in found], warn)


def _point(folder: pathlib.Path, kept: Stores, like: TrainState, place: tuple[int, int],
           store: Checkpoints, number: int, rows: list[dict[str, float]]) -> Point:
  epochs, position = place
  rows = [row for row in rows if row['epoch'] <= epochs]
  if [row['epoch'] for row in rows] != list(range(1, epochs + 1)):
    raise DamagedCheckpoint(f'checkpoint {store.folder / str(number)} cannot be used: '
                            f'{folder / METRICS_FILE} has not the metrics of all {epochs} epochs '
                            'before it')
  state, notes = store.load(number, like)
  losses = np.asarray(notes['losses'] if position else (), np.float32)
  if len(losses) != position:
    raise DamagedCheckpoint(f'checkpoint {store.folder / str(number)} cannot be used: it holds '
                            f'{len(losses)} losses of {position} steps')
  if kept.best is not None and rows:
    _require_best(kept.best, kept.whole, best_of(rows)[1], like)
  return Point(epochs, state, losses, notes['seconds'] if position else 0.0, rows)


def _require_best(best: BestEpoch, whole: Checkpoints, epoch: int, like: TrainState) -> None:
  """Raises DamagedCheckpoint unless the state of the best epoch is sound, or can be made so."""
  damage = 'it is not there'
  for store in (best.store, whole):
    if epoch in store.numbers():
      try:
        state, _ = store.load(epoch, like)
      except DamagedCheckpoint as error:
        damage = str(error)
        continue
      if store is whole:
        best.store.save(epoch, state)
      return
  raise DamagedCheckpoint(f'the best epoch so far, {epoch}, is lost ({damage})')
