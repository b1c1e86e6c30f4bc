"""Zeros where nobody reads: what makes a unit is set to zero once all that reads it is.

The function of the network stays as it is, and its weights count as in the compact network. This is
the first rule of `compact.py`, here on arrays under `jit` and once over the couplings, from the
last to the first: all that a feed-forward network needs. Units that read only one another
(recurrence) stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from sparsejax.compaction.couplings import Axis, Coupling
from sparsejax.paths import Tree, flatten, unflatten

Array = jax.Array


def without_unread(weights: Tree, couplings: Sequence[Coupling]) -> Tree:
  """Returns the weights with zeros in place of the slices that make units nobody reads.

  Args:
    weights: plain arrays, at the paths the couplings name; other collections are not touched.
    couplings: of the model, in the order of the forward pass.
  """
  leaves = flatten(weights)
  for coupling in reversed(couplings):
    units = _units(coupling, leaves)
    read = jnp.zeros(units, bool)
    for axis in coupling.reads:
      leaf = leaves[axis.path]
      used = jnp.any(leaf != 0, _others(leaf, axis))
      read = read.at[axis.unit_of(used.size, units)].max(used)
    for write in coupling.writes:
      if write.role == 'weight' and write.path in leaves:
        leaf = leaves[write.path]
        along = read[write.unit_of(leaf.shape[write.axis], units)]
        leaves[write.path] = jnp.where(jnp.expand_dims(along, _others(leaf, write)), leaf,
                                       jnp.zeros_like(leaf))
  return unflatten(leaves)


def _units(coupling: Coupling, leaves: Tree) -> int:
  """The number of units, from the first axis that a leaf of these has."""
  first = next(axis for axis in (*coupling.writes, *coupling.reads) if axis.path in leaves)
  return leaves[first.path].shape[first.axis] // first.positions


def _others(leaf: Array, axis: Axis) -> tuple[int, ...]:
  return tuple(i for i in range(leaf.ndim) if i != axis.axis % leaf.ndim)
