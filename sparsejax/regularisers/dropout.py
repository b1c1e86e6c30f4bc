"""Binary dropout as a regulariser: Bernoulli gates on the inputs or outputs of a layer.

Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, 2014. Gates are inverted (scaled by
1 / (1 - rate)), so the deployed weights are the trained ones. With per='batch' it is a form of
DropConnect with whole rows (Wan et al., 2013).
"""

from __future__ import annotations

import jax

from sparsejax.gates import AxisLike, place_gates
from sparsejax.paths import flatten, fold, unflatten
from sparsejax.regulariser import (Number, Regulariser, advance_numbers, initial_numbers,
                                   require_fraction)
from sparsejax.structured import Gated

Array = jax.Array


def sample(key: Array, shape: tuple[int, ...], rate: Array) -> Array:
  """Draws gates that are 0 with probability `rate` and 1 / (1 - rate) otherwise."""
  kept = jax.random.uniform(key, shape) >= rate
  return kept / (1 - rate)


def dropout(rate: Number, *, axis: AxisLike = -2, tied: bool = False,
            per: str = 'example') -> Regulariser:
  """Dropout on slices of kernels; no penalty.

  Args:
    rate: probability of dropping, in [0, 1). A number, traced array or schedule.
    axis: -2 drops inputs of a layer, -1 its outputs; or {path pattern: axis}.
    tied: one gate per index shared by all leaves of the rule.
    per: 'example' or 'batch'.

  Raises:
    ValueError: for a concrete rate outside [0, 1), or an unknown `per`.
  """
  if per not in ('batch', 'example'):
    raise ValueError(f"per={per!r} is not 'batch' or 'example'")
  require_fraction(rate=rate)

  def init(key, weights):
    del key
    place_gates(weights, axis, tied)
    return weights, initial_numbers(rate=rate)

  def weights(params, state, key=None):
    if key is None:
      return params
    places = place_gates(params, axis, tied)
    drawn = {}
    for path, leaf in flatten(params).items():
      place = places[path]
      draw_key = fold(key, place.home)
      if per == 'example':
        drawn[path] = Gated(leaf, (state['rate'],), draw_key, sample, place.axis, place.positions)
      else:
        gates = sample(draw_key, (place.units,), state['rate'])
        drawn[path] = leaf * place.spread(gates).astype(leaf.dtype)
    return unflatten(drawn)

  def update(params, state, *, step, weight_grads=None, key=None):
    del weight_grads, key
    return params, advance_numbers(state, step, rate=rate)

  return Regulariser(init, weights, update=update)
