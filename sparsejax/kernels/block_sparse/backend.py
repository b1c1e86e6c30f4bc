"""What a backend of the block-sparse product provides: three products on padded matrices.

The operation (`api.py`) pads ragged edges, checks shapes, owns the derivative and calls these. All
accumulate in float32 and return float32 or the dtype asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

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
    frozen: the input rows of each output column, () for a filler, where they are static: see
      `BlockSparse.freeze`.
  """

  m: int
  block: tuple[int, int]
  grid: tuple[int, int]
  entries: int
  dtype: str
  platform: str
  device_kind: str = ''
  frozen: tuple[tuple[int, ...], ...] | None = None

  @property
  def transposed(self) -> Problem:
    """The problem of the product with the transpose."""
    return self._replace(block=self.block[::-1], grid=self.grid[::-1], frozen=None)


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


def alike(tree: Any) -> Any:
  """Under shard_map, lets all arrays vary over each mesh axis that one of them varies over.

  The transpose of that cast is the sum over devices, so gradients of what they share are whole.
  """
  axes = frozenset().union(*(jax.typeof(a).mat.varying for a in jax.tree.leaves(tree)))
  return jax.tree.map(lambda a: _varying(a, axes), tree)


def varying_like(array: Array, like: Array) -> Array:
  """Returns an array that was made here, varying over the mesh axes that `like` varies over."""
  return _varying(array, jax.typeof(like).mat.varying)


def _varying(array: Array, axes: frozenset) -> Array:
  missing = tuple(sorted(axes - jax.typeof(array).mat.varying))
  return lax.pcast(array, missing, to='varying') if missing else array


def gated(x: Array, input_gate: Array | None) -> Array:
  """Returns x * input_gate in the dtype of x."""
  return x if input_gate is None else x * input_gate[None, :].astype(x.dtype)
