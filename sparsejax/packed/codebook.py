"""`Codebook`: a weight of few distinct values, stored as codes into them.

What sharing weights leaves (Han, Mao, Dally, 2016, arXiv:1510.00149; Ullrich, Meeds, Welling, 2017,
arXiv:1702.04008), and what ternary and binary weights are. The gradient with respect to a value is
the sum over its members, which is how a codebook is trained on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from sparsejax.packed.coded import Coded

Array = jax.Array


@struct.dataclass
class Codebook(Coded):
  """The weight values[codes].

  By convention a value that is exactly 0 has code 0: coders of files leave zeros out.

  Attributes:
    codes: of the weight's shape, in the smallest unsigned dtype that holds them.
    values: (K,), in the weight's dtype. A stack of layers, such as `nn.scan` takes apart, has
      values (layers, K) beside codes (layers, ...).
  """

  codes: Array
  values: Array

  if TYPE_CHECKING:     # struct.dataclass makes it, where a type checker does not look
    def replace(self, **changes: Any) -> Codebook: ...

  dtype = property(lambda self: self.values.dtype)

  @classmethod
  def from_codes(cls, codes: Any, values: Any) -> Codebook:
    """Stores codes in the smallest unsigned dtype for the number of values, on the host.

    Raises:
      ValueError: for codes that are no integers in [0, K), or values that do not fit beside them.
    """
    codes, values = np.asarray(codes), np.asarray(values)
    if not values.ndim or not values.size or codes.shape[:values.ndim - 1] != values.shape[:-1]:
      raise ValueError(f'values of shape {values.shape} do not fit codes of shape {codes.shape}; '
                       'pass (K,), or (layers, K) for a stack of layers')
    if not np.issubdtype(codes.dtype, np.integer):
      raise ValueError(f'codes are {codes.dtype}; they index the values: pass integers')
    count = values.shape[-1]
    if codes.size and not 0 <= codes.min() <= codes.max() < count:
      raise ValueError(f'codes lie between {codes.min()} and {codes.max()}, but there are {count} '
                       'values')
    return cls(jnp.asarray(codes.astype(np.min_scalar_type(count - 1))), jnp.asarray(values))

  @classmethod
  def from_dense(cls, weight: Any) -> Codebook:
    """Stores the distinct values of an array, zero first and the others ascending, on the host.

    -0.0 becomes 0.

    Raises:
      ValueError: for values that are not finite.
    """
    array = np.asarray(weight)
    if not np.all(np.isfinite(array)):
      raise ValueError('the weight holds values that are not finite, which no codebook orders')
    values, codes = np.unique(array, return_inverse=True)
    zero = np.flatnonzero(values == 0)
    if zero.size:
      order = np.concatenate([zero, np.delete(np.arange(values.size), zero)])
      values, codes = values[order], np.argsort(order)[codes]
      values[0] = 0
    return cls.from_codes(codes.reshape(array.shape), values)

  def to_dense(self) -> Array:
    return _decode(self.values, self.codes)

  def look_up(self, rows: Array) -> Array:
    return _decode(self.values, jnp.take(self.codes, rows, axis=0, mode='wrap'))

  @property
  def width(self) -> int:
    """Bits of a code of fixed width."""
    return math.ceil(math.log2(self.values.shape[-1]))

  def to_tensors(self) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the codes, one integer each, for the file's coder to make bits of, and the values."""
    return {'codes': self.codes, 'codebook': self.values}, {}

  @classmethod
  def from_tensors(cls, tensors: dict[str, Any], facts: dict[str, Any]) -> Codebook:
    del facts
    return cls.from_codes(tensors['codes'], tensors['codebook'])


def _decode(values: Array, codes: Array) -> Array:
  """Returns values[codes], layer by layer for stacked values."""
  if values.ndim == 1:
    return values[codes.astype(jnp.int32)]
  return jax.vmap(_decode)(values, codes)
