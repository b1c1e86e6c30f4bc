"""RigL: drop by magnitude, grow where the dense gradient is largest.

Evci, Gale, Menick, Castro, Elsen, "Rigging the lottery: making all tickets winners", 2020,
arXiv:1911.11134, algorithm 1 and section 3. As there, the fraction exchanged decays as
fraction / 2 (1 + cos(pi t / end)), and what an update drops is a candidate for growth again; if it
is grown it keeps its value, as in the authors' code. Where we differ: the step whose gradients
choose is taken all the same (the paper has it skipped), and which leaves stay dense (the first one
in the paper's 'uniform') is for the rules of `partition` to say.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparsejax.regulariser import Regulariser, require_fraction
from sparsejax.regularisers.dynamic_mask import dynamic_mask
from sparsejax.regularisers.static_mask import Density


def rigl(
    density: Density,
    *,
    fraction: float = 0.3,
    every: int = 100,
    end: int,
    allocation: str = 'erk',
) -> Regulariser:
  """Keeps the number of weights of each leaf and moves some of them to where the loss falls most.

  The trainer passes gradients with respect to the drawn weights, zeros included; they are read only
  at the updates. No penalty.

  Args:
    density: fraction of weights kept, in (0, 1], or {leaf path: density}; see `static_mask`.
    fraction: of each leaf's live weights exchanged at first, the paper's alpha, in [0, 1).
    every: optimiser steps between updates. end: steps after which nothing moves any more, three
      quarters of the training in the paper.
    allocation: 'erk' or 'uniform', of a number.

  State: `mask` (bool, the weights' shapes; True keeps) and `fraction`, decayed.

  Raises:
    ValueError: for options that make no sense, and from `update` without gradients.
  """
  require_fraction(fraction=fraction)

  def decayed(step):
    progress = jnp.minimum(step / end, 1.0)
    return fraction / 2 * (1 + jnp.cos(jnp.pi * progress))

  def gradient_magnitudes(mask, weight_grads, key):
    del mask, key
    if weight_grads is None:
      raise ValueError('rigl grows weights by their gradients; give update weight_grads, the '
                       'gradients with respect to the drawn weights')
    return jax.tree.map(lambda g: jnp.abs(g.astype(jnp.float32)), weight_grads)

  return dynamic_mask(gradient_magnitudes, density=density, fraction=decayed, every=every, end=end,
                      allocation=allocation, dropped_may_return=True, needs_weight_grads=True)
