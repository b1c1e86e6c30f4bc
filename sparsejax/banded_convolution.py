"""Two-dimensional convolution of stride 1 that trains fast on XLA:CPU, several columns a product.

Patches of one output pixel make thin products and copy each input pixel window-size times. Here
`columns` neighbouring outputs of a row share one wider patch, and the kernel becomes a band: copy q
of it, for output column q of the group, lies q pixels to the right, with zeros around it. Fewer
copies and wider products pay for multiplying by the zeros.

The derivative is written out, because the one JAX derives pads and adds window-size arrays as large
as the input. So reverse mode works under jit, vmap, scan and checkpoint, and once: JAX refuses
forward mode (jvp, linearize) through a custom VJP.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

# Multiply-adds that take as long as copying one number into a patch. An estimate: it gives 2
# columns to conv1 of LeNet-5, the fastest of 1, 2 and 4; conv0 takes the same time from 2 to 12.
COPY_COST = 60


def group_width(window: int, filters: int, outputs: int) -> int:
  """Returns how many output columns one product should give.

  With q of them a product takes (q + window - 1) * (filters + COPY_COST / q) units of time per
  output pixel, row of the window and channel; the minimum over q is at the root below.

  Args:
    window: width of the kernel. filters: channels of the output. outputs: width of the output.
  """
  best = round(math.sqrt(COPY_COST * (window - 1) / filters))
  groups = -(-outputs // max(best, 1))
  return -(-outputs // groups)       # the least with as many groups: fewest columns beyond the edge


def convolve(x: Array, kernel: Array, columns: int | None = None, precision: Any = None) -> Array:
  """Returns the VALID convolution of stride 1, (batch, H - wy + 1, W - wx + 1, filters).

  Args:
    x: (batch, H, W, channels), no smaller than the window.
    kernel: (wy, wx, channels, filters), of the same floating type as x.
    columns: output columns in one product; None asks `group_width`.
    precision: as `lax.dot_general` takes it.
  """
  (wy, wx), filters = kernel.shape[:2], kernel.shape[3]
  batch, height, width, _ = x.shape
  outputs = width - wx + 1
  columns = columns or group_width(wx, filters, outputs)
  groups = -(-outputs // columns)
  blocks = groups + _blocks_beyond(wx, columns)
  x = jnp.pad(x, ((0, 0), (0, 0), (0, blocks * columns - width), (0, 0)))
  y = _grouped(x, kernel, columns, precision)
  return y.reshape(batch, height - wy + 1, groups * columns, filters)[:, :, :outputs]


def _blocks_beyond(window: int, columns: int) -> int:
  """Returns how many blocks of `columns` pixels a group of outputs reads behind its own."""
  return -(-(window - 1) // columns)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _grouped(x: Array, kernel: Array, columns: int, precision: Any) -> Array:
  """Returns (batch, rows, groups, columns * filters) for x of whole blocks of `columns` pixels."""
  return _forward(x, kernel, columns, precision)[0]


def _forward(x, kernel, columns, precision):
  patches = _unfold(x, kernel.shape[:2], columns)
  band = _band(kernel, columns)
  return jnp.matmul(patches, band, precision=precision), (patches, band, kernel)


def _backward(columns, precision, saved, cotangent):
  patches, band, kernel = saved
  wy, wx, channels, filters = kernel.shape
  dtype = kernel.dtype
  dot = functools.partial(lax.dot_general, precision=precision,
                          preferred_element_type=jnp.promote_types(dtype, jnp.float32))
  # XLA:CPU multiplies cotangent^T patches faster than patches^T cotangent.
  examples = ((0, 1, 2), (0, 1, 2))
  to_band = dot(cotangent, patches, (examples, ((), ())))
  to_band = to_band.reshape(columns, filters, wy, columns + wx - 1, channels)
  to_kernel = functools.reduce(jnp.add, [to_band[q, :, :, q:q + wx] for q in range(columns)])
  to_patches = dot(cotangent, band, (((3,), (1,)), ((), ())))
  to_x = _fold(to_patches, (wy, wx), columns)
  return to_x.astype(dtype), jnp.moveaxis(to_kernel, 0, -1).astype(dtype)


_grouped.defvjp(_forward, _backward)


def _unfold(x: Array, window: tuple[int, int], columns: int) -> Array:
  """Returns the patches (batch, rows, groups, wy * (columns + wx - 1) * channels)."""
  batch, height, width, channels = x.shape
  wy, wx = window
  beyond = _blocks_beyond(wx, columns)
  groups, rows = width // columns - beyond, height - wy + 1
  blocks = x.reshape(batch, height, width // columns, columns * channels)
  across = jnp.concatenate([blocks[:, :, m:m + groups] for m in range(beyond + 1)], axis=-1)
  across = across[..., :(columns + wx - 1) * channels]
  return jnp.concatenate([across[:, i:i + rows] for i in range(wy)], axis=-1)


def _fold(patches: Array, window: tuple[int, int], columns: int) -> Array:
  """The transpose of `_unfold`: adds each entry of the patches to the pixel it came from.

  One axis after the other, and in place: XLA:CPU fuses a sum of padded arrays into one loop that
  visits every term at every pixel.
  """
  batch, rows, groups, size = patches.shape
  wy, wx = window
  channels = size // (wy * (columns + wx - 1))
  block, beyond = columns * channels, _blocks_beyond(wx, columns)
  patches = patches.reshape(batch, rows, groups, wy, size // wy)
  across = jnp.zeros((batch, rows + wy - 1, groups, size // wy), patches.dtype)
  for i in range(wy):
    across = across.at[:, i:i + rows].add(patches[:, :, :, i])
  x = jnp.zeros((batch, rows + wy - 1, groups + beyond, block), patches.dtype)
  for m in range(beyond + 1):
    part = across[..., m * block:(m + 1) * block]
    x = x.at[:, :, m:m + groups, :part.shape[-1]].add(part)
  return x.reshape(batch, rows + wy - 1, -1, channels)


def _band(kernel: Array, columns: int) -> Array:
  """Returns the matrix (wy * (columns + wx - 1) * channels, columns * filters)."""
  copies = [jnp.pad(kernel, ((0, 0), (q, columns - 1 - q), (0, 0), (0, 0)))
            for q in range(columns)]
  return jnp.stack(copies, axis=3).reshape(-1, columns * kernel.shape[3])
