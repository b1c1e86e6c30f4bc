"""A small convolutional network with batch-norm: SAME convolutions and global average pooling.

Batch-norm is where cutting filters goes wrong. A filter whose kernel and bias are zero still hands
relu(beta - gamma mean / sqrt(var + eps)) to the next convolution, and through zero padding even a
constant image becomes an image with a border, which no bias can take. Two exact ways out:

* put the gates on what the next layer reads (axis -2 of its kernel): the filter then dies outright;
* keep the papers' placement (on the filter itself): `compact` folds what the filter emits into a
  bias map (H, W, C) behind the next convolution. The map costs H W C numbers, ties the network to
  one image size, and `compact` must be told that size (example_shape).

Named intermediates: `conv{i}_out` in the collection 'intermediates', what the next layer is handed
(after ReLU and pooling), the units of the coupling `conv{i}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from sparsejax.compaction.couplings import (Coupling, Leaves, Read, Write, layer_writes,
                                            norm_writes, through_same_conv)
from sparsejax.compaction.fold_batch_norm import Norm

Array = jax.Array


class ConvNet(nn.Module):
  """[conv{i} 3x3 SAME - (bias_map{i}) - norm{i} - ReLU - (max-pool 2)] x n - average - head.

  Attributes:
    widths: filters of each convolution.
    classes: units of the head.
    pool_after: which convolutions are followed by a 2x2 max-pooling.
    conv_bias: whether convolutions have a bias.
    bias_maps: which convolutions are followed by a trained map `bias_map{i}`, (H, W, filters);
      written by `compacted`.
    momentum, epsilon: of batch-norm.
    kernel_init: initialiser of every kernel.
    norms: whether there is batch-norm; `fold_batch_norm` makes a network without.

  Takes (B, H, W, channels); returns logits (B, classes). With train=True batch-norm uses the
  statistics of the batch and updates 'batch_stats', which must be mutable.

  Raises:
    ValueError: for an input without channel axis, or too small for its poolings.
  """

  widths: tuple[int, ...] = (32, 64)
  classes: int = 10
  pool_after: tuple[int, ...] = (0, 1)
  conv_bias: bool = True
  bias_maps: tuple[int, ...] = ()
  momentum: float = 0.9
  epsilon: float = 1e-5
  kernel_init: Any = nn.linear.default_kernel_init
  norms: bool = True

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    if x.ndim != 4 or min(x.shape[1:3]) < 2 ** len(self.pool_after):
      raise ValueError(f'input {x.shape} is not (B, H, W, channels) with H, W >= '
                       f'{2 ** len(self.pool_after)}; reshape, or pool less (pool_after)')
    for i, width in enumerate(self.widths):
      x = nn.Conv(width, (3, 3), use_bias=self.conv_bias, kernel_init=self.kernel_init,
                  name=f'conv{i}')(x)
      if i in self.bias_maps:
        x = x + self.param(f'bias_map{i}', nn.initializers.zeros_init(), x.shape[1:])[None]
      if self.norms:
        x = nn.BatchNorm(use_running_average=not train, momentum=self.momentum,
                         epsilon=self.epsilon, name=f'norm{i}')(x)
      x = nn.relu(x)
      if i in self.pool_after:
        x = nn.max_pool(x, (2, 2), (2, 2))
      self.sow('intermediates', f'conv{i}_out', x)
    x = x.mean((1, 2))
    return nn.Dense(self.classes, kernel_init=self.kernel_init, name='head')(x)

  def couplings(self, variables: Mapping[str, Any] | None = None,
                example_shape: tuple[int, ...] | None = None) -> tuple[Coupling, ...]:
    """Returns the rows 'conv0', 'conv1', ...; channels of the image are no row.

    Args:
      variables: not needed here.
      example_shape: (B, H, W, channels) of the input. Without it `compact` raises where a filter
        that emits a constant other than 0 must be folded through a convolution.
    """
    del variables
    rows = []
    for i in range(len(self.widths)):
      last = i == len(self.widths) - 1
      writes = (
          *layer_writes(f'conv{i}', bias=self.conv_bias),
          *(norm_writes(f'norm{i}', scales=f'conv{i}/kernel') if self.norms else ()),
          Write(f'bias_map{i}', -1, role='offset', optional=True),
      )
      emits = self._emits(i, last, example_shape)
      read = (Read('head/kernel', -2, emits=emits, into='head/bias') if last else
              Read(f'conv{i + 1}/kernel', -2, emits=emits, fold=through_same_conv,
                   into=f'bias_map{i + 1}', creates=True))
      rows.append(Coupling(f'conv{i}', writes, (read,)))
    return tuple(rows)

  def compacted(self, alive: Mapping[str, np.ndarray], params: Mapping[str, Any]) -> ConvNet:
    """Returns the model of the smaller network; `alive` is {coupling: bool mask of units}."""
    layers = range(len(self.widths))
    return self.clone(widths=tuple(int(alive[f'conv{i}'].sum()) for i in layers),
                      bias_maps=tuple(i for i in layers if f'bias_map{i}' in params))

  def batch_norms(self) -> tuple[Norm, ...]:
    """Returns which batch-norm stands behind which layer, for `fold_batch_norm`."""
    layers = range(len(self.widths)) if self.norms else ()
    return tuple(Norm(f'norm{i}', f'conv{i}',
                      (f'bias_map{i}',) if i in self.bias_maps else (), self.epsilon)
                 for i in layers)

  def without_norms(self) -> ConvNet:
    """Returns the model whose layers have taken batch-norm in; they all have a bias."""
    return self.clone(norms=False, conv_bias=True)

  def _emits(self, i: int, last: bool, example_shape: tuple[int, ...] | None
             ) -> Callable[[Leaves], np.ndarray]:
    """What convolution i hands on where its kernel (or its norm's scale) is zero."""

    def emits(leaves: Leaves) -> np.ndarray:
      x = (leaves[f'conv{i}/bias'] if self.conv_bias else
           np.zeros(leaves[f'conv{i}/kernel'].shape[-1], np.float32))
      if f'bias_map{i}' in leaves:
        x = x + leaves[f'bias_map{i}']                                      # (H, W, filters)
      elif example_shape is not None:
        pools = sum(j < i for j in self.pool_after)
        x = np.broadcast_to(x, (*(n // 2**pools for n in example_shape[1:3]), x.size))
      if self.norms:
        mean, var = (leaves[f'batch_stats/norm{i}/{name}'] for name in ('mean', 'var'))
        scale = leaves[f'norm{i}/scale'] / np.sqrt(var + self.epsilon)
        x = (x - mean) * scale + leaves[f'norm{i}/bias']
      x = np.maximum(x, 0)
      if x.ndim == 1:                               # the image's size is unknown, and pooling idle
        return x
      x = _max_pool(x) if i in self.pool_after else x
      return x.mean((0, 1)) if last else x

    return emits


def _max_pool(x: np.ndarray) -> np.ndarray:
  """2x2 max-pooling with stride 2 of one image, (H, W, C) -> (H // 2, W // 2, C)."""
  height, width, channels = x.shape
  x = x[:height // 2 * 2, :width // 2 * 2]
  return x.reshape(height // 2, 2, width // 2, 2, channels).max((1, 3))
