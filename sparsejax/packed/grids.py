"""Grids of few bits: from an array to the codes of its nearest points, as a packed weight.

Each function takes a float array and returns the packed weight that stands for it, traceably, so
that rounding a trained network and training with rounded weights share one formula. Magnitudes and
scales are computed in float32. `axis` (negative) gives each index of that axis a scale of its own,
-1 for each output unit; None one scale to the whole array.

Jacob et al., 2018, arXiv:1712.05877 (affine); Rastegari et al., "XNOR-Net", 2016, arXiv:1603.05279
(uniform, sign with scales); Li, Zhang, Liu, "Ternary weight networks", 2016, arXiv:1605.04711.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.packed.codebook import Codebook
from sparsejax.packed.quantised import Quantised

Array = jax.Array
Grid = Callable[[Array], Quantised | Codebook]

MAX_BITS = 16


def affine(weight: Array, bits: int = 8, *, axis: int | None = None,
           signed: bool = True) -> Quantised:
  """The nearest of equally spaced points, 0 among them (Jacob et al., sections 2.1 and 3.1).

  Args:
    bits: 2 to 16.
    signed: codes in [-(2^(bits-1) - 1), 2^(bits-1) - 1] with zero point 0, the largest magnitude at
      the end. False: codes in [0, 2^bits - 1] over [min, max], widened to hold 0, with the zero
      point that this asks for, a whole number.

  Ties go to the even code.
  """
  require_bits(bits, 2)
  weight, dtype = jnp.asarray(weight, jnp.float32), jnp.asarray(weight).dtype
  if signed:
    levels = 2**(bits - 1) - 1
    scale = _positive(_over(jnp.max, jnp.abs(weight), axis)) / levels
    codes = jnp.clip(jnp.round(weight / scale), -levels, levels)
    return _quantised(codes, scale, axis, dtype, -levels, levels)
  levels = 2**bits - 1
  low = jnp.minimum(_over(jnp.min, weight, axis), 0.0)
  high = jnp.maximum(_over(jnp.max, weight, axis), 0.0)
  scale = _positive(high - low) / levels
  zero = jnp.clip(jnp.round(-low / scale), 0, levels)
  codes = jnp.clip(jnp.round(weight / scale) + zero, 0, levels)
  packed = _quantised(codes, scale, axis, dtype, 0, levels)
  return packed.replace(zero_point=zero.reshape(packed.scale.shape).astype(jnp.int32))


def uniform(weight: Array, bits: int, *, axis: int | None = None,
            bound: float | None = None) -> Quantised:
  """The nearest of 2^bits points over [-bound, bound], both ends included, 0 not (XNOR-Net, q_k).

  bound * (2 round((2^bits - 1) (w / bound + 1) / 2) / (2^bits - 1) - 1). Codes are the odd integers
  of magnitude below 2^bits. One bit is the sign, as `sign` has it.

  Args:
    bits: 1 to 15.
    bound: None takes the largest magnitude; weights beyond a smaller bound are clipped to it.
  """
  require_bits(bits, 1, MAX_BITS - 1)
  weight, dtype = jnp.asarray(weight, jnp.float32), jnp.asarray(weight).dtype
  steps = 2**bits - 1
  largest = _over(jnp.max, jnp.abs(weight), axis)
  reach = _positive(largest if bound is None else jnp.full_like(largest, bound))
  # Half a step up to the floor, not round: a tie, such as 0, goes up whatever its neighbours are.
  index = jnp.floor(steps * (weight / reach + 1) / 2 + 0.5)
  codes = 2 * jnp.clip(index, 0, steps) - steps
  return _quantised(codes, reach / steps, axis, dtype, -steps, steps)


def power_of_two(weight: Array, bits: int = 4) -> Codebook:
  """The nearest of 0 and +-2^e, for the 2^(bits-1) - 1 largest exponents e: products are shifts.

  The largest exponent is the one nearest to the largest magnitude. Ties go to the larger.

  Args:
    bits: 2 to 7; with more, the smallest powers are no normal float32 any longer.
  """
  require_bits(bits, 2, 7)
  array = jnp.asarray(weight)
  magnitude = jnp.abs(array.astype(jnp.float32))
  count = 2**(bits - 1) - 1
  top = _nearest_exponent(_positive(jnp.max(magnitude)))
  exponent = jnp.clip(_nearest_exponent(_positive(magnitude)), top - count + 1, top)
  negative = (array < 0).astype(jnp.int32)
  codes = 1 + 2 * (top - exponent) + negative
  # ldexp is exact, where exp2 need not be.
  small = magnitude < jnp.ldexp(jnp.float32(0.5), top - count + 1)
  powers = jnp.ldexp(jnp.ones((count,), jnp.float32), top - jnp.arange(count))
  values = jnp.concatenate([jnp.zeros((1,)), jnp.stack([powers, -powers], axis=1).reshape(-1)])
  return Codebook(jnp.where(small, 0, codes).astype(jnp.uint8), values.astype(array.dtype))


def ternary(weight: Array, *, axis: int | None = None, threshold: float | Array = 0.7) -> Quantised:
  """-a, 0 or a (ternary weight networks).

  0 where |w| <= threshold mean |w|; a is the mean |w| of the others, the best scale for them.
  """
  weight, dtype = jnp.asarray(weight, jnp.float32), jnp.asarray(weight).dtype
  magnitude = jnp.abs(weight)
  kept = magnitude > threshold * _over(jnp.mean, magnitude, axis)
  count = _over(jnp.sum, kept.astype(jnp.float32), axis)
  scale = _over(jnp.sum, jnp.where(kept, magnitude, 0.0), axis) / jnp.maximum(count, 1.0)
  return _quantised(jnp.where(kept, jnp.sign(weight), 0.0), scale, axis, dtype, -1, 1)


def sign(weight: Array, *, axis: int | None = None, scale: float | None = None) -> Quantised:
  """-a or a by the sign of the weight, a for 0.

  Args:
    scale: a itself; None takes the mean |w|, the best one (XNOR-Net, eq. 6).
  """
  weight, dtype = jnp.asarray(weight, jnp.float32), jnp.asarray(weight).dtype
  mean = _over(jnp.mean, jnp.abs(weight), axis)
  codes = jnp.where(weight >= 0, 1.0, -1.0)
  return _quantised(codes, mean if scale is None else jnp.full_like(mean, scale), axis, dtype,
                    -1, 1)


def require_bits(bits: int, low: int, high: int = MAX_BITS) -> None:
  """Raises ValueError unless `bits` is an integer in [low, high]."""
  if not isinstance(bits, int) or not low <= bits <= high:
    raise ValueError(f'bits={bits!r} must be an integer between {low} and {high}')


def _over(reduce: Callable, array: Array, axis: int | None) -> Array:
  """Reduces over all axes but `axis`, which stay with length 1."""
  if axis is not None and not -array.ndim <= axis < 0:
    raise ValueError(f'axis={axis} is no axis of a weight of shape {array.shape}; count from the '
                     'end: -1 is the output unit')
  kept = None if axis is None else array.ndim + axis
  return reduce(array, axis=tuple(i for i in range(array.ndim) if i != kept), keepdims=True)


def _positive(largest: Array) -> Array:
  """Returns the numbers with 1 in the place of 0: the scale of a group of zeros does not matter."""
  return jnp.where(largest > 0, largest, 1.0)


def _nearest_exponent(magnitude: Array) -> Array:
  """Returns e of the power of two nearest to each positive number: from 1.5 * 2^e on, e + 1."""
  mantissa, exponent = jnp.frexp(magnitude)       # mantissa in [0.5, 1)
  return exponent - 1 + (mantissa >= 0.75).astype(jnp.int32)


def _quantised(codes: Array, scale: Array, axis: int | None, dtype: np.dtype, low: int,
               high: int) -> Quantised:
  """Stores whole numbers in [low, high] in the smallest integers that hold both."""
  smallest = next(kind for kind in (np.uint8, np.int8, np.uint16, np.int16)
                  if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
  return Quantised(codes.astype(smallest), scale.reshape(() if axis is None else (-1,)), None, axis,
                   np.dtype(dtype))
