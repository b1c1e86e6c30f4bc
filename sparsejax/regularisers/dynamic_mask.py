"""Masks that move in training: what SET and RigL share, all but the choice of what grows.

Every so many steps a fraction of each leaf's live weights is dropped, those of smallest magnitude,
and as many are grown, so that each leaf keeps exactly the number of weights it started with. All
choices are by rank, ties in order of index, so that no tie changes a count. The mask multiplies the
weights wherever they are read, and the parameters of dead weights are held at zero: a grown weight
starts from exactly zero whatever momentum and decay did meanwhile. Its moments in the optimiser are
not reset; its gradient was zero while it was dead, so they have faded by then. Where its gradient
is zero for ever, behind a pixel that is always black, it stays zero: a deployed network may have
fewer non-zero weights than its mask keeps.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sparsejax.paths import Tree, map_leaves
from sparsejax.regulariser import (Number, Regulariser, advance_numbers, initial_numbers,
                                   require_fraction)
from sparsejax.regularisers.static_mask import (Density, kept_counts, masked, random_masks,
                                                require_densities)

Array = jax.Array


def dynamic_mask(
    growth_scores: Callable[[Tree, Tree | None, Array | None], Tree],
    *,
    density: Density,
    fraction: Number,
    every: int,
    end: int | None,
    allocation: str,
    dropped_may_return: bool,
    needs_weight_grads: bool,
) -> Regulariser:
  """Returns the method that grows weights by `growth_scores`.

  Args:
    growth_scores: (mask, weight_grads, key) -> scores, trees of the weights' shapes. Finite, not
      negative; the largest grow. Called at the updates only.
    density, allocation: of the random mask it starts from, see `static_mask`.
    fraction: of the live weights dropped at an update, in [0, 1); a number or a schedule.
    every: updates come after every `every` optimiser steps; none after `end` steps or later.
    dropped_may_return: whether what an update drops may be grown by the same update. It then never
      left: its parameter stays as it is.
    needs_weight_grads: whether `growth_scores` reads the gradients.

  State: `mask` (bool, the weights' shapes; True keeps) and `fraction`.
  """
  require_densities(density, allocation)
  require_fraction(fraction=fraction)
  if every < 1 or (end is not None and end < 1):
    raise ValueError(f'every={every} and end={end} must be at least 1, in steps')

  def init(key, weights):
    mask = random_masks(key, weights, kept_counts(weights, density, allocation))
    return masked(weights, mask), {'mask': mask, **initial_numbers(fraction=fraction)}

  def weights(params, state, key=None):
    del key
    return masked(params, state['mask'])

  def update(params, state, *, step, weight_grads=None, key=None):
    state = advance_numbers(state, step, fraction=fraction)
    taken = step + 1
    due = taken % every == 0
    if end is not None:
      due = due & (taken < end)

    def move(mask):
      scores = growth_scores(mask, weight_grads, key)
      return map_leaves(
          lambda path, live, w, score: exchange(live, jnp.abs(w.astype(jnp.float32)), score,
                                                state['fraction'], dropped_may_return),
          mask, params, scores)

    mask = jax.lax.cond(due, move, lambda mask: mask, state['mask'])
    # What is dead, or was until now, is zero: momentum and decay move parameters under the mask.
    held = jax.tree.map(jnp.logical_and, mask, state['mask'])
    return masked(params, held), {**state, 'mask': mask}

  return Regulariser(init, weights, update=update, needs_weight_grads=needs_weight_grads)


def exchange(live: Array, magnitudes: Array, growth_scores: Array, fraction: Array,
             dropped_may_return: bool) -> Array:
  """Returns the mask after round(fraction * live) weights are dropped and as many grown.

  Fewer are exchanged where fewer weights are dead than would be grown.

  Args:
    live: bool mask. magnitudes, growth_scores: not negative, of its shape.
    fraction: scalar in [0, 1). dropped_may_return: see `dynamic_mask`.
  """
  number = jnp.sum(live)
  moved = jnp.round(fraction * number).astype(number.dtype)
  if not dropped_may_return:
    moved = jnp.minimum(moved, live.size - number)
  kept = largest(jnp.where(live, magnitudes, -1.0), number - moved)
  candidates = ~(kept if dropped_may_return else live)
  return kept | largest(jnp.where(candidates, growth_scores, -1.0), moved)


def largest(scores: Array, count: Array | int) -> Array:
  """Returns the mask of exactly `count` largest scores; of equal ones, those of lowest index."""
  order = jnp.argsort(scores.reshape(-1), stable=True, descending=True)
  taken = jnp.arange(scores.size) < count
  return jnp.zeros(scores.size, bool).at[order].set(taken).reshape(scores.shape)
