"""Magnitude pruning without memory: the mask of the present dense weights, at every forward pass.

The gradient passes straight through the mask to all weights (Bengio, Leonard, Courville, 2013,
arXiv:1308.3432), so that what was cut too early goes on learning and may come back: Lin, Stich,
Barba, Dmitriev, Jaggi, "Dynamic model pruning with feedback", 2020, arXiv:2006.07253. They renew
the mask every 16 steps; here it is renewed at each.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.paths import Tree, flatten, map_leaves
from sparsejax.regulariser import (Number, Regulariser, advance_numbers, initial_numbers,
                                   require_fraction)
from sparsejax.regularisers.magnitude import (Granularity, erdos_renyi_kernel_densities,
                                              expand_structures, kth_threshold, structure_scores)

Array = jax.Array


def straight_through_magnitude(
    sparsity: Number,
    *,
    granularity: Granularity = 'weight',
    allocation: str = 'global',
) -> Regulariser:
  """Computes with the largest weights or structures, and trains them all; no penalty.

  Args:
    sparsity: fraction of weights cut, in [0, 1); a number, traced array or schedule.
    granularity: 'weight'; 'row' (input unit, axis -2); 'column' (output unit, axis -1); or a block
      (b_in, b_out) of the last two axes.
    allocation: 'global' (one threshold on the root mean square of every structure), 'uniform' or
      'erk', as for `magnitude_pruning`; the last two keep at least one structure of each leaf.
      Structures of the same size as the threshold go together.

  State: `sparsity`. There is no mask in it: a decay of the weights, or an average of them, changes
  what is cut.

  Raises:
    ValueError: for a concrete sparsity outside [0, 1), an unknown option, or, from `init`, a
      structure that does not fit a leaf.
  """
  require_fraction(sparsity=sparsity)
  _require_known(granularity, allocation)
  numbers = {'sparsity': sparsity}

  def init(key, weights):
    del key
    for path, leaf in flatten(weights).items():
      _require_fits(path, leaf.shape, granularity)
    return weights, initial_numbers(**numbers)

  def weights(params, state, key=None):
    del key
    dense = jax.lax.stop_gradient(params)
    mask = largest_structures(dense, state['sparsity'], granularity, allocation)

    def through(w, fixed, kept):
      # Exactly w or 0, for w - w = 0 and w + (0 - w) = 0, with the derivative of w.
      return w + (jnp.where(kept, fixed, jnp.zeros_like(fixed)) - fixed)
    return jax.tree.map(through, params, dense, mask)

  def update(params, state, *, step, weight_grads=None, key=None):
    del weight_grads, key
    return params, advance_numbers(state, step, **numbers)

  return Regulariser(init, weights, update=update)


def largest_structures(weights: Tree, sparsity: Array, granularity: Granularity,
                       allocation: str) -> Tree:
  """Returns the tree of bool masks that keep the largest structures."""
  scores = {path: structure_scores(leaf, granularity) for path, leaf in flatten(weights).items()}
  shapes = {path: leaf.shape for path, leaf in flatten(weights).items()}
  if allocation == 'global':
    sizes = {path: float(np.prod(shapes[path])) / score.size for path, score in scores.items()}
    thresholds = dict.fromkeys(scores, kth_threshold(scores, sizes, sparsity))
  else:
    densities = (erdos_renyi_kernel_densities(shapes, 1 - sparsity) if allocation == 'erk' else
                 dict.fromkeys(scores, 1 - sparsity))
    thresholds = {
        path: kth_threshold({path: score}, {path: 1.0},
                            jnp.minimum(1 - densities[path], 1 - 1 / score.size))
        for path, score in scores.items()}
  return map_leaves(
      lambda path, leaf: expand_structures(scores[path] > thresholds[path], leaf.shape,
                                           granularity), weights)


def _require_known(granularity: Any, allocation: str) -> None:
  if allocation not in ('uniform', 'erk', 'global'):
    raise ValueError(f"allocation={allocation!r} is not 'uniform', 'erk' or 'global'")
  named = granularity in ('weight', 'row', 'column')
  if not named and (isinstance(granularity, str) or len(granularity) != 2 or min(granularity) < 1):
    raise ValueError(f"granularity={granularity!r} is not 'weight', 'row', 'column' or a block "
                     '(b_in, b_out) of positive sizes')


def _require_fits(path: str, shape: tuple[int, ...], granularity: Granularity) -> None:
  if granularity != 'weight' and len(shape) < 2:
    raise ValueError(f'granularity {granularity!r} needs two axes, but {path} is {shape}; leave it '
                     "out of the rule or use granularity='weight'")
  if not isinstance(granularity, str) and (
      shape[-2] % granularity[0] or shape[-1] % granularity[1]):
    raise ValueError(f'block {granularity} does not divide the last two axes of {path} {shape}; '
                     'choose divisors of them')
