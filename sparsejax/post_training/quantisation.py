"""Rounding of trained weights to few bits: from a tree of arrays to a tree of packed weights.

    from sparsejax.packed import grids
    small = quantise(weights, {'.*kernel': functools.partial(grids.affine, bits=4, axis=-1)})

The grids, each a function of one array: `grids.affine`, `uniform`, `power_of_two`, `ternary`,
`sign`. What comes out runs through `sparsejax.apply` and into files; `sparsejax.densify` gives the
rounded arrays. Training with the same grids: `regularisers/quantised.py`. Where there is batch-norm
it is folded into the kernels first, `compaction/fold_batch_norm.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import numpy as np

from sparsejax.packed import grids
from sparsejax.packed.grids import Grid
from sparsejax.paths import Tree, flatten, map_leaves
from sparsejax.regulariser import FREE, owners

EIGHT_BITS: Mapping[str, Grid] = {'.*(kernel|embedding)': functools.partial(grids.affine, axis=-1)}


def quantise(weights: Tree, rules: Mapping[str, Grid] = EIGHT_BITS) -> Tree:
  """Returns the tree with the leaves of each rule packed, on the host; other leaves as they are.

  Args:
    weights: nested dict of float arrays.
    rules: {regular expression that matches whole '/'-joined paths: grid}. By default int8 with a
      scale for each output unit.

  Raises:
    ValueError: for a rule that matches nothing, two that match one leaf, or values in a leaf that
      are not finite.
  """
  owner = owners(list(flatten(weights)), {pattern: pattern for pattern in rules})

  def packed(path, leaf):
    if owner[path] == FREE:
      return np.asarray(leaf)
    if not np.all(np.isfinite(np.asarray(leaf, np.float32))):
      raise ValueError(f'{path} holds values that are not finite, which no code stands for')
    return jax.device_get(rules[owner[path]](leaf))
  return map_leaves(packed, weights)
