"""How each kind of structured weight passes through a layer that is linear in its kernel.

One rule per kind, none per layer: a rule calls the stock layer itself on plain kernels, so strides,
groups and dilations are the layer's own business. A new kind registers with

  @linear_rule.register
  def _(weight: MyKind, layer: Layer, inputs: Array) -> Array: ...

and returns the layer's output without its bias.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sparsejax import patches
from sparsejax.structured import Gated, Gaussian, LowRank, Packed, RowGaussian, Structured

Array = jax.Array

# The stock layers that are linear in one leaf, by exact type, and the name of that leaf.
LINEAR_LAYERS = {
    nn.Dense: 'kernel',
    nn.DenseGeneral: 'kernel',
    nn.Conv: 'kernel',
    nn.ConvTranspose: 'kernel',
    nn.Embed: 'embedding',
}
VARIANCE_EPSILON = 1e-8  # sqrt at 0 has no finite gradient; from the code of Molchanov et al.


class Layer:
  """A stock linear layer that can be called on other kernels.

  Attributes:
    module: the bound Flax layer; method: '__call__' or, for nn.Embed, 'attend'; path: '/'-joined.
  """

  def __init__(self, module: nn.Module, method: str):
    self.module = module
    self.method = method
    self.name = LINEAR_LAYERS[type(module)]
    self.path = '/'.join((*module.path, self.name))

  def __call__(self, kernel: Array, inputs: Array, **changes: Any) -> Array:
    """Returns what the stock layer computes with this kernel, without bias.

    Args:
      kernel, inputs: as the stock layer takes them.
      **changes: arguments of the layer that differ here.
    """
    if hasattr(self.module, 'use_bias'):
      changes['use_bias'] = False
    return self._stock({self.name: kernel}, inputs, changes)

  def with_bias(self, kernel: Array, bias: Array | None, inputs: Array) -> Array:
    """Returns the stock layer's output with plain kernel and bias."""
    params = {self.name: kernel}
    if bias is not None:
      params['bias'] = bias
    return self._stock(params, inputs, {})

  def _stock(self, params, inputs, changes):
    module = self.module
    if convolves_by_patches(module):
      if isinstance(module, nn.ConvTranspose):
        return _conv_transpose(module, params, inputs)
      changes.setdefault('conv_general_dilated', patches.conv_general_dilated)
    # parent=None cuts the copy loose; inside, it sees plain arrays only.
    copy = module.clone(parent=None, name=None, **changes)
    return copy.apply({'params': params}, inputs, method=self.method)

  def noise_key(self) -> Array:
    """Returns a fresh key from the stream 'noise'."""
    if not self.module.has_rng('noise'):
      raise ValueError(f"the weight at {self.path} is drawn inside the layer, but there is no RNG "
                       "stream 'noise'; pass rngs={'noise': key} to apply")
    return self.module.make_rng('noise')

  def examples(self, array: Array, outputs: bool = False) -> int:
    """Returns the length of the leading axis of the inputs (or outputs): the number of examples.

    Raises:
      ValueError: if the array is one example alone, so that its leading axis is its own.
    """
    module = self.module
    own = 1
    if type(module) in (nn.Conv, nn.ConvTranspose):
      own += len(_each(module.kernel_size))
    elif type(module) is nn.Embed and self.method == '__call__' and not outputs:
      own = 0
    elif type(module) is nn.DenseGeneral and outputs:
      own = len(_each(module.features))
    elif type(module) is nn.DenseGeneral:
      own = array.ndim if 0 in [axis % array.ndim for axis in _each(module.axis)] else 1
    if array.ndim <= own:
      raise ValueError(f'gates per example at {self.path} need a leading axis of examples, but the '
                       f'layer is called on {array.shape}; call it on a batch (without jax.vmap '
                       "over examples), or use per='batch'")
    return array.shape[0]

  def gated_axis(self, axis: int, rank: int) -> tuple[str, int]:
    """Returns ('input' | 'output', axis of that array) which the kernel's `axis` (negative) is.

    Raises:
      ValueError: for an axis that is neither, such as a spatial one.
    """
    module = self.module
    inward, outward = -2, -1
    if type(module) is nn.ConvTranspose and module.transpose_kernel:
      inward, outward = -1, -2
    if type(module) is nn.Embed and self.method == 'attend':
      inward, outward = -1, -2
    if type(module) is nn.DenseGeneral:
      # Flax orders them by position; those from the front come before those from the back.
      contracted = sorted(_each(module.axis), key=lambda axis: (axis < 0, axis))
      if not module.batch_dims:
        position = rank + axis
        if position < len(contracted):
          return 'input', contracted[position]
        return 'output', axis
    elif axis == outward:
      return 'output', -1
    elif axis == inward and getattr(module, 'feature_group_count', 1) == 1:
      return 'input', -1
    raise ValueError(f'gates per example on axis {axis} of {self.path} belong to no input or '
                     "output of the layer; use another axis, or per='batch' if the method has it")


