"""The best epoch of a short training, kept in memory; `experiments.early_stopping` keeps files."""

from __future__ import annotations

from typing import Any


class BestEpoch:
  """The state after the epoch with the lowest validation NLL so far.

  Args:
    patience: epochs without a better one after which training ends, at least 1.

  Attributes:
    number: of that epoch, counted from 1; 0 before the first. nll: its validation NLL, nats.
    state: after it. ended: whether `patience` epochs have brought nothing better.

  Raises:
    ValueError: for a patience below 1.
  """

  def __init__(self, patience: int):
    if patience < 1:
      raise ValueError(f'config.early_stopping.patience={patience} must be at least 1 epoch')
    self._patience = patience
    self.number, self.nll, self.ended = 0, float('inf'), False
    self.state: Any = None

  def see(self, number: int, nll: float, state: Any) -> None:
    """Takes note of an epoch, and keeps its state if it is the best."""
    if nll < self.nll:
      self.number, self.nll, self.state = number, nll, state
    self.ended = number - self.number >= self._patience
