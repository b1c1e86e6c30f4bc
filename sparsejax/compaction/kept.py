"""What a compaction kept, and the slicing of everything that is shaped like the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Kept(Mapping):
  """Reads as {path: one array of kept indices for each axis}, for all leaves of the network.

  Attributes:
    axes: that mapping. Paths of params are bare, others carry their collection in front:
      'batch_stats/norm0/mean'. Indices count in the network before the compaction.
    shapes: {path: the leaf's shape before}.
    units: {coupling's name: indices of its kept units}.
    added: {path: what folded constants added to the leaf, in the compact shape}. The compact
      variables hold these already; training that goes on with parameters of its own adds them to
      the trained values (not to moments), once these are sliced.
    created: the paths among `added` that the network before did not have (bias maps).
    notes: a sentence for each removal given up and for each row that kept one dead unit.
  """

  axes: Mapping[str, tuple[np.ndarray, ...]]
  shapes: Mapping[str, tuple[int, ...]]
  units: Mapping[str, np.ndarray]
  added: Mapping[str, np.ndarray]
  created: tuple[str, ...]
  notes: tuple[str, ...]

  def __getitem__(self, path: str) -> tuple[np.ndarray, ...]:
    return self.axes[path]

  def __iter__(self) -> Iterator[str]:
    return iter(self.axes)

  def __len__(self) -> int:
    return len(self.axes)


def slice_like(tree: Any, kept: Kept) -> Any:
  """Slices a pytree that mirrors the weights: a regulariser's params and state, moments, an EMA.

  A leaf belongs to the weight whose path ends its own key path (the longest such), if it has the
  same rank. Its axes of full length are sliced, its axes of length 1 stay (a gate of shape (784, 1)
  is sliced along the first). Every other leaf passes unchanged: counts, keys, strengths.

  Args:
    tree: any pytree of arrays; dicts, NamedTuples and lists alike.
    kept: from `compact`.

  Raises:
    ValueError: for a leaf that belongs to a weight and has an axis neither of full length nor 1.
  """
  return jax.tree_util.tree_map_with_path(lambda path, leaf: _slice_leaf(path, leaf, kept), tree)


def _slice_leaf(key_path: tuple[Any, ...], leaf: Any, kept: Kept) -> Any:
  path = jax.tree_util.keystr(key_path, simple=True, separator='/')
  parts = path.split('/')
  suffixes = ('/'.join(parts[i:]) for i in range(len(parts)))                # longest first
  owner = next((suffix for suffix in suffixes if suffix in kept.axes), None)
  if owner is None or np.ndim(leaf) != len(kept.shapes[owner]):
    return leaf
  index = []
  for axis, (length, full) in enumerate(zip(np.shape(leaf), kept.shapes[owner], strict=True)):
    if length not in (1, full):
      raise ValueError(
          f'{path} {np.shape(leaf)} belongs to {owner} {kept.shapes[owner]} and has {length} '
          f'entries on axis {axis}; slice it by hand, or store it broadcastable to its weight')
    index.append(kept.axes[owner][axis] if length == full else np.arange(1))
  sliced = np.asarray(leaf)[np.ix_(*index)]
  return jnp.asarray(sliced) if isinstance(leaf, jax.Array) else sliced
