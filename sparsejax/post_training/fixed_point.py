"""Integer products and their requantisation, bit for bit the same on every device.

Jacob et al., 2018, arXiv:1712.05877, sections 2.2 and 2.3. With r = S (q - Z) for inputs, weights
and outputs,

  q3 = Z3 + M sum (q1 - Z1) (q2 - Z2),   M = S1 S2 / S3 = 2^-n M0,   M0 in [0.5, 1),

where M0 is stored as round(2^31 M0) in int32. The product with it has 64 bits, which JAX has not by
default: it is made of two words of 32. It is rounded once, at the end, to nearest with ties up;
gemmlowp, which the paper describes, rounds twice and can be off by one more.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

MAX_SHIFT = 62


def integer_product(inputs: Array, weights: Array, input_zero: Array | int = 0,
                    weight_zero: Array | int = 0) -> Array:
  """Returns sum_k (inputs - input_zero) (weights - weight_zero) in int32, by the codes themselves.

  N Z1 Z2 - Z1 colsum(q2) - Z2 rowsum(q1) + q1 q2 (eq. 7): no code is widened before the product.

  Args:
    inputs: (..., n) (u)int8. weights: (n, m) (u)int8.
    input_zero: integer, of all inputs. weight_zero: integer, or (m,) of each output.
  """
  contract = (((inputs.ndim - 1,), (0,)), ((), ()))
  if inputs.dtype == weights.dtype:
    product = jax.lax.dot_general(inputs, weights, contract, preferred_element_type=jnp.int32)
  else:
    product = jax.lax.dot_general(inputs.astype(jnp.int32), weights.astype(jnp.int32), contract)
  row = jnp.sum(inputs, axis=-1, keepdims=True, dtype=jnp.int32)
  column = jnp.sum(weights, axis=0, dtype=jnp.int32)
  input_zero = jnp.asarray(input_zero, jnp.int32)
  weight_zero = jnp.broadcast_to(jnp.asarray(weight_zero, jnp.int32), column.shape)
  constant = weights.shape[0] * input_zero * weight_zero - input_zero * column

  def per_output(vector):
    return vector.reshape((1,) * (product.ndim - 1) + vector.shape)
  return product + per_output(constant) - row * per_output(weight_zero)


def fixed_point(factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns int32 (multipliers, shifts) with multiplier 2^-shift = factor to 2^-31 relative.

  Args:
    factors: float64 in (0, 1], any shape. Below 2^-32 the multiplier is 0: no int32 gives as much
      as a half by it.

  Raises:
    ValueError: for a factor out of range.
  """
  factors = np.asarray(factors, np.float64)
  if not np.all((factors > 0) & (factors <= 1)):
    raise ValueError(f'factors between {factors.min()} and {factors.max()} must lie in (0, 1]: an '
                     'output grid finer than the sums it stands for')
  mantissas, exponents = np.frexp(factors)
  multipliers = np.rint(mantissas * 2.0**31).astype(np.int64)
  overflow = multipliers == 1 << 31              # rounded up to 1: 0.5 and one place more
  multipliers = np.where(overflow, 1 << 30, multipliers)
  shifts = 31 - exponents - overflow
  small = shifts > MAX_SHIFT
  return (np.where(small, 0, multipliers).astype(np.int32),
          np.where(small, MAX_SHIFT, shifts).astype(np.int32))


def requantise(sums: Array, multiplier: Array, shift: Array) -> Array:
  """Returns floor(sums multiplier 2^-shift + 1/2), exactly, in int32.

  Args:
    sums: (..., m) int32. multiplier, shift: (m,) int32 from `fixed_point`.
  """
  def per_output(vector):
    return jnp.broadcast_to(vector.reshape((1,) * (sums.ndim - 1) + vector.shape), sums.shape)
  high, low = _product(sums, per_output(multiplier))
  shift = per_output(shift)
  half = shift - 1
  one = jnp.uint32(1)
  half_low = jnp.where(half < 32, one << jnp.minimum(half, 31).astype(jnp.uint32), 0)
  half_high = jnp.where(half < 32, 0, one << jnp.maximum(half - 32, 0).astype(jnp.uint32))
  low = low + half_low
  high = high + half_high + (low < half_low).astype(jnp.uint32)
  # `fixed_point` gives shifts of 30 to 62, and the result fits, for factors are at most 1.
  far = jax.lax.bitcast_convert_type(high, jnp.int32) >> jnp.maximum(shift - 32, 0)
  near = (high << (32 - jnp.minimum(shift, 31)).astype(jnp.uint32)) | (
      low >> jnp.minimum(shift, 31).astype(jnp.uint32))
  return jnp.where(shift < 32, jax.lax.bitcast_convert_type(near, jnp.int32), far)


def _product(a: Array, b: Array) -> tuple[Array, Array]:
  """Returns the high and low words, uint32, of the 64-bit product of int32 `a` and `b` >= 0."""
  negative = a < 0
  bits = jax.lax.bitcast_convert_type(a, jnp.uint32)
  a_high, a_low = _halves(jnp.where(negative, ~bits + 1, bits))
  b_high, b_low = _halves(b.astype(jnp.uint32))
  lowest, cross, other = a_low * b_low, a_low * b_high, a_high * b_low
  middle = (lowest >> 16) + (cross & 0xFFFF) + (other & 0xFFFF)
  low = (middle << 16) | (lowest & 0xFFFF)
  high = a_high * b_high + (cross >> 16) + (other >> 16) + (middle >> 16)
  minus_low = ~low + 1
  minus_high = ~high + (minus_low == 0).astype(jnp.uint32)
  return jnp.where(negative, minus_high, high), jnp.where(negative, minus_low, low)


def _halves(word: Array) -> tuple[Array, Array]:
  return word >> 16, word & 0xFFFF
