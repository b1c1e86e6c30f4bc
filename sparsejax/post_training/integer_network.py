"""A multilayer perceptron on integers alone, made from trained weights and calibration data.

Jacob et al., 2018, arXiv:1712.05877, section 2. Activations are int8 on affine grids, weights int8
with zero point 0 and a scale for each output unit, sums and biases int32. A layer is a product, a
multiplication by a fixed-point number with a rounding shift, and a clamp, which is the ReLU too:

    ranges = calibration.moving_ranges(calibration.observe(model, variables, batches))
    network = IntegerMLP.from_float(model, variables['params'], ranges)
    logits = network(images)

Between the rounding of the images and the scaling of the logits nothing is a float.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from sparsejax.packed import grids
from sparsejax.models.lenet import MLP, gather
from sparsejax.paths import Tree
from sparsejax.post_training.calibration import INPUTS, OUTPUTS, Range
from sparsejax.post_training.fixed_point import fixed_point, integer_product, requantise
from sparsejax.structured import densify

Array = jax.Array

OUTPUT_TYPES: dict[int, type] = {8: np.int8, 16: np.int16}
ARRAYS = ('codes', 'bias', 'multiplier', 'shift', 'zero_point')
_LARGEST_SUM = 2**31 - 1


@struct.dataclass
class IntegerDense:
  """y = clamp(Z3 + round(M (x W + bias))), with the zero point of x folded into the bias.

  Attributes:
    codes: (inputs, outputs) int8, in [-127, 127].
    bias: (outputs,) int32, in units of input scale times weight scale.
    multiplier, shift: (outputs,) int32: the fixed-point factor from sums to output codes.
    zero_point: () int32, Z3: the output's code for 0.
    relu: clamps at Z3, the code of 0.
    bits: of the output, 8 or 16.
  """

  codes: Array
  bias: Array
  multiplier: Array
  shift: Array
  zero_point: Array
  relu: bool = struct.field(pytree_node=False, default=True)
  bits: int = struct.field(pytree_node=False, default=8)

  def __call__(self, inputs: Array) -> Array:
    """Returns the output codes (..., outputs) for input codes (..., inputs), int8."""
    lead = (1,) * (inputs.ndim - 1)
    sums = integer_product(inputs, self.codes) + self.bias.reshape(lead + self.bias.shape)
    outputs = requantise(sums, self.multiplier, self.shift)
    # Far beyond the grid the zero point must not overflow int32.
    reach = 1 << (self.bits + 1)
    outputs = jnp.clip(outputs, -reach, reach) + self.zero_point
    info = np.iinfo(OUTPUT_TYPES[self.bits])
    low = self.zero_point if self.relu else info.min
    return jnp.clip(outputs, low, info.max).astype(OUTPUT_TYPES[self.bits])


@struct.dataclass
class IntegerMLP:
  """`models.MLP` on integers.

  Attributes:
    layers: `IntegerDense`, in order.
    input_scale, output_scale: () float32. input_zero: () int32.
    kept_inputs: as for the model.
  """

  layers: tuple[IntegerDense, ...]
  input_scale: Array
  input_zero: Array
  output_scale: Array
  kept_inputs: tuple[int, ...] | None = struct.field(pytree_node=False, default=None)

  @classmethod
  def from_float(cls, model: MLP, weights: Tree, ranges: Mapping[str, Range], *,
                 axis: int | None = -1, output_bits: int = 16) -> IntegerMLP:
    """Makes the network, on the host.

    Args:
      model: with ReLU between its layers. weights: its parameters; packed ones are unpacked.
      ranges: of 'inputs', '<layer>_out' of each hidden layer, and 'outputs'; see `calibration.py`.
      axis: -1, a weight scale for each output unit, or None, one for each layer.
      output_bits: of the logits, 8 or 16. At 8, close logits become equal.

    Raises:
      ValueError: for a model that is no MLP, a range that is missing, or a layer whose sums could
        exceed int32.
    """
    if not isinstance(model, MLP) or output_bits not in OUTPUT_TYPES:
      raise ValueError(f'an integer network is made from an MLP with output_bits of 8 or 16, not '
                       f'from {type(model).__name__} with {output_bits}')
    names = [*(f'dense{i}' for i in range(len(model.widths))), 'head']
    spans = [INPUTS, *(f'{name}_out' for name in names[:-1]), OUTPUTS]
    missing = [name for name in spans if name not in ranges]
    if missing:
      raise ValueError(f'the range of {missing[0]!r} was not calibrated; there are '
                       f'{", ".join(sorted(ranges))}')
    dense = densify(weights)
    scale, zero = first = _activation_grid(ranges[INPUTS], 8)
    if not scale:
      raise ValueError('the inputs were all 0 in calibration; pass real examples')
    layers = []
    for name, span in zip(names, spans[1:]):
      bits = output_bits if name == 'head' else 8
      grid = _activation_grid(ranges[span], bits)
      layer, scale = _layer(name, dense[name], (scale, zero), grid, axis, name != 'head', bits)
      zero = int(layer.zero_point)
      layers.append(layer)
    return cls(tuple(layers), jnp.float32(first[0]), jnp.int32(first[1]), jnp.float32(scale),
               model.kept_inputs)

  def __call__(self, inputs: Array) -> Array:
    """Returns logits (B, classes), float32, for inputs as the model takes them."""
    outputs = self.codes(self.encode(inputs))
    centred = outputs.astype(jnp.int32) - self.layers[-1].zero_point
    return centred.astype(jnp.float32) * self.output_scale

  def encode(self, inputs: Array) -> Array:
    """Returns the codes (B, inputs), int8, of inputs (B, ...)."""
    flat = gather(inputs.reshape(inputs.shape[0], -1), self.kept_inputs, 'kept_inputs')
    codes = jnp.round(flat.astype(jnp.float32) / self.input_scale) + self.input_zero
    return jnp.clip(codes, -128, 127).astype(jnp.int8)

  def codes(self, inputs: Array) -> Array:
    """Returns the codes of the logits for codes of the inputs: integers in, integers out."""
    for layer in self.layers:
      inputs = layer(inputs)
    return inputs

  def to_tree(self) -> Tree:
    """Returns its arrays as a nested dict, for a file."""
    tree: Tree = {
        f'layer{i}': {name: np.asarray(getattr(layer, name)) for name in ARRAYS}
        for i, layer in enumerate(self.layers)
    }
    tree['grid'] = {name: np.asarray(getattr(self, name))
                    for name in ('input_scale', 'input_zero', 'output_scale')}
    tree['grid']['output_bits'] = np.int32(self.layers[-1].bits)
    if self.kept_inputs is not None:
      tree['grid']['kept_inputs'] = np.asarray(self.kept_inputs, np.int32)
    return tree

  @classmethod
  def from_tree(cls, tree: Tree) -> IntegerMLP:
    """The inverse of `to_tree`.

    Raises:
      ValueError: for layers that do not follow each other.
    """
    grid, count = tree['grid'], len(tree) - 1
    layers = [IntegerDense(**tree[f'layer{i}'], relu=i < count - 1,
                           bits=8 if i < count - 1 else int(grid['output_bits']))
              for i in range(count)]
    for i, layer in enumerate(layers):
      shapes = {np.shape(array) for array in (layer.bias, layer.multiplier, layer.shift)}
      if shapes != {layer.codes.shape[1:]} or (
          i and layers[i - 1].codes.shape[1] != layer.codes.shape[0]):
        raise ValueError(f'layer{i} has codes of shape {layer.codes.shape}, which do not fit its '
                         'other arrays or the layer before')
    kept = grid.get('kept_inputs')
    return cls(tuple(layers), grid['input_scale'], grid['input_zero'], grid['output_scale'],
               None if kept is None else tuple(map(int, kept)))


def _activation_grid(span: Range, bits: int) -> tuple[float, int]:
  """Returns (scale, zero point) of signed codes over the range, which holds 0."""
  levels, lowest = 2**bits - 1, -2**(bits - 1)
  if span.high == span.low:       # always 0: the layer's own sums give the scale
    return 0.0, lowest
  scale = (span.high - span.low) / levels
  return scale, lowest + round(-span.low / scale)


def _layer(name: str, params: Mapping[str, Array], inputs: tuple[float, int],
           outputs: tuple[float, int], axis: int | None, relu: bool,
           bits: int) -> tuple[IntegerDense, float]:
  """Returns the layer and the scale of its output, which is no finer than that of its sums."""
  packed = jax.device_get(grids.affine(params['kernel'], 8, axis=axis))
  codes = np.asarray(packed.codes)
  unit = inputs[0] * np.broadcast_to(np.asarray(packed.scale, np.float64), codes.shape[1:])
  scale = max(outputs[0], float(unit.max()))
  bias = np.rint(np.asarray(params['bias'], np.float64) / unit)
  column = codes.astype(np.int64).sum(0)
  # |q1| <= 128 and the sum of |q2| bound every partial sum; the folded bias comes on top.
  most = np.abs(bias) + (128 + abs(inputs[1])) * np.abs(codes.astype(np.int64)).sum(0)
  if most.max(initial=0) > _LARGEST_SUM:
    raise ValueError(f'the sums of {name} reach {most.max():.0f}, beyond int32; its bias is large '
                     'beside its weights, or its inputs are too many')
  multiplier, shift = fixed_point(unit / scale)
  folded = (bias - inputs[1] * column).astype(np.int32)
  layer = IntegerDense(jnp.asarray(codes), jnp.asarray(folded), jnp.asarray(multiplier),
                       jnp.asarray(shift), jnp.int32(outputs[1]), relu, bits)
  return layer, scale