@functools.singledispatch
def linear_rule(weight: Structured, layer: Layer, inputs: Array) -> Array:
  """Returns layer(inputs) without bias for a structured weight; dispatches on its type."""
  raise TypeError(f'no linear rule for {type(weight).__name__} at {layer.path}')


def has_rule(weight: Any) -> bool:
  """True if a linear rule is registered for this kind of weight."""
  return linear_rule.dispatch(type(weight)) is not linear_rule.dispatch(object)


def without_bias(weight: Any, layer: Layer, inputs: Array) -> Array:
  """Returns layer(inputs) without bias for a weight of any kind, plain arrays among them."""
  if isinstance(weight, Structured):
    return linear_rule(weight, layer, inputs)
  return layer(weight, inputs)


@linear_rule.register
def _(weight: Gaussian, layer: Layer, inputs: Array) -> Array:
  """Local reparameterisation (Kingma, Salimans, Welling, 2015): each output has its own noise."""
  mean = layer(weight.mean, inputs)
  squares = inputs   # for a look-up in a table, which is no product with the inputs
  if not (type(layer.module) is nn.Embed and layer.method == '__call__'):
    # Integers, such as the pixels of an image, would overflow in their own type.
    inexact = jnp.issubdtype(inputs.dtype, jnp.inexact)
    squares = jnp.square(inputs if inexact else inputs.astype(jnp.float32))
  variance = layer(weight.var, squares)
  noise = jax.random.normal(layer.noise_key(), _noise_shape(weight, mean), mean.dtype)
  # Some convolution algorithms round a variance of 0 to a little below it.
  variance = jnp.maximum(variance, 0.0)
  return mean + jnp.sqrt(variance + VARIANCE_EPSILON).astype(mean.dtype) * noise


def _noise_shape(weight: Gaussian, outputs: Array) -> tuple[int, ...]:
  """Returns the shape of the noise of these outputs, (examples, *positions, units)."""
  if not weight.shared or outputs.ndim < 3:
    return outputs.shape
  return (outputs.shape[0], *(1,) * (outputs.ndim - 2), outputs.shape[-1])


@linear_rule.register
def _(weight: RowGaussian, layer: Layer, inputs: Array) -> Array:
  """One draw for the whole batch; a look-up draws no more rows than it reads."""
  module: Any = layer.module
  if type(module) is not nn.Embed:
    raise ValueError(f'the RowGaussian weight at {layer.path} is a table to look rows up in, but '
                     f"{type(module).__name__} multiplies by it; use noise='weight' there")
  if layer.method == 'attend':
    return layer(weight.table(), inputs)
  if not jnp.issubdtype(inputs.dtype, jnp.integer):
    raise ValueError(f'rows of {layer.path} are looked up by integers, not by {inputs.dtype}')
  rows: Any
  rows, = module.promote_dtype(weight.look_up(inputs), dtype=module.dtype, inexact=False)
  return rows


@linear_rule.register
def _(weight: Gated, layer: Layer, inputs: Array) -> Array:
  """One draw per example (the leading axis of the inputs), shared by its other positions."""
  examples = layer.examples(inputs)
  if type(layer.module) is nn.Embed and layer.method == '__call__' and weight.axis == -2:
    # A row's gate multiplies the row wherever the example looks it up.
    looked_up = weight.draw_at(inputs.reshape(examples, -1)).reshape(*inputs.shape, 1)
    outputs = without_bias(weight.value, layer, inputs)
    return outputs * looked_up.astype(outputs.dtype)
  gates = weight.draw(examples)
  side, axis = layer.gated_axis(weight.axis, weight.ndim)
  if side == 'input':
    return without_bias(weight.value, layer, inputs * along_axis(gates, inputs.ndim, axis))
  outputs = without_bias(weight.value, layer, inputs)
  return outputs * along_axis(gates, outputs.ndim, axis).astype(outputs.dtype)


