"""From zeros in blocks to a network that is smaller and faster: `pack`, or the reason not to.

A block-sparse product is not faster than the dense one at every density: below the crossing point,
which depends on the device, the block, the batch and whether one trains, the dense kernel with the
zeros in place wins. `pack` asks the device's cost table and leaves those weights dense, once,
instead of at every call.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from sparsejax.kernels.block_sparse import BlockSparse, cost, xla
from sparsejax.kernels.block_sparse.backend import Problem
from sparsejax.paths import Tree, flatten, unflatten

WORTH_IT = 0.8    # predictions miss by up to a fifth, and what is packed must not be slower
PURPOSES = {'inference': cost.OPERATIONS[:1], 'training': cost.OPERATIONS}


class Packed(NamedTuple):
  """What became of one weight.

  Attributes:
    path: '/'-joined. packed: whether it is `BlockSparse` now. density: of its blocks.
    block_size: (b_in, b_out).
    dense_microseconds, sparse_microseconds: predicted for its products; None without a table.
    reason: in words.
  """

  path: str
  packed: bool
  density: float
  block_size: tuple[int, int]
  dense_microseconds: float | None
  sparse_microseconds: float | None
  reason: str

  def row(self) -> dict[str, Any]:
    """Returns it as a row of the ledger's `packed_layers`."""
    return {'path': self.path, 'packed': self.packed, 'kind': BlockSparse.__name__,
            'block_size': list(self.block_size), 'density': self.density, 'reason': self.reason}


def pack(
    weights: Tree,
    rules: Mapping[str, int | tuple[int, int]],
    *,
    rows: int,
    purpose: str = 'inference',
    input_axes: Mapping[str, int] | None = None,
    pad: bool = False,
    force: bool = False,
) -> tuple[Tree, list[Packed]]:
  """Stores weights as `BlockSparse` where that is predicted to be faster, on the host.

  Weights that are `BlockSparse` already and that a rule names are judged anew: below the crossing
  point they come back dense.

  Args:
    weights: deployed weights, with exact zeros in whole blocks.
    rules: {regex of paths, full match: block size}; each must match a leaf, no leaf two.
    rows: rows of the product, the examples of a batch times positions, that will be run.
    purpose: 'inference' compares one product, and freezes small patterns (`BlockSparse.freeze`);
      'training' compares all three.
    input_axes: {regex: leading axes that are inputs}; all but the last axis otherwise, as for Dense
      and Conv. The projections into the heads of an attention have 1, the one out of them 2.
    pad: pads edges that the block size does not divide; without, they are an error.
    force: packs whatever the prediction.

  Returns: the tree, and what became of each weight that a rule names.

  Raises:
    ValueError: for a rule without a leaf, a leaf of two rules, a purpose that is not known, or a
      block size that does not divide without `pad`.
  """
  if purpose not in PURPOSES:
    raise ValueError(f"purpose={purpose!r} is not 'inference' or 'training'")
  leaves = flatten(weights)
  sizes = _matches(rules, leaves, 'rule')
  axes = _matches(input_axes or {}, leaves, 'input_axes rule')
  missed = [pattern for pattern in rules
            if not any(re.fullmatch(pattern, path) for path in sizes)]
  if missed:
    raise ValueError(f'the rule {missed[0]!r} matches no weight; paths are '
                     f'{", ".join(sorted(leaves))}')
  report = []
  for path, size in sizes.items():
    leaf = leaves[path]
    if not isinstance(leaf, BlockSparse):
      try:
        leaf = BlockSparse.from_dense(np.asarray(leaf), size,
                                      input_axes=axes.get(path, np.ndim(leaf) - 1), pad=pad)
      except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    if purpose == 'inference' and leaf.capacity <= xla.UNROLLED_ENTRIES:
      leaf = leaf.freeze()
    found = _judge(path, leaf, rows, purpose, force)
    report.append(found)
    leaves[path] = leaf if found.packed else leaf.to_dense()
  return unflatten(leaves), report


def _judge(path: str, weight: BlockSparse, rows: int, purpose: str, force: bool) -> Packed:
  platform = jax.default_backend()
  kind = '' if platform == 'cpu' else jax.devices()[0].device_kind
  problem = Problem(rows, weight.block_size, weight.grid, weight.capacity, weight.dtype.name,
                    platform, kind, weight.frozen)
  table = cost.table_for(platform, kind)
  density = weight.density()
  if table is None:
    gains = not cost.dense_pays('matmul', problem)
    rule = f'no cost table for {platform}: packed below half of the blocks'
    return Packed(path, gains or force, density, weight.block_size, None, None, rule)
  dense = sparse = 0.0
  for operation in PURPOSES[purpose]:
    turned = problem.transposed if operation == 'transposed' else problem
    dense += table.dense_microseconds(operation, turned, scatter=False)
    sparse += table.sparse_microseconds(operation, cost.best_form(operation, turned), turned)
  gains = sparse < WORTH_IT * dense
  times = f'{sparse:.0f} us against {dense:.0f} us dense predicted for {purpose}, {rows} rows'
  if gains:
    reason = f'packed: {times}'
  elif force:
    reason = f'packed by force: {times}'
  else:
    reason = f'left dense, nothing would be gained: {times}'
  return Packed(path, gains or force, density, weight.block_size, dense, sparse, reason)


def matching(pattern: str, leaves: Mapping[str, Any]) -> list[str]:
  """Returns the paths that a rule's pattern names: of matrices, and not of emptied ones."""
  return [path for path, leaf in leaves.items()
          if re.fullmatch(pattern, path) and len(leaf.shape) >= 2 and math.prod(leaf.shape) >= 2]


def _matches(rules: Mapping[str, Any], leaves: Mapping[str, Any], name: str) -> dict[str, Any]:
  """Returns {path: value of the rule that matches it}."""
  found: dict[str, Any] = {}
  owner: dict[str, str] = {}
  for pattern, value in rules.items():
    for path in matching(pattern, leaves):
      if path in owner:
        raise ValueError(f'{path} is matched by the {name}s {owner[path]!r} and {pattern!r}; let '
                         'one of them match')
      found[path], owner[path] = value, pattern
  return found
