"""`Quantised`: a weight on an affine grid, stored as small integers, a scale and a zero point.

Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
inference", CVPR 2018, arXiv:1712.05877, eq. 1: r = S (q - Z). Ternary and binary weights with a
scale are of this kind too, with codes in {-1, 0, 1}.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from sparsejax.packed.coded import Coded

Array = jax.Array


@struct.dataclass
class Quantised(Coded):
  """The weight scale * (codes - zero_point), per tensor or per channel.

  Attributes:
    codes: of the weight's shape, (u)int8 or (u)int16.
    scale: float32, () or, one for each index of `axis`, (n,). A stack of layers, such as `nn.scan`
      takes apart, has one more leading axis here too.
    zero_point: int32 of the scale's shape: the code of 0. None is 0.
    axis: negative, the axis of the weight that has a scale for each index; None for one in all.
    dtype: of the weight it stands for.
  """

  codes: Array
  scale: Array
  zero_point: Array | None = None
  axis: int | None = struct.field(pytree_node=False, default=None)
  dtype: Any = struct.field(pytree_node=False, default=np.dtype(np.float32))

  if TYPE_CHECKING:     # struct.dataclass makes it, where a type checker does not look
    def replace(self, **changes: Any) -> Quantised: ...

  def to_dense(self) -> Array:
    wide = self.codes.astype(jnp.int32)
    if self.zero_point is not None:
      wide = wide - self._aligned(self.zero_point)
    return (wide.astype(jnp.float32) * self._aligned(self.scale)).astype(self.dtype)

  def look_up(self, rows: Array) -> Array:
    codes = jnp.take(self.codes, rows, axis=0, mode='wrap').reshape(-1, self.codes.shape[1])
    parts: list[Array | None] = [self.scale, self.zero_point]
    if self.axis == -2:       # a scale for each row
      parts = [None if part is None else jnp.take(part, rows.reshape(-1), mode='wrap')
               for part in parts]
    own = self.replace(codes=codes, scale=parts[0], zero_point=parts[1])
    return own.to_dense().reshape(*rows.shape, -1)

  def _aligned(self, numbers: Array) -> Array:
    """Returns a scale or zero point with the rank of the codes, to broadcast."""
    own = self.axis is not None
    stack = numbers.shape[:numbers.ndim - own]
    shape = [*stack] + [1] * (self.codes.ndim - len(stack))
    if self.axis is not None:
      shape[self.axis] = numbers.shape[-1]
    return numbers.reshape(shape)

  def to_tensors(self) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the codes, one integer each, for the file's coder to make bits of, and the scales."""
    tensors = {'codes': self.codes, 'scale': self.scale}
    if self.zero_point is not None:
      tensors['zero_point'] = self.zero_point
    return tensors, {'axis': self.axis, 'dtype': np.dtype(self.dtype).name}

  @classmethod
  def from_tensors(cls, tensors: dict[str, Any], facts: dict[str, Any]) -> Quantised:
    """The inverse.

    Raises:
      ValueError: for arrays that do not belong together.
    """
    codes, scale, axis = tensors['codes'], tensors['scale'], facts['axis']
    zero_point = tensors.get('zero_point')
    if facts['dtype'] not in ('float32', 'bfloat16', 'float16'):
      raise ValueError(f'a Quantised weight of dtype {facts["dtype"]!r} is no floating weight')
    if not np.issubdtype(codes.dtype, np.integer) or scale.dtype != np.float32:
      raise ValueError(f'codes are {codes.dtype} and scales {scale.dtype}; a Quantised weight has '
                       'integers and float32')
    channels = axis is not None
    fits = not channels or (type(axis) is int and -codes.ndim <= axis < 0 and scale.ndim > 0
                            and scale.shape[-1] == codes.shape[axis])
    stack = scale.shape[:scale.ndim - channels]
    if not fits or codes.shape[:len(stack)] != stack or (
        zero_point is not None and zero_point.shape != scale.shape):
      raise ValueError(f'scales of shape {scale.shape} with axis={axis} do not fit codes of shape '
                       f'{codes.shape}')
    return cls(codes, scale, zero_point, axis, jnp.dtype(facts['dtype']))
