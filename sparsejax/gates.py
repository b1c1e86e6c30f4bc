"""Where gates sit: one gate per index of an axis of a leaf, or one shared by several leaves.

`axis` is an int, or a dict {regular expression: axis} over the paths of the leaves. An entry of
the dict may be (axis, positions): the axis then holds `positions` copies of the units, unit
fastest, as the NHWC flatten between a convolution and a dense layer does. With `tied=True` all
leaves share one row of gates: a unit dies in all of them or in none.

A gate's parameters sit under the path of its leaf, with the leaf's rank and length 1 on every
other axis; tied gates sit under the first leaf (in sorted order) that has one copy of the units.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.paths import Tree, flatten

Array = jax.Array
AxisLike = int | Mapping[str, int | tuple[int, int]]


class GateAxis(NamedTuple):
  """Gates of one leaf: the leaf's `axis` (negative) holds `positions` copies of `units` units.

  `home` is the path whose parameters the gates are; `rank` is the leaf's number of axes.
  """

  axis: int
  positions: int
  units: int
  rank: int
  home: str

  def spread(self, gates: Array) -> Array:
    """Returns gates of shape (units,) or of their home's shape, broadcastable to the leaf."""
    row = jnp.tile(gates.reshape(-1), self.positions)
    return row.reshape(self.parameter_shape(row.size))

  def parameter_shape(self, length: int) -> tuple[int, ...]:
    shape = [1] * self.rank
    shape[self.axis] = length
    return tuple(shape)


def place_gates(weights: Tree, axis: AxisLike, tied: bool = False) -> dict[str, GateAxis]:
  """Returns {path: GateAxis} for the leaves of `weights`.

  Raises:
    ValueError: for an axis a leaf does not have, a leaf that the dict does not cover, a number of
      copies that does not divide, or tied leaves of different lengths.
  """
  places = {}
  for path, leaf in sorted(flatten(weights).items()):
    number, positions = _lookup(path, axis)
    if not -leaf.ndim <= number < leaf.ndim:
      raise ValueError(f'gate axis {number} does not exist on {path} {leaf.shape}; choose one from '
                       f'{-leaf.ndim} to -1, or give {{pattern: axis}}')
    number = number - leaf.ndim if number >= 0 else number
    length = leaf.shape[number]
    if length % positions:
      raise ValueError(f'{path} {leaf.shape} has {length} indices on axis {number}, which are not '
                       f'{positions} copies of whole units; correct positions')
    places[path] = GateAxis(number, positions, length // positions, leaf.ndim, path)
  if not tied:
    spread = [path for path, place in places.items() if place.positions > 1]
    if spread:
      raise ValueError(f'{spread[0]} has several copies of each unit, which needs tied=True')
    return places
  if len({place.units for place in places.values()}) != 1:
    lengths = ', '.join(f'{path} {place.units}' for path, place in places.items())
    raise ValueError(f'tied gates need one length, got {lengths}; give the axis of each leaf as '
                     'axis={pattern: axis}')
  homes = [path for path, place in places.items() if place.positions == 1]
  if not homes:
    raise ValueError(f'tied gates need one leaf with one copy of the units, got {list(places)}; '
                     'add the producer of the units to the rule')
  return {path: place._replace(home=homes[0]) for path, place in places.items()}


def _lookup(path: str, axis: AxisLike) -> tuple[int, int]:
  """Returns (axis, positions) for the leaf at `path`."""
  if isinstance(axis, int):
    return axis, 1
  found = [value for pattern, value in axis.items() if re.fullmatch(pattern, path)]
  if len(found) != 1:
    raise ValueError(f'{path} is matched by {len(found)} of the axis patterns {list(axis)}; '
                     'exactly one must match')
  return found[0] if isinstance(found[0], tuple) else (found[0], 1)
