"""Group lasso: strength * sum over groups of sqrt(group size) * ||w_group||_2.

Yuan and Lin, "Model selection and estimation in regression with grouped variables", 2006. Under a
subgradient method groups come near zero, not to it: deployed groups whose norm per weight falls
below `threshold` are zero.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparsejax.gates import AxisLike, place_gates
from sparsejax.paths import flatten, map_leaves
from sparsejax.regulariser import (Number, Regulariser, advance_numbers, initial_numbers,
                                   require_nonnegative)

Array = jax.Array

NORM_EPSILON = 1e-12  # keeps the gradient of the norm finite at a zero group


def group_squares(w: Array, axis: int) -> Array:
  """Returns the sum of squares of each slice along `axis`, shape (w.shape[axis],), float32."""
  others = tuple(i for i in range(w.ndim) if i != axis % w.ndim)
  return jnp.sum(jnp.square(w.astype(jnp.float32)), others)


def group_lasso(strength: Number, axis: AxisLike = -2, threshold: Number = 1e-3) -> Regulariser:
  """Group lasso over slices of each leaf.

  Args:
    strength: nats per unit of sqrt(size) * norm, for the whole data set.
    axis: group axis: -1 groups by output unit, -2 by input unit; or {path pattern: axis}.
    threshold: deployed groups with ||w_g|| / sqrt(size) below it are zero: a root mean square
      weight. Choose it on validation data.
  """
  require_nonnegative(strength=strength, threshold=threshold)
  numbers = {'strength': strength, 'threshold': threshold}

  def init(key, weights):
    del key
    place_gates(weights, axis)
    return weights, initial_numbers(**numbers)

  def weights(params, state, key=None):
    if key is not None:
      return params
    places = place_gates(params, axis)

    def deployed(path, w):
      place = places[path]
      mean_square = group_squares(w, place.axis) * place.units / w.size
      kept = place.spread(mean_square >= jnp.square(state['threshold']))
      return jnp.where(kept, w, jnp.zeros_like(w))
    return map_leaves(deployed, params)

  def penalty(params, state, key=None):
    del key
    places = place_gates(params, axis)
    total = jnp.zeros(())
    for path, w in flatten(params).items():
      size = w.size // places[path].units
      total += jnp.sqrt(size * group_squares(w, places[path].axis) + NORM_EPSILON).sum()
    return state['strength'] * total

  def update(params, state, *, step, weight_grads=None, key=None):
    del weight_grads, key
    return params, advance_numbers(state, step, **numbers)

  return Regulariser(init, weights, penalty, update)
