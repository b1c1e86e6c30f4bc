"""Convolution by patches and one matrix product, a stand-in for `lax.conv_general_dilated`.

XLA:CPU runs the backward of a convolution inside `lax.scan` five to eight times slower than
outside it; slices, a concatenation and a matrix product have no such cliff. Same arguments, same
result, for the layouts Flax uses: (batch, *spatial, features) and (*spatial, in, out) kernels.

Images under a plain kernel of stride 1, the common case, go to `banded_convolution`, which is
faster still but knows no forward-mode derivative.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax import banded_convolution

Array = jax.Array
Padding = str | Sequence[tuple[int, int]]


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: Padding,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Array:
  """Returns the convolution of lhs (batch, *spatial, in) with rhs (*window, in / groups, out).

  Raises:
    ValueError: for a layout other than Flax's (batch first, features last), or padding by name of
      a dilated input, which `lax` refuses too.
  """
  spatial = lhs.ndim - 2
  _require_features_last(dimension_numbers, lhs.shape, rhs.shape)
  lhs_dilation = tuple(lhs_dilation or (1,) * spatial)
  rhs_dilation = tuple(rhs_dilation or (1,) * spatial)
  window = rhs.shape[:spatial]
  reach = [(k - 1) * d + 1 for k, d in zip(window, rhs_dilation)]
  widths = [(n - 1) * d + 1 for n, d in zip(lhs.shape[1:-1], lhs_dilation)]
  pads = padding
  if isinstance(padding, str):
    if any(d != 1 for d in lhs_dilation):
      raise ValueError(f'padding {padding!r} of an input dilated by {lhs_dilation} has no one '
                       'meaning; give pairs (low, high), or use conv_transpose')
    pads = lax.padtype_to_pads(widths, reach, window_strides, padding)
  inner: list[Any] = [(low, high, d - 1) for (low, high), d in zip(pads, lhs_dilation)]
  config = [(0, 0, 0), *inner, (0, 0, 0)]
  if any(any(axis) for axis in config):
    lhs = lax.pad(lhs, jnp.zeros((), lhs.dtype), config)

  outputs = [(n - r) // s + 1 for n, r, s in zip(lhs.shape[1:-1], reach, window_strides)]
  if min(outputs) <= 0:   # the window does not fit
    dtype = preferred_element_type or jnp.result_type(lhs, rhs)
    return jnp.zeros((lhs.shape[0], *(max(n, 0) for n in outputs), rhs.shape[-1]), dtype)
  plain = all(n == 1 for n in (*window_strides, *rhs_dilation, feature_group_count))
  same_type = lhs.dtype == rhs.dtype and preferred_element_type in (None, lhs.dtype)
  if plain and spatial == 2 and rhs.size and same_type and jnp.issubdtype(lhs.dtype, jnp.floating):
    return banded_convolution.convolve(lhs, rhs, precision=precision)
  slices = _windows(lhs, window, outputs, window_strides, rhs_dilation)
  features = rhs.shape[-1]
  if feature_group_count == 1:
    patches = jnp.concatenate(slices, axis=-1)
    kernel = rhs.reshape(-1, features)
    return jnp.matmul(patches, kernel, precision=precision,
                      preferred_element_type=preferred_element_type)
  groups = feature_group_count
  patches = jnp.stack(slices, axis=-2)
  patches = patches.reshape(*patches.shape[:-1], groups, -1)        # (..., window, groups, in)
  kernel = rhs.reshape(int(np.prod(window)), rhs.shape[-2], groups, features // groups)
  out = jnp.einsum('...wgi,wigo->...go', patches, kernel, precision=precision,
                   preferred_element_type=preferred_element_type)
  return out.reshape(*out.shape[:-2], features)


def extract(lhs: Array, window: Sequence[int], window_strides: Sequence[int],
            padding: Padding) -> Array:
  """Returns the patches of lhs (batch, *spatial, in), (batch, *outputs, entries of window * in).

  A patch is ordered as a kernel (*window, in, out) is when its leading axes are flattened. No
  dilation.

  Raises:
    ValueError: if the window does not fit into the padded input.
  """
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(lhs.shape[1:-1], window, window_strides, padding)
  lhs = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
  outputs = [(n - k) // s + 1 for n, k, s in zip(lhs.shape[1:-1], window, window_strides)]
  if min(outputs) <= 0:
    raise ValueError(f'a window of {tuple(window)} does not fit into {lhs.shape[1:-1]}, padding '
                     'included')
  return jnp.concatenate(
      _windows(lhs, window, outputs, window_strides, (1,) * len(outputs)), axis=-1)


def _windows(lhs: Array, window: Sequence[int], outputs: Sequence[int], strides: Sequence[int],
             dilation: Sequence[int]) -> list[Array]:
  """Returns what each entry of the window sees, (batch, *outputs, in), last axis fastest."""
  slices = []
  for offset in itertools.product(*map(range, window)):
    start = [o * d for o, d in zip(offset, dilation)]
    stop = [a + (n - 1) * s + 1 for a, n, s in zip(start, outputs, strides)]
    slices.append(lax.slice(lhs, (0, *start, 0), (lhs.shape[0], *stop, lhs.shape[-1]),
                            (1, *strides, 1)))
  return slices


def conv_transpose(
    lhs: Array,
    rhs: Array,
    strides: Sequence[int],
    padding: Padding,
    rhs_dilation: Sequence[int] | None = None,
    transpose_kernel: bool = False,
    precision: Any = None,
) -> Array:
  """`lax.conv_transpose` for lhs (batch, *spatial, in) and rhs (*window, in, out)."""
  spatial = lhs.ndim - 2
  rhs_dilation = tuple(rhs_dilation or (1,) * spatial)
  reach = [(k - 1) * d + 1 for k, d in zip(rhs.shape[:spatial], rhs_dilation)]
  pads = padding
  if isinstance(padding, str):
    pads = [_transpose_pads(r, s, padding) for r, s in zip(reach, strides)]
  if transpose_kernel:
    rhs = jnp.swapaxes(jnp.flip(rhs, range(spatial)), -1, -2)
  return conv_general_dilated(lhs, rhs, (1,) * spatial, pads, lhs_dilation=strides,
                              rhs_dilation=rhs_dilation, precision=precision)


def _transpose_pads(reach: int, stride: int, padding: str) -> tuple[int, int]:
  """Pads such that SAME gives n * stride outputs and VALID n * stride + max(reach - stride, 0)."""
  total = reach + stride - 2
  if padding == 'SAME':
    low = reach - 1 if stride > reach - 1 else -(-total // 2)
    return low, total - low
  if padding == 'VALID':
    return reach - 1, total + max(reach - stride, 0) - (reach - 1)
  raise ValueError(f"padding {padding!r} is not 'SAME', 'VALID' or explicit pairs")


def _require_features_last(dimension_numbers: Any, lhs_shape: Any, rhs_shape: Any) -> None:
  if dimension_numbers is None:
    return
  numbers = lax.conv_dimension_numbers(lhs_shape, rhs_shape, dimension_numbers)
  last = len(lhs_shape) - 1
  image = (0, last, *range(1, last))
  kernel = (last, last - 1, *range(last - 1))
  if (numbers.lhs_spec, numbers.out_spec, numbers.rhs_spec) != (image, image, kernel):
    raise ValueError(f'dimension_numbers {dimension_numbers} are not batch first, features last; '
                     'use lax.conv_general_dilated')
