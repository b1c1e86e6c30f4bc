"""The host's loop over epochs: one compiled call each, and a watch for non-finite losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.paths import Tree
from sparsejax.training.fit import Recipe, TrainState, epoch_order, jit_epoch, train_step

Array = jax.Array
EpochFunction = Callable[[TrainState, Array, Any], tuple[TrainState, Array]]

NOT_REPRODUCED = 'not reproduced step by step'


class Epoch(NamedTuple):
  """What one epoch left behind: `number` counts from 1; `nll` is the mean over its steps, nats."""

  number: int
  state: TrainState
  nll: float


class NonFiniteLoss(FloatingPointError):
  """Training met a loss that is not finite.

  Attributes:
    epoch: counted from 1. step: of this epoch, counted from 0. leaf: path of the first parameter
      that was not finite after it.
    last_good: the state before that epoch, or the one inside it that a resumed run began with.
  """

  def __init__(self, epoch: int, step: int, leaf: str, last_good: TrainState):
    super().__init__(f'the loss is not finite in epoch {epoch}, step {step}; first non-finite: '
                     f'{leaf}. Lower the learning rate or the strength; the state before is '
                     'kept as the last checkpoint')
    self.epoch, self.step, self.leaf, self.last_good = epoch, step, leaf, last_good


def run_epochs(recipe: Recipe, state: TrainState, images: Array, targets: Any, *,
               first: int = 1, last: int, run_epoch: EpochFunction | None = None,
               taken: int = 0,
               between: Callable[[int, TrainState], TrainState] | None = None) -> Iterator[Epoch]:
  """Trains from epoch `first` to `last`, both included, and yields after each.

  Args:
    run_epoch: (state, images, targets) -> (state, NLL per step) of the epoch, or of its part up to
      one that is not finite; None for one compiled scan.
    between: (number, state after that epoch) -> the state to go on with.
    taken: steps of epoch `first` that the state has behind it, where `run_epoch` goes on inside.

  Raises:
    NonFiniteLoss: at the first loss or parameter that is not finite.
  """
  epoch = run_epoch or jit_epoch(recipe)
  for number in range(first, last + 1):
    before = state
    state, per_step = epoch(before, images, targets)
    losses = np.asarray(per_step)
    if not np.all(np.isfinite(losses)) or first_non_finite(state.params) is not None:
      raise diagnose(recipe, before, images, targets, number, taken if number == first else 0)
    if between is not None:
      state = between(number, state)
    yield Epoch(number, state, float(losses.mean()))


def first_non_finite(tree: Tree) -> str | None:
  """Returns the path of the first leaf with a value that is not finite, or None."""
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    if not bool(jnp.all(jnp.isfinite(leaf))):
      return jax.tree_util.keystr(path, simple=True, separator='/')
  return None


def diagnose(recipe: Recipe, state: TrainState, images: Array, targets: Any,
             number: int, taken: int = 0) -> NonFiniteLoss:
  """Repeats epoch `number` step by step from a state before it broke, to the step where it did.

  The state is that at its start, or after `taken` of its steps.
  """
  last_good = state
  step = jax.jit(lambda state, x, y: train_step(recipe, state, x, y))
  start = state._replace(step=state.step - taken)
  batches = np.asarray(epoch_order(recipe, start, images.shape[0]))
  for i, batch in enumerate(batches[taken:], taken):
    state, loss = step(state, images[batch], jax.tree.map(lambda t: t[batch], targets))
    leaf = first_non_finite(state.params)
    if leaf is not None or not np.isfinite(float(loss)):
      return NonFiniteLoss(number, i, leaf or 'the loss itself, with finite parameters', last_good)
  return NonFiniteLoss(number, len(batches) - 1, NOT_REPRODUCED, last_good)
