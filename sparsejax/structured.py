"""Structured weights: what may stand in a weight's place besides a plain array.

Each kind is a Flax `AxisMetadata` box, so it travels through `model.apply`, `nn.scan` and `jit`
like an array. `apply.py` hands it to the linear rule of its kind (`linear_rules.py`); where no
rule consumes it, reading it raises, because a silent `mean` would be another model.

* stochastic kinds, drawn inside the layer: `Gaussian`, `RowGaussian`, `Gated`;
* packed kinds, exact but small: `LowRank`; `BlockSparse` has a room of its own with its kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from flax.core import meta

from sparsejax.counter_noise import normal_rows

Array = jax.Array


PACKED_KINDS: dict[str, type[Packed]] = {}     # by class name, as files name them


class Structured(meta.AxisMetadata):
  """A weight that is more than an array. Subclasses have `shape` and `dtype` of the array."""

  def unbox(self) -> Array:
    """Raises: reached only where a layer reads the weight as a plain array, outside `apply`."""
    raise ValueError(f'a {type(self).__name__} weight was read as a plain array; call the model '
                     'through sparsejax.apply, or draw plain weights')

  def replace_boxed(self, val: Any) -> Any:
    return val

  def add_axis(self, index: int, params: dict[Any, Any]) -> Structured:
    return self

  def remove_axis(self, index: int, params: dict[Any, Any]) -> Structured:
    return self


class Stochastic(Structured):
  """Noise is drawn where the weight is used, so there is no one array it stands for."""


class Packed(Structured):
  """An exact array in a small form; `to_dense` gives the array.

  A file holds the arrays of `to_tensors`; `from_tensors` makes the weight of them again.
  """

  def __init_subclass__(cls, **kwargs: Any):
    super().__init_subclass__(**kwargs)
    PACKED_KINDS[cls.__name__] = cls

  def to_dense(self) -> Array:
    raise TypeError(f'{type(self).__name__} defines no to_dense')

  def entries(self) -> int:
    """Returns how many numbers are stored, on the host; a product multiplies by each once."""
    raise TypeError(f'{type(self).__name__} defines no entries')

  def to_tensors(self) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns ({name: array}, facts that JSON holds); no name is 'mask' or 'values'."""
    raise TypeError(f'{type(self).__name__} defines no to_tensors, so no file can hold it')

  @classmethod
  def from_tensors(cls, tensors: dict[str, Any], facts: dict[str, Any]) -> Packed:
    """The inverse of `to_tensors`, from NumPy arrays."""
    raise TypeError(f'{cls.__name__} defines no from_tensors')


@struct.dataclass
class Gaussian(Stochastic):
  """Independent weights N(mean, var), drawn per output by local reparameterisation.

  Attributes:
    mean: any shape. var: the same shape, float32.
    shared: an example's outputs share one draw at all positions (axes between the first and the
      last); the steps of a sequence, say.
  """

  mean: Array
  var: Array
  shared: bool = struct.field(pytree_node=False, default=False)

  shape = property(lambda self: self.mean.shape)
  ndim = property(lambda self: self.mean.ndim)
  dtype = property(lambda self: self.mean.dtype)


@struct.dataclass
class RowGaussian(Stochastic):
  """Independent weights N(mean, exp(log_var)) of a table, of which few rows may be looked up.

  The box carries the key of its draw, and the noise of a row depends on the key and the row alone:
  a row is the same wherever it is looked up, and rows that nobody looks up need not be drawn.

  Attributes:
    mean: (rows, features). log_var: the same shape, float32.
    key: key of the draw.
  """

  mean: Array
  log_var: Array
  key: Array

  shape = property(lambda self: self.mean.shape)
  ndim = property(lambda self: self.mean.ndim)
  dtype = property(lambda self: self.mean.dtype)

  def look_up(self, rows: Array) -> Array:
    """Returns the drawn rows (..., features) for integers `rows` (...).

    Draws the rows looked up or the whole table, whatever is less; the result is the same.
    """
    count, features = self.mean.shape
    if rows.size >= count:
      return jnp.take(self.table(), rows, axis=0)
    mean, log_var = (jnp.take(table, rows, axis=0) for table in (self.mean, self.log_var))
    return _scaled(mean, log_var, normal_rows(self.key, rows, features))

  def table(self) -> Array:
    """Returns all drawn rows, (rows, features)."""
    count, features = self.mean.shape
    return _scaled(self.mean, self.log_var, normal_rows(self.key, jnp.arange(count), features))


