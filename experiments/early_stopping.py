"""Deploying the epoch with the lowest validation loss, and stopping when none better comes.

A network that overfits (a dense language model does so badly) is judged by its best epoch, which is
found on held-out data; the test set is not touched.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from experiments.names import require_names
from sparsejax.training.checkpoint import Checkpoints
from sparsejax.training.fit import TrainState

WATCHED = 'validation_nll_nats'


def require_watched(config: ml_collections.ConfigDict, watched: str) -> None:
  """Raises ValueError unless there is a validation loss of every epoch to stop by."""
  if watched != 'validation':
    raise ValueError('config.early_stopping needs held-out data; set config.validation_examples')
  if config.evaluate_every != 1:
    raise ValueError(f'config.early_stopping looks at each epoch: set config.evaluate_every=1 in '
                     f'place of {config.evaluate_every}')


def best_of(rows: Sequence[Mapping[str, float]]) -> tuple[float, int]:
  """Returns (validation NLL, epoch) of the best epoch in the metrics, (inf, 0) without any."""
  return min(((row[WATCHED], int(row['epoch'])) for row in rows if WATCHED in row),
             default=(float('inf'), 0))


class BestEpoch:
  """The state after the epoch with the lowest validation NLL so far, kept in `folder`.

  The best before it is kept too: from there a run can reach the best again, should it be damaged.

  Args:
    folder: of its checkpoints.
    config: {'patience': epochs without a better one after which training ends}.
    rows: the metrics of the epochs already trained, of a run that goes on.
    store: what keeps the checkpoints.

  Raises:
    ValueError: for a patience below 1, or another field.
  """

  def __init__(self, folder: pathlib.Path, config: ml_collections.ConfigDict,
               rows: Sequence[Mapping[str, float]] = (), store: Any = Checkpoints):
    require_names(config, ('patience',), 'config.early_stopping')
    if config.patience < 1:
      raise ValueError(f'config.early_stopping.patience={config.patience} must be at least 1 epoch')
    self._patience = config.patience
    self.store = store(folder, max_to_keep=2)
    self.nll: float
    self.epoch: int
    self.last: int
    self.go_on_after(rows)

  def go_on_after(self, rows: Sequence[Mapping[str, float]]) -> None:
    """Takes note of the epochs already trained."""
    self.nll, self.epoch = best_of(rows)
    self.last = max((int(row['epoch']) for row in rows if WATCHED in row), default=0)

  @property
  def ended(self) -> bool:
    """True once `patience` epochs have brought nothing better."""
    return self.last - self.epoch >= self._patience

  def see(self, epoch: int, nll: float, state: TrainState) -> None:
    """Takes note of an epoch, and keeps its state if it is the best."""
    self.last = epoch
    if nll < self.nll:
      self.nll, self.epoch = nll, epoch
      self.store.save(epoch, state)

  def restore(self, like: TrainState) -> tuple[TrainState, str]:
    """Returns the state of the best epoch, and in words how it was found.

    Raises:
      DamagedCheckpoint: if it is damaged; going on repeats the epochs from one before it.
    """
    state, _ = self.store.load(self.epoch, like)
    return state, (f'epoch {self.epoch} of {self.last}, which has the lowest validation NLL, '
                   f'{self.nll:.4f} nats')

  def close(self) -> None:
    self.store.close()
