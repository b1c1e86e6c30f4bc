"""Where the non-zero blocks of a matrix are: one set of index arrays for every backend.

The blocks are listed by output block column, within a column by input block row. The permuted
order, by row and then by column, serves the product with the transpose. Two kinds of entries hold
zeros and are never trained:

* a *filler*, one for each output column without blocks, so that a kernel that walks over the blocks
  visits every output and writes its bias and activation there too;
* *padding* behind the last used entry, up to the capacity, so that the pattern can change while the
  program stays the same. Padding points at the last row and column and comes last in both orders,
  so that a walk over all entries stays sorted and only adds zeros.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


class Layout(NamedTuple):
  """Index arrays of n entries in a grid of blocks (rows, columns); all int32 but `live`.

  Attributes:
    row, col: (n,) input block row and output block column of each entry.
    ptr: (columns + 1,) the entries of column j are ptr[j] to ptr[j + 1]; ptr[-1] <= n.
    perm: (n,) the entries by row, then by column.
    row_ptr: (rows + 1,) the same as ptr for rows, in positions of `perm`.
    live: (n,) bool, False for fillers and padding.
  """

  row: Array
  col: Array
  ptr: Array
  perm: Array
  row_ptr: Array
  live: Array


def capacity_for(mask: Any) -> int:
  """Returns the number of entries that a pattern takes: its blocks and one per empty column."""
  mask = np.asarray(mask, bool)
  return int(mask.sum() + (~mask.any(axis=0)).sum())


def layout_of_mask(mask: Array | np.ndarray, capacity: int) -> Layout:
  """Returns the layout of a pattern; traceable in the pattern, with a static capacity.

  Args:
    mask: (rows, columns) bool, True where a block may be non-zero.
    capacity: number of entries n. The pattern must fit (`capacity_for`): what does not is dropped,
      which only a caller on the host can see. `BlockSparse` checks what it can.
  """
  mask = jnp.asarray(mask, bool)
  rows, columns = mask.shape
  first = (jnp.arange(rows) == 0)[:, None]
  filled = mask | (first & ~mask.any(axis=0)[None, :])
  (index,) = jnp.nonzero(filled.T.reshape(-1), size=capacity, fill_value=rows * columns - 1)
  index = index.astype(jnp.int32)
  col, row = index // rows, index % rows
  ptr = _offsets(filled.sum(axis=0), capacity)
  used = jnp.arange(capacity) < ptr[-1]
  return Layout(row, col, ptr, _by_row(row, used, rows), _offsets(filled.sum(axis=1), capacity),
                used & mask[row, col])


def layout_of_indices(row: np.ndarray, col: np.ndarray, grid: tuple[int, int]) -> Layout:
  """Returns the layout of blocks at (row, col), on the host.

  Args:
    row, col: (n,) integers, sorted by column and then by row, without repeats; every column has
      an entry.
    grid: (rows, columns).

  Raises:
    ValueError: for indices out of range, unsorted, repeated, or a column without an entry.
  """
  row, col = np.asarray(row), np.asarray(col)
  if row.ndim != 1 or row.shape != col.shape or not len(row):
    raise ValueError(f'row has shape {row.shape} and col {col.shape}; both must be (n,) with n at '
                     'least 1')
  for name, index, limit in (('row', row, grid[0]), ('col', col, grid[1])):
    if not np.issubdtype(index.dtype, np.integer):
      raise ValueError(f'{name} has dtype {index.dtype}; block indices are integers')
    outside = np.flatnonzero((index < 0) | (index >= limit))
    if outside.size:
      raise ValueError(f'{name}[{outside[0]}] = {index[outside[0]]} is out of range: the matrix '
                       f'has {limit} blocks there')
  place = col.astype(np.int64) * grid[0] + row
  falling = np.flatnonzero(np.diff(place) <= 0)
  if falling.size:
    at = falling[0]
    raise ValueError(f'blocks {at} and {at + 1} at (row, col) ({row[at]}, {col[at]}) and '
                     f'({row[at + 1]}, {col[at + 1]}) are out of order or repeated; sort by '
                     'column, then by row')
  missing = np.setdiff1d(np.arange(grid[1]), col)
  if missing.size:
    raise ValueError(f'output block column {missing[0]} has no block; give it one zero block, or '
                     'use BlockSparse.from_dense, which does')
  mask = np.zeros(grid, bool)
  mask[row, col] = True
  return layout_of_mask(mask, len(row))


def _offsets(counts: Array, capacity: int) -> Array:
  ends = jnp.minimum(jnp.cumsum(counts), capacity)
  return jnp.concatenate([jnp.zeros(1, jnp.int32), ends.astype(jnp.int32)])


def _by_row(row: Array, used: Array, rows: int) -> Array:
  return jnp.argsort(jnp.where(used, row, rows), stable=True).astype(jnp.int32)
