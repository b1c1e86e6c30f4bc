"""Epochs in pieces: one compiled program whose last step is an argument, so that a run may stop.

The loop has the body of the scan of an epoch and gives its bits. Since one program takes every
piece, where an epoch was cut makes no difference to its end.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.training.fit import CARRY, Recipe, TrainState, epoch_order, train_step
from sparsejax.training.loop import first_non_finite
from sparsejax.training.sharding import place, whole

Array = jax.Array

PIECE_SECONDS = 2.0   # how long a piece is to take: so soon a signal is answered
# A device asks the host after this many steps at most whether to go on; on a GPU, where the answer
# takes some 10 us, asking after each would show in the time of the smallest networks.
_STEPS_AT_ONCE = 16


class Pieces:
  """Runs epochs in pieces of about `PIECE_SECONDS`, for `run_epochs(run_epoch=...)`.

  Args:
    look: called between the pieces of an epoch, not at its end, with the state and the NLL of each
      step taken in it, float32 (steps,), all of them finite. It may raise to stop the run.
    taken: the losses of the steps that the first epoch's state has already behind it.
    clock: seconds, for tests.
    agree: number of steps that this process would take at once -> the number that all processes of
      the training take, for they must run the same programs.
  """

  def __init__(self, recipe: Recipe, look: Callable[[TrainState, np.ndarray], None],
               taken: Sequence[float] | np.ndarray = (),
               clock: Callable[[], float] = time.monotonic,
               agree: Callable[[int], int] = lambda count: count):
    self._recipe, self._look, self._clock, self._agree = recipe, look, clock, agree
    self._taken = np.asarray(taken, np.float32)
    self._program = jax.jit(functools.partial(train_until, recipe))
    self._step_seconds: float | None = None

  def __call__(self, state: TrainState, images: Array, targets: Any) -> tuple[TrainState, Array]:
    """Runs the rest of the epoch that `state` is in; returns as `fit.train_epoch`.

    It ends early after a step whose loss or parameters are not finite.
    """
    steps = images.shape[0] // self._recipe.batch_size
    at_once = steps_at_once(steps)
    done = len(self._taken)
    losses = place(self._recipe.mesh, np.pad(self._taken, (0, steps - done)))
    self._taken = self._taken[:0]
    while True:
      until = min(steps, done + self._agree(self._steps_of_a_piece(at_once)))
      start = self._clock()
      state, losses = self._program(state, losses, images, targets, until)
      seen = np.asarray(losses)
      # The first piece is at_once steps and a compilation; it is timed as if it were both.
      self._step_seconds = (self._clock() - start) / (until - done)
      done = until
      if done == steps:
        return state, losses
      if not np.all(np.isfinite(seen[:done])) or first_non_finite(state.params) is not None:
        return state, losses[:done]
      self._look(state, seen[:done])

  def _steps_of_a_piece(self, at_once: int) -> int:
    """Returns a multiple of `at_once`."""
    if self._step_seconds is None:
      return at_once
    wanted = PIECE_SECONDS / max(self._step_seconds, 1e-9) / at_once
    return at_once * max(1, int(min(wanted, 2 ** 30)))


def steps_at_once(steps: int) -> int:
  """Returns how many steps are taken before the host is asked: a divisor of `steps`."""
  return max(divisor for divisor in range(1, _STEPS_AT_ONCE + 1) if steps % divisor == 0)


def train_until(recipe: Recipe, state: TrainState, losses: Array, images: Array, targets: Any,
                until: Array | int) -> tuple[TrainState, Array]:
  """Takes the steps of the epoch that `state` is in up to number `until`, which may be traced.

  Args:
    losses: the NLL of each step of the epoch, float32 (steps,), of which those taken are right.
    until: counted from 0 in each epoch, not itself taken; a multiple of `steps_at_once(steps)`
      above the number of steps taken.

  Returns: (state, losses with those of the steps taken now).
  """
  steps = images.shape[0] // recipe.batch_size
  position = state.step % steps
  order = whole(recipe.mesh, epoch_order(recipe, state._replace(step=state.step - position),
                                         images.shape[0]))
  if CARRY in state.collections:                        # zeros at the start of an epoch
    carry = jax.tree.map(lambda leaf: jnp.where(position == 0, jnp.zeros_like(leaf), leaf),
                         state.collections[CARRY])
    state = state._replace(collections={**state.collections, CARRY: carry})
  count = steps_at_once(steps)

  def one(state, batch):
    return train_step(recipe, state, images[batch], jax.tree.map(lambda t: t[batch], targets))

  def several(loop):
    state, losses, i = loop
    state, found = jax.lax.scan(one, state, jax.lax.dynamic_slice_in_dim(order, i, count))
    return state, jax.lax.dynamic_update_slice_in_dim(losses, found, i, 0), i + count

  state, losses, _ = jax.lax.while_loop(lambda loop: loop[2] < until, several,
                                        (state, losses, position))
  return state, whole(recipe.mesh, losses)
