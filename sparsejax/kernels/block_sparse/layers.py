"""Stock layers on a `BlockSparse` kernel: the linear rule of this kind of weight.

Dense, DenseGeneral (hence the projections of attention) and, by patches, Conv. Registered when the
package is imported.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sparsejax import patches
from sparsejax.kernels.block_sparse.api import block_sparse_matmul
from sparsejax.kernels.block_sparse.weight import BlockSparse
from sparsejax.linear_rules import Layer, linear_rule

Array = jax.Array


@linear_rule.register
def _(weight: BlockSparse, layer: Layer, inputs: Array) -> Array:
  """The product by blocks, in the layer's own dtype.

  Raises:
    ValueError: for a layer, or an option of one, whose product this is not.
  """
  module: Any = layer.module
  if type(module) is nn.Dense:
    _require_input_axes(weight, 1, layer)
    return _product(inputs, weight, module)
  if type(module) is nn.DenseGeneral and not module.batch_dims:
    given = (module.axis,) if isinstance(module.axis, int) else module.axis
    axes = sorted(axis % inputs.ndim for axis in given)     # as Flax orders them
    _require_input_axes(weight, len(axes), layer)
    last = jnp.moveaxis(inputs, axes, range(-len(axes), 0))
    rows = last.reshape(*last.shape[:last.ndim - len(axes)], -1)
    outputs = _product(rows, weight, module)
    return outputs.reshape(*rows.shape[:-1], *weight.shape[len(axes):])
  if type(module) is nn.Conv and module.feature_group_count == 1 and module.mask is None:
    _require_input_axes(weight, len(weight.shape) - 1, layer)

    def convolve(lhs, rhs, strides, padding, lhs_dilation, rhs_dilation, **options):
      del rhs, options
      if any(n != 1 for n in (*(lhs_dilation or ()), *(rhs_dilation or ()))):
        raise ValueError(f'the BlockSparse weight at {layer.path} takes no dilated convolution')
      found = patches.extract(lhs, weight.shape[:-2], strides, padding)
      return _product(found, weight, module)
    # The layer pads and reshapes as it always does; its kernel is never read, or all would be NaN.
    placeholder = jnp.full(weight.shape, jnp.nan, weight.dtype)
    return layer(placeholder, inputs, conv_general_dilated=convolve)
  raise ValueError(f'the BlockSparse weight at {layer.path} cannot pass through this '
                   f'{type(module).__name__}; Dense, DenseGeneral without batch_dims, and Conv '
                   'without groups or mask take one: unpack it with sparsejax.densify')


def _product(inputs: Array, weight: BlockSparse, module: Any) -> Array:
  inputs, blocks = module.promote_dtype(inputs, weight.blocks, dtype=module.dtype)
  return block_sparse_matmul(inputs, weight.replace(blocks=blocks))


def _require_input_axes(weight: BlockSparse, input_axes: int, layer: Layer) -> None:
  if weight.input_axes != input_axes:
    raise ValueError(f'the BlockSparse weight at {layer.path} has input_axes={weight.input_axes}, '
                     f'but this {type(layer.module).__name__} contracts {input_axes} leading axes; '
                     f'pack it with input_axes={input_axes}')
