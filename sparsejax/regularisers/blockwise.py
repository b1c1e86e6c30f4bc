"""Any method of rows, block by block: gates, groups and noise for the blocks of a matrix.

The inner method is shown each kernel as a matrix with one row per block, (blocks, b_in * b_out), so
that its axis -2 runs over blocks: L0 gates per block, a group lasso of blocks, dropout of blocks.
What it draws goes back to the kernel's shape. Blocks that are zero in the end cost nothing once the
weights are packed, which zeros strewn about do not give.

Magnitude pruning needs none of this: `magnitude_pruning(granularity=(b_in, b_out))`.
"""

from __future__ import annotations

import jax

from sparsejax.block_grid import (BlockGrid, BlockSize, block_grid, block_pair, recorded_shape,
                                  shape_record)
from sparsejax.paths import Tree, flatten, map_leaves
from sparsejax.regulariser import Regulariser, finalise
from sparsejax.structured import densify, is_structured

Array = jax.Array


def blockwise(regulariser: Regulariser, block_size: BlockSize) -> Regulariser:
  """Returns the method that applies `regulariser` to the blocks of each kernel.

  A kernel of more than two axes is the matrix of its leading axes by the last one: a convolution
  (height, width, in, out) has blocks of b_in neighbours in (height, width, in), `in` fastest.

  Args:
    regulariser: sees leaves (blocks, b_in * b_out) at the kernels' paths. The blocks are in order
      of block row, then block column; within a row, the block's entries row by row.
    block_size: (b_in, b_out), or one number for both.

  Trained: the params of `regulariser`, in the form it sees. State: `blockwise`, its state, and
  `axes`, which keeps the kernels' shapes.

  Raises:
    ValueError: for a block size below 1; from `init`, for a leaf of one axis or one that the blocks
      do not divide; from `weights`, if `regulariser` draws structured weights (noise='local',
      per='example'), which have no blocks.
  """
  block = block_pair(block_size)

  def grids(state: Tree) -> dict[str, BlockGrid]:
    shapes = _records(state['axes'])
    return {path: block_grid(path, shape, block) for path, shape in shapes.items()}

  def init(key, weights):
    # Checked first, so that the message has the path.
    covers = {path: block_grid(path, leaf.shape, block) for path, leaf in flatten(weights).items()}
    params, state = regulariser.init(key, _rows(weights, covers))
    axes = map_leaves(lambda path, leaf: shape_record(leaf.shape), weights)
    return params, {'blockwise': state, 'axes': axes}

  def weights(params, state, key=None):
    return _kernels(regulariser.weights(params, state['blockwise'], key), grids(state))

  def penalty(params, state, key=None):
    return regulariser.penalty(params, state['blockwise'], key)

  def update(params, state, *, step, weight_grads=None, key=None):
    if weight_grads is not None:
      weight_grads = _rows(weight_grads, grids(state))
    params, inner = regulariser.update(params, state['blockwise'], step=step,
                                       weight_grads=weight_grads, key=key)
    return params, {**state, 'blockwise': inner}

  def finalise_blocks(params, state):
    return _kernels(densify(finalise(regulariser, params, state['blockwise'])), grids(state))

  return Regulariser(init, weights, penalty, update, finalise_blocks,
                     regulariser.needs_weight_grads)


def _rows(kernels: Tree, grids: dict[str, BlockGrid]) -> Tree:
  """Returns each kernel as (blocks, b_in * b_out)."""
  def rows(path, leaf):
    grid = grids[path]
    return grid.tiles(leaf).reshape(-1, grid.block[0] * grid.block[1])
  return map_leaves(rows, kernels)


def _kernels(rows: Tree, grids: dict[str, BlockGrid]) -> Tree:
  """The inverse of `_rows`."""
  def kernel(path, leaf):
    if is_structured(leaf):
      raise ValueError(f'in blockwise(regulariser), regulariser draws a {type(leaf).__name__} at '
                       f"{path}, which has no blocks; use noise='weight' or per='batch' in it")
    return grids[path].kernel(leaf)
  return map_leaves(kernel, rows)


def _records(axes: Tree) -> dict[str, tuple[int, ...]]:
  """Returns {path: shape} of the records under the paths of the leaves."""
  records: dict[str, Tree] = {}
  for path, array in flatten(axes).items():
    leaf, _, axis = path.rpartition('/')
    records.setdefault(leaf, {})[axis] = array
  return {path: recorded_shape(record) for path, record in records.items()}
