"""What a backend of the block-sparse product provides: three products on padded matrices.

The operation (`api.py`) pads ragged edges, checks shapes, owns the derivative and calls these. All
accumulate in float32 and return float32 or the dtype asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

ACTIVATIONS: dict[str | None, Callable[[Array], Array]] = {
    None: lambda z: z,
    'relu': jax.nn.relu,
    'gelu': jax.nn.gelu,
    'silu': jax.nn.silu,
    'tanh': jnp.tanh,
    'sigmoid': jax.nn.sigmoid,
}


class Epilogue(NamedTuple):
  """What follows the product: activation(z + bias) * output_gate.

  Attributes:
    bias, output_gate: (outputs,) or None. activation: a key of `ACTIVATIONS`.
  """

  bias: Array | None = None
  activation: str | None = None
  output_gate: Array | None = None

  def __call__(self, z: Array) -> Array:
    """Applies it to z (m, outputs), in the dtype of z."""
    if self.bias is not None:
      z = z + self.bias[None, :].astype(z.dtype)
    z = ACTIVATIONS[self.activation](z)
    if self.output_gate is not None:
      z = z * self.output_gate[None, :].astype(z.dtype)
    return z


class Problem(NamedTuple):
  """The static facts of one call.

  Attributes:
    m: rows of x. block: (b_in, b_out). grid: (rows, columns) of blocks. entries: stored blocks.
    dtype: of x and the blocks, by name. platform: 'cpu', 'tpu' or 'gpu'.
    device_kind: what JAX calls the device, such as 'TPU v5e'.
  """

  m: int
  block: tuple[int, int]
  grid: tuple[int, int]
  entries: int
  dtype: str
  platform: str
  device_kind: str = ''

  @property
  def transposed(self) -> Problem:
    """The problem of the product with the transpose."""
    return self._replace(block=self.block[::-1], grid=self.grid[::-1])


class Backend(NamedTuple):
  """One implementation. `x` is (m, rows * b_in), `g` is (m, columns * b_out), both padded.

  Attributes:
    matmul: (x, blocks, layout, problem, input_gate, epilogue, out_dtype) ->
      epilogue((x * input_gate) @ W), (m, columns * b_out). input_gate is (rows * b_in,) or None.
    transposed: (g, blocks, layout, problem, out_dtype) -> g @ W^T, (m, rows * b_in).
    weight_gradient: (x, g, layout, problem) -> x^T g at the entries, (n, b_in, b_out), float32.
      What it puts at fillers and padding is ignored.
    refuses: (problem) -> why it cannot run this problem, with the repair, or None.
  """

  matmul: Callable[..., Array]
  transposed: Callable[..., Array]
  weight_gradient: Callable[..., Array]
  refuses: Callable[[Problem], str | None]


def gated(x: Array, input_gate: Array | None) -> Array:
  """Returns x * input_gate in the dtype of x."""
  return x if input_gate is None else x * input_gate[None, :].astype(x.dtype)
