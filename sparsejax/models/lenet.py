"""LeNet-300-100 and LeNet-5-Caffe, the networks of the early compression papers.

Stock Flax modules. LeNet-5-Caffe has a ReLU behind each convolution, as the papers' scripts do
(Molchanov et al., 2017, arXiv:1701.05369; Louizos et al., 2018, arXiv:1712.01312); Caffe's own
example has not. Images are NHWC.

Named intermediates: under the collection 'intermediates' each layer sows `<layer>_out`, what its
reader is handed: after ReLU and pooling, before flatten and gather. So `<layer>_out` holds the
units of the coupling `<layer>`. (Flax's `capture_intermediates` adds pre-activations by layer.)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from sparsejax.compaction.couplings import (Coupling, Read, layer_writes, relu_of,
                                            through_valid_conv)

Array = jax.Array


class MLP(nn.Module):
  """Dense layers dense0, dense1, ... with ReLU, then the linear layer head.

  Attributes:
    widths: units of the hidden layers.
    classes: units of the head.
    kept_inputs: indices of the flattened input that the network reads; None reads all.
    kernel_init: initialiser of every kernel; biases start at 0.

  Takes (B, ...), flattened to (B, n); returns logits (B, classes).

  Raises:
    ValueError: for a kept input that the flattened input does not have.
  """

  widths: tuple[int, ...] = (300, 100)
  classes: int = 10
  kept_inputs: tuple[int, ...] | None = None
  kernel_init: Any = nn.linear.default_kernel_init

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = gather(x.reshape((x.shape[0], -1)), self.kept_inputs, 'kept_inputs')
    for i, width in enumerate(self.widths):
      x = nn.relu(nn.Dense(width, kernel_init=self.kernel_init, name=f'dense{i}')(x))
      self.sow('intermediates', f'dense{i}_out', x)
    return nn.Dense(self.classes, kernel_init=self.kernel_init, name='head')(x)

  def couplings(self, variables: Mapping[str, Any] | None = None,
                example_shape: tuple[int, ...] | None = None) -> tuple[Coupling, ...]:
    """Returns the rows 'inputs', 'dense0', 'dense1', ...; both arguments are not needed here."""
    del variables, example_shape
    layers = [*(f'dense{i}' for i in range(len(self.widths))), 'head']
    inputs = Coupling('inputs', (), (Read(f'{layers[0]}/kernel', -2),))
    return (inputs, *(Coupling(layer, layer_writes(layer), (_dense_read(reader, layer),))
                      for layer, reader in zip(layers[:-1], layers[1:], strict=True)))

  def compacted(self, alive: Mapping[str, np.ndarray], params: Mapping[str, Any]) -> MLP:
    """Returns the model of the smaller network; `alive` is {coupling: bool mask of units}."""
    del params
    widths = tuple(int(alive[f'dense{i}'].sum()) for i in range(len(self.widths)))
    return self.clone(widths=widths, kept_inputs=_kept(alive['inputs'], self.kept_inputs))


LeNet300100 = functools.partial(MLP, widths=(300, 100))
"""784-300-100-10 for MNIST: `MLP` under the name the papers give it."""


class LeNet5Caffe(nn.Module):
  """conv0 5x5 - pool - conv1 5x5 - pool - dense - head; VALID, ReLU before each 2x2 max-pooling.

  Attributes:
    widths: filters of conv0 and conv1, units of dense.
    classes: units of the head.
    kept_flat: indices of the flattened pooled image, index = position * widths[1] + filter, that
      dense reads; None reads all. A 28 x 28 image gives 16 positions: 800 for 50 filters.
    kernel_init: initialiser of every kernel; biases start at 0.

  Takes (B, H, W, channels) with H, W >= 16; returns logits (B, classes).

  Raises:
    ValueError: for an image too small or without channel axis, or a kept index out of range.
  """

  widths: tuple[int, int, int] = (20, 50, 500)
  classes: int = 10
  kept_flat: tuple[int, ...] | None = None
  kernel_init: Any = nn.linear.default_kernel_init

  @nn.compact
  def __call__(self, x: Array) -> Array:
    if x.ndim != 4 or min(x.shape[1:3]) < 16:
      raise ValueError(f'input {x.shape} is not (B, H, W, channels) with H, W >= 16; reshape or '
                       'pad the images')
    for i in range(2):
      x = nn.Conv(self.widths[i], (5, 5), padding='VALID', kernel_init=self.kernel_init,
                  name=f'conv{i}')(x)
      x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
      self.sow('intermediates', f'conv{i}_out', x)
    x = gather(x.reshape((x.shape[0], -1)), self.kept_flat, 'kept_flat')
    x = nn.relu(nn.Dense(self.widths[2], kernel_init=self.kernel_init, name='dense')(x))
    self.sow('intermediates', 'dense_out', x)
    return nn.Dense(self.classes, kernel_init=self.kernel_init, name='head')(x)

  def couplings(self, variables: Mapping[str, Any],
                example_shape: tuple[int, ...] | None = None) -> tuple[Coupling, ...]:
    """Returns the rows 'conv0', 'conv1', 'flat' (rows of dense/kernel) and 'dense'.

    Channels of the image itself are no row: the model has no gather for them.

    Args:
      variables: as for `apply`; the number of positions is read from dense/kernel.
      example_shape: not needed here.
    """
    del example_shape
    rows = variables['params']['dense']['kernel'].shape[0]
    filters = self.widths[1]
    positions = rows // filters if self.kept_flat is None else max(self.kept_flat) // filters + 1
    image = _dense_read('dense', 'conv1', positions, self.kept_flat)
    conv = Read('conv1/kernel', -2, emits=relu_of('conv0/bias'), fold=through_valid_conv,
                into='conv1/bias')
    return (
        Coupling('conv0', layer_writes('conv0'), (conv,)),
        Coupling('conv1', layer_writes('conv1'), (image,)),
        Coupling('flat', (), (Read('dense/kernel', -2),)),
        Coupling('dense', layer_writes('dense'), (_dense_read('head', 'dense'),)),
    )

  def compacted(self, alive: Mapping[str, np.ndarray], params: Mapping[str, Any]) -> LeNet5Caffe:
    """Returns the model of the smaller network; `alive` is {coupling: bool mask of units}.

    A gather is kept only if a live filter lost a position.
    """
    del params
    filters = alive['conv1']
    before = np.arange(alive['flat'].size) if self.kept_flat is None else np.array(self.kept_flat)
    read = before[alive['flat']]
    position, unit = read // filters.size, read % filters.size
    renumbered = np.cumsum(filters) - 1
    kept_flat: tuple[int, ...] | None = tuple(
        int(i) for i in position * filters.sum() + renumbered[unit])
    if self.kept_flat is None and alive['flat'].sum() == filters[before % filters.size].sum():
      kept_flat = None
    widths = tuple(int(alive[name].sum()) for name in ('conv0', 'conv1', 'dense'))
    return self.clone(widths=widths, kept_flat=kept_flat)


def gather(x: Array, kept: tuple[int, ...] | None, name: str) -> Array:
  """Returns x[:, kept], (B, len(kept)); x itself for None.

  Raises:
    ValueError: for an index out of range, which JAX would clip in silence.
  """
  if kept is None:
    return x
  if not kept or min(kept) < 0 or max(kept) >= x.shape[1]:
    raise ValueError(f'{name} holds {len(kept)} indices between {min(kept, default=None)} and '
                     f'{max(kept, default=None)}; expected some between 0 and {x.shape[1] - 1}')
  return x[:, np.array(kept)]


def _dense_read(layer: str, writer: str, positions: int = 1,
                kept: tuple[int, ...] | None = None) -> Read:
  return Read(f'{layer}/kernel', -2, positions, kept, emits=relu_of(f'{writer}/bias'),
              into=f'{layer}/bias')


def _kept(alive: np.ndarray, before: tuple[int, ...] | None) -> tuple[int, ...] | None:
  """Composes a gather with the mask of what stays of it; None while nothing is left out."""
  if before is None and alive.all():
    return None
  indices = np.arange(alive.size) if before is None else np.array(before)
  return tuple(int(i) for i in indices[alive])