@linear_rule.register
def _(weight: LowRank, layer: Layer, inputs: Array) -> Array:
  """Two thin products instead of one."""
  module: Any = layer.module
  promote = functools.partial(module.promote_dtype, dtype=module.dtype)
  if type(module) is nn.Embed and layer.method == 'attend':
    query, u, v = promote(inputs, weight.u, weight.v)
    return (query @ v.T) @ u.T
  if type(module) is nn.Embed:
    u, v = promote(weight.u, weight.v, inexact=False)
    return jnp.take(u, inputs, axis=0) @ v
  (_, rank), (_, features) = weight.u.shape, weight.v.shape
  if type(module) is nn.Dense:
    return layer(weight.v, layer(weight.u, inputs, features=rank), features=features)
  if type(module) is nn.DenseGeneral and not module.batch_dims:
    hidden = layer(weight.u, inputs, features=rank)     # the contracted axis comes out last
    return layer(weight.v, hidden, features=features, axis=-1)
  raise ValueError(f'the LowRank weight at {layer.path} is a matrix of two axes, which '
                   f'{type(module).__name__} cannot take there; reshape the product yourself')


def add_bias(outputs: Array, bias: Any, layer: Layer) -> Array:
  """Returns outputs + bias; the bias may be an array, packed, `Gaussian`, or `Gated` on its end.

  The outputs keep their dtype, which is the layer's.
  """
  if isinstance(bias, Packed):
    bias = bias.to_dense()               # nothing is multiplied by it, so nothing is lost
  # DenseGeneral has a bias of its own for each index of its batch axes, which lead.
  own = len(bias.shape[:_batch_axes(layer.module)])
  lead = (1,) * (outputs.ndim - len(bias.shape))

  def aligned(array):
    return array.reshape(array.shape[:own] + lead + array.shape[own:]).astype(outputs.dtype)

  if isinstance(bias, Gaussian):
    shape = _noise_shape(bias, outputs)
    noise = jax.random.normal(layer.noise_key(), shape, outputs.dtype)
    return outputs + aligned(bias.mean) + aligned(jnp.sqrt(bias.var + VARIANCE_EPSILON)) * noise
  if isinstance(bias, Gated):
    examples = layer.examples(outputs, outputs=True)
    gates = along_axis(bias.draw(examples), outputs.ndim, bias.axis)
    if isinstance(bias.value, Structured):
      return outputs + add_bias(jnp.zeros_like(outputs), bias.value, layer) * gates.astype(
          outputs.dtype)
    return outputs + aligned(bias.value) * gates.astype(outputs.dtype)
  return outputs + aligned(bias)


def _batch_axes(module: nn.Module) -> int:
  """Returns how many leading axes of the inputs a DenseGeneral keeps apart, kernel and bias too."""
  return len(_each(module.batch_dims)) if type(module) is nn.DenseGeneral else 0


def along_axis(gates: Array, ndim: int, axis: int) -> Array:
  """Reshapes gates (examples, n) to rank `ndim`, with n on `axis`."""
  shape = [1] * ndim
  shape[0], shape[axis] = gates.shape
  return gates.reshape(shape)


def _each(value: Any) -> tuple[Any, ...]:
  """Returns Flax's `int | Sequence[int]` as a tuple."""
  return (value,) if isinstance(value, int) else tuple(value)


def convolves_by_patches(module: nn.Module) -> bool:
  """True for a layer that runs as patches and one product: on CPU, see `patches.py`."""
  if jax.default_backend() != 'cpu':
    return False
  if type(module) is nn.Conv:
    return module.conv_general_dilated is None and module.conv_general_dilated_cls is None
  if type(module) is nn.ConvTranspose:
    named = isinstance(module.padding, str) and module.padding not in ('SAME', 'VALID')
    return not named and module.mask is None and module.preferred_element_type is None
  return False


def _conv_transpose(module: nn.ConvTranspose, params: dict[str, Array], inputs: Array) -> Array:
  """nn.ConvTranspose by patches; the stock layer takes no convolution of ours."""
  spatial = len(_each(module.kernel_size))

  def each_axis(value):
    value = 1 if value is None else value
    return (value,) * spatial if isinstance(value, int) else tuple(value)

  promoted: tuple[Any, ...] = tuple(module.promote_dtype(
      inputs, params['kernel'], params.get('bias'), dtype=module.dtype))
  inputs, kernel, bias = promoted
  batch = inputs.shape[:inputs.ndim - spatial - 1]
  padding: patches.Padding
  if isinstance(module.padding, str):
    padding = module.padding
  else:
    padding = [(p, p) if isinstance(p, int) else tuple(p) for p in each_axis(module.padding)]
  outputs = patches.conv_transpose(
      inputs.reshape(-1, *inputs.shape[len(batch):]), kernel, each_axis(module.strides), padding,
      each_axis(module.kernel_dilation), module.transpose_kernel, module.precision)
  if bias is not None:
    outputs = outputs + bias.reshape((1,) * (outputs.ndim - 1) + bias.shape)
  return outputs.reshape(*batch, *outputs.shape[1:])
