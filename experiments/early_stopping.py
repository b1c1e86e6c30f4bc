"""Deploying the epoch with the lowest validation loss, and stopping when none better comes.

A network that overfits (a dense language model does so badly) is judged by its best epoch, which is
found on held-out data; the test set is not touched.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
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


class BestEpoch:
  """The state after the epoch with the lowest validation NLL so far, kept in `folder`.

  Args:
    folder: of its checkpoint, made if missing.
    config: {'patience': epochs without a better one after which training ends}.
    rows: the metrics of the epochs already trained, of a run that goes on.

  Raises:
    ValueError: for a patience below 1, or another field.
  """

  def __init__(self, folder: pathlib.Path, config: ml_collections.ConfigDict,
               rows: Sequence[dict[str, Any]] = ()):
    require_names(config, ('patience',), 'config.early_stopping')
    if config.patience < 1:
      raise ValueError(f'config.early_stopping.patience={config.patience} must be at least 1 epoch')
    self._patience = config.patience
    self._checkpoints = Checkpoints(folder, max_to_keep=1)
    watched = [(row[WATCHED], int(row['epoch'])) for row in rows if WATCHED in row]
    self.nll: float
    self.epoch: int
    self.nll, self.epoch = min(watched, default=(float('inf'), 0))
    self.last = max((epoch for _, epoch in watched), default=0)

  @property
  def ended(self) -> bool:
    """True once `patience` epochs have brought nothing better."""
    return self.last - self.epoch >= self._patience

  def see(self, epoch: int, nll: float, state: TrainState) -> None:
    """Takes note of an epoch, and keeps its state if it is the best."""
    self.last = epoch
    if nll >= self.nll:
      return
    self.nll, self.epoch = nll, epoch
    if self._checkpoints.latest_epoch() != epoch:    # else a run that was cut off had kept it
      self._checkpoints.save(epoch, state)

  def restore(self, like: TrainState) -> tuple[TrainState, str]:
    """Returns the state of the best epoch, and in words how it was found."""
    epoch, state = self._checkpoints.restore(like)
    return state, (f'epoch {epoch} of {self.last}, which has the lowest validation NLL, '
                   f'{self.nll:.4f} nats')

  def close(self) -> None:
    self._checkpoints.close()
