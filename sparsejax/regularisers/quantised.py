"""Training with weights of few bits: rounded in the forward pass, real where they are trained.

The derivative of rounding is replaced by a slope, 1 where nothing else is said (straight through;
Bengio, Leonard, Courville, 2013, arXiv:1308.3432). Deployed weights are packed: `Quantised`, or
`Codebook`.

* affine and uniform grids: Jacob et al., 2018, arXiv:1712.05877; the range is that of the weights
  as they are, so that none lies outside;
* powers of two; ternary weights: Li, Zhang, Liu, 2016, arXiv:1605.04711;
* trained ternary quantisation: Zhu, Han, Mao, Dally, ICLR 2017, arXiv:1612.01064;
* BinaryConnect: Courbariaux, Bengio, David, 2015, arXiv:1511.00363;
* binary weights with a scale: Rastegari et al., "XNOR-Net", 2016, arXiv:1603.05279.

None has a penalty. Decay of the real weights pulls them towards the threshold between two codes, so
leave it off for signs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.packed import grids
from sparsejax.packed.codebook import Codebook
from sparsejax.paths import Tree, flatten, fold, map_leaves, unflatten
from sparsejax.packed.quantised import Quantised
from sparsejax.regulariser import (Number, Regulariser, advance_numbers, initial_numbers,
                                   require_fraction, require_nonnegative)

Array = jax.Array

DEPLOYED = ('sign', 'real')


def affine_weights(bits: int = 8, *, axis: int | None = None, signed: bool = True) -> Regulariser:
  """Weights on an affine grid; 0 stays exactly 0. See `grids.affine` for the arguments."""
  grids.require_bits(bits, 2)
  return _rounded(lambda w, state: grids.affine(w, bits, axis=axis, signed=signed))


def uniform_weights(bits: int, *, axis: int | None = None,
                    bound: float | None = None) -> Regulariser:
  """Weights on 2^bits equally spaced points, 0 not among them. See `grids.uniform`.

  Args:
    bound: weights beyond it are clipped, and get no gradient. None takes the largest magnitude.
  """
  grids.require_bits(bits, 1, grids.MAX_BITS - 1)
  _require_positive(bound=bound)

  def inside(w, packed):
    del packed
    return jnp.ones_like(w) if bound is None else (jnp.abs(w) <= bound).astype(w.dtype)
  return _rounded(lambda w, state: grids.uniform(w, bits, axis=axis, bound=bound), inside)


def power_of_two_weights(bits: int = 4) -> Regulariser:
  """Weights that are 0 or plus or minus a power of two. See `grids.power_of_two`."""
  grids.require_bits(bits, 2, 7)
  return _rounded(lambda w, state: grids.power_of_two(w, bits))


def ternary_weights(threshold: Number = 0.7, *, axis: int | None = None) -> Regulariser:
  """Ternary weight networks: -a, 0 or a, with the best a for those beyond the threshold.

  Args:
    threshold: 0 where |w| <= threshold mean |w|; in [0, 1). A number, traced array or schedule.
    axis: that has an a for each index; None for one in all.

  State: threshold.
  """
  require_fraction(threshold=threshold)
  return _rounded(lambda w, state: grids.ternary(w, axis=axis, threshold=state['threshold']),
                  threshold=threshold)


def binary_weights(*, axis: int | None = -1) -> Regulariser:
  """The binary weights of XNOR-Net: plus or minus the mean |w| of each output unit.

  The slope is the paper's 1 / n + a 1[|w| <= 1], for the n weights that share the scale a; it
  leaves out what passes from one weight to another through their scale, as the paper does.
  """
  def slope(w, packed):
    alpha = packed.replace(codes=jnp.ones_like(packed.codes)).to_dense()
    return packed.scale.size / w.size + alpha * (jnp.abs(w) <= 1)
  return _rounded(lambda w, state: grids.sign(w, axis=axis), slope)


def binary_connect(*, stochastic: bool = False, bound: float = 1.0,
                   deployed: str = 'sign') -> Regulariser:
  """BinaryConnect: weights of plus or minus `bound`, by sign or at random.

  After each step the real weights are clipped to [-bound, bound]. The paper divides the learning
  rate of each layer by Glorot's coefficient, sqrt(1.5 / (inputs + outputs)): `optax.masked`.

  Args:
    stochastic: draws +bound with probability clip((w / bound + 1) / 2, 0, 1), so that the mean is
      w; otherwise the sign, + for 0, with or without a key.
    bound: H of the authors' code, 1 there.
    deployed: 'sign', binary; or 'real', the real weights, with which the paper tests networks
      trained stochastically.

  Raises:
    ValueError: for a bound that is not positive, or 'real' weights of a deterministic training.
  """
  _require_positive(bound=bound)
  if deployed not in DEPLOYED or deployed == 'real' and not stochastic:
    raise ValueError(f"deployed={deployed!r} with stochastic={stochastic}: use 'sign', or 'real' "
                     'for a stochastic training')

  def by_sign(w, state):
    del state
    return grids.sign(w, scale=bound)
  rounded = _rounded(by_sign)

  def weights(params, state, key=None):
    if key is None and deployed == 'real':
      return params
    if key is None or not stochastic:
      return rounded.weights(params, state)

    def draw(path, w):
      up = jax.random.uniform(fold(key, path), w.shape) < (w.astype(jnp.float32) / bound + 1) / 2
      return _through(w, jnp.where(up, bound, -bound).astype(w.dtype), 1.0)
    return map_leaves(draw, params)

  def update(params, state, *, step, weight_grads=None, key=None):
    del step, weight_grads, key
    return jax.tree.map(lambda w: jnp.clip(w, -bound, bound), params), state

  finalise = None if deployed == 'real' else rounded.finalise
  return Regulariser(rounded.init, weights, update=update, finalise=finalise)


def trained_ternary_weights(threshold: Number = 0.05) -> Regulariser:
  """Trained ternary quantisation: -W_n, 0 or W_p, both scales of a leaf trained along.

  W_p is the gradient's sum over the weights above the threshold, W_n's minus that over those below.
  The slope of a real weight is W_p, 1 or W_n in the three zones.

  Args:
    threshold: 0 where |w| <= threshold max |w|; in [0, 1). A number, traced array or schedule.

  Trained: `weight`, and float32 `scale/positive` and `scale/negative` under the path of each leaf,
  with its rank and length 1. They start as the means of the magnitudes that they stand for. State:
  threshold.
  """
  require_fraction(threshold=threshold)
  numbers = {'threshold': threshold}

  def init(key, weights):
    del key
    state = initial_numbers(**numbers)
    return {'weight': weights, 'scale': {
        side: map_leaves(lambda path, w: _mean_beyond(flip * w.astype(jnp.float32),  # noqa: B023
                                                      _limit(w, state)), weights)
        for side, flip in (('positive', 1), ('negative', -1))}}, state

  def weights(params, state, key=None):
    del key
    positive, negative = (flatten(params['scale'][side]) for side in ('positive', 'negative'))

    def ternary(path, w):
      above, below = _zones(w, state)
      value = jnp.where(above, positive[path], jnp.where(below, -negative[path], 0.0))
      slope = jnp.where(above, positive[path], jnp.where(below, negative[path], 1.0))
      return _through(w, value.astype(w.dtype), jax.lax.stop_gradient(slope).astype(w.dtype))
    return map_leaves(ternary, params['weight'])

  def update(params, state, *, step, weight_grads=None, key=None):
    del weight_grads, key
    return params, advance_numbers(state, step, **numbers)

  def finalise(params, state):
    positive, negative = (flatten(params['scale'][side]) for side in ('positive', 'negative'))

    def packed(path, w):
      above, below = _zones(w, state)
      values = jnp.stack([jnp.zeros(()), positive[path].reshape(()), -negative[path].reshape(())])
      codes = jnp.where(above, 1, jnp.where(below, 2, 0)).astype(jnp.uint8)
      return jax.device_get(Codebook(codes, values.astype(w.dtype)))
    return map_leaves(packed, params['weight'])

  return Regulariser(init, weights, update=update, finalise=finalise)


def _rounded(grid: Callable[[Array, Tree], Quantised | Codebook],
             slope: Callable[[Array, Any], Array] | None = None, **numbers: Number) -> Regulariser:
  """Rounds to a grid (weight, state) -> packed, with slope(weight, packed), 1 by default."""
  def init(key, weights):
    del key
    return weights, initial_numbers(**numbers)

  def weights(params, state, key=None):
    del key

    def rounded(w):
      fixed = jax.lax.stop_gradient(w)
      packed = grid(fixed, state)
      return _through(w, packed.to_dense(), 1.0 if slope is None else slope(fixed, packed))
    return jax.tree.map(rounded, params)

  def update(params, state, *, step, weight_grads=None, key=None):
    del weight_grads, key
    return params, advance_numbers(state, step, **numbers)

  def finalise(params, state):
    return unflatten({path: jax.device_get(grid(jnp.asarray(w), state))
                      for path, w in flatten(params).items()})

  return Regulariser(init, weights, update=update, finalise=finalise)


def _through(w: Array, value: Array, slope: Array | float) -> Array:
  """Returns exactly `value`, for w - w = 0, with the derivative `slope` in w."""
  slope = jnp.asarray(slope, w.dtype)
  return value + slope * (w - jax.lax.stop_gradient(w))


def _limit(w: Array, state: Tree) -> Array:
  return state['threshold'] * jnp.max(jnp.abs(w.astype(jnp.float32)))


def _zones(w: Array, state: Tree) -> tuple[Array, Array]:
  """Returns the masks of the weights above the threshold and below minus the threshold."""
  wide, limit = jax.lax.stop_gradient(w.astype(jnp.float32)), _limit(w, state)
  return wide > limit, wide < -limit


def _mean_beyond(w: Array, limit: Array) -> Array:
  """Returns the mean of the entries above the limit, or 1 if there is none, of the rank of w."""
  above = w > limit
  count = jnp.sum(above)
  total = jnp.sum(jnp.where(above, w, 0.0))
  mean = jnp.where(count > 0, total / jnp.maximum(count, 1), 1.0)
  return mean.reshape((1,) * w.ndim)


def _require_positive(**numbers: float | None) -> None:
  for name, number in numbers.items():
    if number is not None:
      require_nonnegative(**{name: number})
      if not np.all(np.asarray(number) > 0):
        raise ValueError(f'{name}={number} must be positive')