def _scaled(mean: Array, log_var: Array, noise: Array) -> Array:
  return mean + (jnp.exp(0.5 * log_var) * noise).astype(mean.dtype)


@struct.dataclass
class Gated(Stochastic):
  """`value` times gates along one axis, drawn anew for each example.

  The box carries the key of its draw: leaves that share the key share their gates (tied gates),
  and a cell that is applied at each time step sees one draw per sequence.

  Attributes:
    value: the weight under the gates: an array, or a structured weight, `Gated` for gates along
      two axes.
    parameters: parameters of the gates' distribution, each (n,) or ().
    key: key of the draw.
    sample: (key, shape, *parameters) -> gates of that shape, (examples, n).
    axis: the gated axis of `value`, negative.
    positions: the axis holds this many copies of the n units, unit fastest (an NHWC flatten).
    sample_at: (key, chosen, n, *parameters) -> the gates of the units `chosen` (examples, k) of
      each example, equal to those in sample(key, (examples, n), *parameters). None where all
      gates have to be drawn to know one.
  """

  value: Any
  parameters: tuple[Array, ...]
  key: Array
  sample: Callable[..., Array] = struct.field(pytree_node=False)
  axis: int = struct.field(pytree_node=False, default=-2)
  positions: int = struct.field(pytree_node=False, default=1)
  sample_at: Callable[..., Array] | None = struct.field(pytree_node=False, default=None)

  shape = property(lambda self: self.value.shape)
  ndim = property(lambda self: self.value.ndim)
  dtype = property(lambda self: self.value.dtype)

  def draw(self, examples: int) -> Array:
    """Returns gates of shape (examples, value.shape[axis])."""
    units = self.value.shape[self.axis] // self.positions
    gates = self.sample(self.key, (examples, units), *self.parameters)
    return jnp.tile(gates, (1, self.positions)).astype(self.value.dtype)

  def draw_at(self, chosen: Array) -> Array:
    """Returns draw(examples) at the indices `chosen` (examples, k) of the axis."""
    units = self.value.shape[self.axis] // self.positions
    if self.sample_at is None or chosen.shape[1] >= units:
      return jnp.take_along_axis(self.draw(chosen.shape[0]), chosen, axis=1)
    gates = self.sample_at(self.key, chosen % units, units, *self.parameters)
    return gates.astype(self.value.dtype)


@struct.dataclass
class LowRank(Packed):
  """The matrix u @ v of shapes (in, rank) and (rank, out)."""

  u: Array
  v: Array

  shape = property(lambda self: (self.u.shape[0], self.v.shape[1]))
  ndim = property(lambda self: 2)
  dtype = property(lambda self: self.u.dtype)

  def to_dense(self) -> Array:
    return self.u @ self.v

  def entries(self) -> int:
    return int(self.u.size + self.v.size)

  def to_tensors(self) -> tuple[dict[str, Any], dict[str, Any]]:
    return {'u': self.u, 'v': self.v}, {}

  @classmethod
  def from_tensors(cls, tensors: dict[str, Any], facts: dict[str, Any]) -> LowRank:
    del facts
    return cls(tensors['u'], tensors['v'])


def is_structured(leaf: Any) -> bool:
  """True for a structured weight; for `jax.tree` functions, as is_leaf."""
  return isinstance(leaf, Structured)


def densify(tree: Any) -> Any:
  """Returns the tree with packed weights as plain arrays.

  Raises:
    ValueError: at a stochastic weight, which has no one value.
  """
  def dense(path, leaf):
    if isinstance(leaf, Packed):
      return leaf.to_dense()
    if isinstance(leaf, Structured):
      raise ValueError(f'the {type(leaf).__name__} weight at {jax.tree_util.keystr(path)} has no '
                       'one dense value; use the deployed weights, weights(params, state)')
    return leaf
  return jax.tree_util.tree_map_with_path(dense, tree, is_leaf=is_structured)
