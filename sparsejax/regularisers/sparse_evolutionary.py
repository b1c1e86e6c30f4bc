"""Sparse evolutionary training (SET): drop by magnitude, grow at random.

Mocanu, Mocanu, Stone, Nguyen, Gibescu, Liotta, "Scalable training of artificial neural networks
with adaptive sparse connectivity inspired by network science", Nature Communications 9, 2018,
arXiv:1707.04780, algorithm 1. Where we differ: the paper drops a fraction of the smallest positive
weights and the same fraction of the largest negative ones, each by itself, while here both signs
share one ranking of magnitudes; grown weights start from zero; and updates come every so many
steps, not once an epoch.
"""

from __future__ import annotations

from typing import cast

import jax

from sparsejax.paths import fold, map_leaves
from sparsejax.regulariser import Number, Regulariser
from sparsejax.regularisers.dynamic_mask import dynamic_mask
from sparsejax.regularisers.static_mask import Density

Array = jax.Array


def sparse_evolutionary_training(
    density: Density,
    *,
    fraction: Number = 0.3,
    every: int,
    end: int | None = None,
    allocation: str = 'erk',
) -> Regulariser:
  """Keeps the number of weights of each leaf and moves some of them to random places.

  Nothing that an update drops is grown by the same update. No penalty.

  Args:
    density: fraction of weights kept, in (0, 1], or {leaf path: density}; see `static_mask`.
    fraction: of each leaf's live weights moved at an update, the paper's zeta, in [0, 1). A number,
      traced array or schedule.
    every: optimiser steps between updates. end: no update after that many steps or later; None
      never stops, while the paper grows nothing after the last epoch.
    allocation: 'erk' or 'uniform', of a number.

  State: `mask` (bool, the weights' shapes; True keeps) and `fraction`.

  Raises:
    ValueError: for options that make no sense, and from `update` without a key.
  """

  def random_scores(mask, weight_grads, key):
    del weight_grads
    if key is None:
      raise ValueError('sparse_evolutionary_training grows weights at random; give update the key '
                       'of the step')
    return map_leaves(
        lambda path, live: jax.random.uniform(cast(Array, fold(key, f'grow/{path}')), live.shape),
        mask)

  return dynamic_mask(random_scores, density=density, fraction=fraction, every=every, end=end,
                      allocation=allocation, dropped_may_return=False, needs_weight_grads=False)
