"""Couplings: axes that die together.

A unit (a neuron, a filter, a head, an input pixel) is spread over several leaves: the column of the
kernel that makes it, its bias, its batch-norm entries, and the rows of every kernel that reads it.
A `Coupling` lists those axes once, beside the model. `compact` reads it to cut units out; a tied
gate reads it (`gate_axes`) to put one gate on all of them.

Paths are '/'-joined as in `weights`; a leaf of another collection carries its name in front:
'batch_stats/norm0/mean'.

Two rows of units may share an axis: behind the flatten of an image each row of the dense kernel may
be gathered away alone (a coupling without writes), or with all other positions of its channel (the
channel's coupling). The axis then keeps what both agree to keep.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping

import numpy as np

Leaves = Mapping[str, np.ndarray]

ROLES = ('weight', 'scale', 'offset', 'statistic')


@dataclasses.dataclass(frozen=True)
class Axis:
  """One axis of one leaf, and which unit each of its indices belongs to.

  Attributes:
    path: the leaf.
    axis: the axis of the leaf; negative counts from the end.
    positions: the axis holds this many copies of the units, unit fastest, as the flatten of an NHWC
      image does: index = position * units + unit.
    gather: where the model gathers behind such a flatten, the flat indices that it gathers; the
      axis then has len(gather) entries.
  """

  path: str
  axis: int
  positions: int = 1
  gather: tuple[int, ...] | None = None

  def unit_of(self, length: int, units: int) -> np.ndarray:
    """Returns the unit of each of the `length` indices of the axis, (length,) int.

    Raises:
      ValueError: where the length is not what units, positions and gather imply.
    """
    flat = np.arange(units * self.positions) if self.gather is None else np.asarray(self.gather)
    if len(flat) != length:
      implied = f'{units} units x {self.positions} positions'
      if self.gather is not None:
        implied = f'a gather of {len(flat)} of {implied}'
      raise ValueError(f'axis {self.axis} of {self.path} has {length} entries, its coupling '
                       f'implies {implied}; build the couplings from the same model and variables')
    return flat % units

  def spread(self, emission: np.ndarray) -> np.ndarray:
    """Returns what each index of the axis reads when the units emit (units,) or (..., units).

    Behind a flatten or a gather that is (length,); else the emission itself, positions in front.
    """
    if self.positions == 1 and self.gather is None:
      return emission
    flat = np.tile(emission, self.positions) if emission.ndim == 1 else emission.reshape(-1)
    return flat if self.gather is None else flat[np.asarray(self.gather)]


@dataclasses.dataclass(frozen=True)
class Write(Axis):
  """An axis of a leaf that makes the units.

  Attributes:
    role: 'weight' carries the signal: a unit whose weights are all zero is a constant. 'scale'
      multiplies the signal of the weight `scales` (batch-norm's scale): a zero scale is as good as
      zero weights. 'offset' is whatever else follows the unit (bias, a reader's own norm).
      'statistic' is not trained and takes no gate.
    scales: for the role 'scale', the path of that weight.
    optional: the leaf may be absent (a bias map that only some compactions make); takes no gate.
  """

  role: str = 'weight'
  scales: str | None = None
  optional: bool = False

  def __post_init__(self):
    if self.role not in ROLES:
      raise ValueError(f'role {self.role!r} of {self.path} is unknown; use one of {ROLES}')
    if (self.role == 'scale') != (self.scales is not None):
      raise ValueError(f'{self.path} has role {self.role!r} and scales={self.scales!r}; the role '
                       "'scale', and no other, names the weight that it multiplies")


def through_dense(emission: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  """What Dense makes of a constant input: (in,), (in, out) -> (out,)."""
  return emission.reshape(-1) @ kernel


def through_valid_conv(emission: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  """What a VALID conv makes of an input constant in space: (in,), (kh, kw, in, out) -> (out,).

  Raises:
    ValueError: for an emission that varies in space.
  """
  if emission.ndim != 1:
    raise ValueError(f'emission {emission.shape} varies in space, so a VALID convolution makes an '
                     'image of it, which no bias can take')
  return np.einsum('i,hwio->o', emission, kernel)


def through_same_conv(emission: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  """What a SAME conv of stride 1 makes of a fixed image.

  (H, W, in), (kh, kw, in, out) -> (H, W, out). The zero padding is seen along the border, so that
  even an image of one value gives a map, not one number for each output.

  Raises:
    ValueError: for an emission (in,) that does not say how large the image is.
  """
  if emission.ndim != 3:
    raise ValueError(f'a constant {emission.shape} is read through SAME padding, and what becomes '
                     'of it at the border depends on the size of the image; give compact '
                     'example_shape=(B, H, W, channels)')
  (kh, kw), (h, w) = kernel.shape[:2], emission.shape[:2]
  top, left = (kh - 1) // 2, (kw - 1) // 2                     # XLA pads what is left at the end
  padded = np.pad(emission, ((top, kh - 1 - top), (left, kw - 1 - left), (0, 0)))
  return sum(padded[i:i + h, j:j + w] @ kernel[i, j] for i in range(kh) for j in range(kw))


@dataclasses.dataclass(frozen=True)
class Read(Axis):
  """An axis of a consumer's kernel that reads the units.

  Attributes:
    emits: leaves (float64) -> what this reader is handed by the units when their incoming weights
      are zero: (units,) or, varying in space, (H, W, units). None where that is no constant (a
      recurrent state): such units stay until nobody needs them.
    fold: (emission, kernel) -> what the reader adds to its output for a constant emission.
    into: the leaf that takes that sum exactly (the reader's bias); None where there is none.
    creates: `into` is made where missing (a bias map, for which the model has a switch).
  """

  emits: Callable[[Leaves], np.ndarray] | None = None
  fold: Callable[[np.ndarray, np.ndarray], np.ndarray] = through_dense
  into: str | None = None
  creates: bool = False


@dataclasses.dataclass(frozen=True)
class Coupling:
  """One row of units and every axis that dies with them.

  Attributes:
    name: unique in the model; its `compacted` method is told by this name what stays.
    writes: axes of the leaves that make unit i. Empty for what the network does not make: its
      inputs, or the single rows behind a flatten.
    reads: axes of the kernels that read unit i, at least one; each says what it is handed by a
      constant unit, which in a residual network differs from block to block.
  """

  name: str
  writes: tuple[Write, ...]
  reads: tuple[Read, ...]

  def __post_init__(self):
    if not self.reads:
      raise ValueError(f'coupling {self.name!r} has no reads; the outputs of a network are no '
                       'coupling, since they cannot be cut')

  def units(self, leaves: Leaves) -> int:
    """Returns the number of units, from the first axis that is not optional.

    Raises:
      ValueError: for a missing leaf, or an axis that is not a whole number of copies.
    """
    for axis in (*self.writes, *self.reads):
      if axis.path not in leaves and not getattr(axis, 'optional', False):
        raise ValueError(f'coupling {self.name!r} names {axis.path}; the leaves are '
                         f'{", ".join(leaves)}')
    first = next((write for write in self.writes if not write.optional), self.reads[0])
    length = leaves[first.path].shape[first.axis]
    if length % first.positions:
      raise ValueError(f'coupling {self.name!r}: axis {first.axis} of {first.path} has {length} '
                       f'entries, which are not {first.positions} copies of whole units')
    return length // first.positions

  def gate_axes(self, side: str = 'both') -> dict[str, int | tuple[int, int]]:
    """Returns {regex of a path: axis, or (axis, positions)}, the `axis` of tied gates.

    Args:
      side: 'reads', 'writes' or 'both'.

    Raises:
      ValueError: for another side, a leaf on both sides, or a read behind a gather.
    """
    if side not in ('reads', 'writes', 'both'):
      raise ValueError(f"side {side!r} is not 'reads', 'writes' or 'both'")
    axes: list[Axis] = []
    if side != 'reads':
      axes += [write for write in self.writes if write.role != 'statistic' and not write.optional]
    if side != 'writes':
      axes += self.reads
    found: dict[str, int | tuple[int, int]] = {}
    for axis in axes:
      if axis.gather is not None:
        raise ValueError(f'coupling {self.name!r} reads {axis.path} through a gather, where units '
                         "do not repeat regularly; gate with side='writes', or the single rows")
      pattern = re.escape(axis.path)
      if pattern in found:
        raise ValueError(f'coupling {self.name!r} writes and reads {axis.path}, which takes one '
                         "row of tied gates; use side='reads' or side='writes'")
      found[pattern] = axis.axis if axis.positions == 1 else (axis.axis, axis.positions)
    return found

  def leaves(self, side: str = 'both') -> str:
    """Returns a regex that fully matches the leaves of `gate_axes(side)`, for a `partition`."""
    return '|'.join(self.gate_axes(side))


def layer_writes(name: str, bias: bool = True) -> tuple[Write, ...]:
  """The writes of Flax's Dense or Conv: the last axis of its kernel and of its bias."""
  kernel = Write(f'{name}/kernel', -1)
  return (kernel, Write(f'{name}/bias', -1, role='offset')) if bias else (kernel,)


def norm_writes(name: str, scales: str) -> tuple[Write, ...]:
  """The writes of Flax's BatchNorm behind the kernel `scales`: scale, bias, mean and variance."""
  return (
      Write(f'{name}/scale', -1, role='scale', scales=scales),
      Write(f'{name}/bias', -1, role='offset'),
      Write(f'batch_stats/{name}/mean', -1, role='statistic'),
      Write(f'batch_stats/{name}/var', -1, role='statistic'),
  )


def relu_of(bias: str) -> Callable[[Leaves], np.ndarray]:
  """The `emits` behind a bias, ReLU and perhaps max-pooling: relu(bias), (units,)."""
  return lambda leaves: np.maximum(leaves[bias], 0)
