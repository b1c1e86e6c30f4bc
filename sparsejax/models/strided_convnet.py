"""The convolutional network of soft weight-sharing's published code: strides instead of pooling.

Ullrich, Meeds, Welling, 2017, arXiv:1702.04008 (the authors' tutorial). Layers and couplings have
the names of `LeNet5Caffe`, whose rule for cutting units is that of any two VALID convolutions in
front of two dense layers, whatever their strides.
"""

from __future__ import annotations

import jax
from flax import linen as nn

from sparsejax.models.lenet import LeNet5Caffe, gather

Array = jax.Array


class StridedConvNet(LeNet5Caffe):
  """conv0 5x5 / 2 - conv1 3x3 / 2 - dense - head; VALID, ReLU after each but the head.

  A 28 x 28 image gives 5 x 5 positions and, with the default widths, 642,460 parameters.

  Attributes:
    widths: filters of conv0 and conv1, units of dense.
    classes, kept_flat, kernel_init: as in `LeNet5Caffe`.

  Takes (B, H, W, channels) with H, W >= 9; returns logits (B, classes). Sows 'intermediates' as
  `LeNet5Caffe` does.

  Raises:
    ValueError: for an image too small or without channel axis, or a kept index out of range.
  """

  widths: tuple[int, int, int] = (25, 50, 500)

  @nn.compact
  def __call__(self, x: Array) -> Array:
    if x.ndim != 4 or min(x.shape[1:3]) < 9:
      raise ValueError(f'input {x.shape} is not (B, H, W, channels) with H, W >= 9; reshape or pad '
                       'the images')
    for i, side in enumerate((5, 3)):
      x = nn.relu(nn.Conv(self.widths[i], (side, side), strides=2, padding='VALID',
                          kernel_init=self.kernel_init, name=f'conv{i}')(x))
      self.sow('intermediates', f'conv{i}_out', x)
    x = gather(x.reshape((x.shape[0], -1)), self.kept_flat, 'kept_flat')
    x = nn.relu(nn.Dense(self.widths[2], kernel_init=self.kernel_init, name='dense')(x))
    self.sow('intermediates', 'dense_out', x)
    return nn.Dense(self.classes, kernel_init=self.kernel_init, name='head')(x)
