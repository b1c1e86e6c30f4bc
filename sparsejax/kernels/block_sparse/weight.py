"""`BlockSparse`: a weight of which only some blocks are stored.

Gray, Radford, Kingma, "GPU kernels for block-sparse weights", OpenAI technical report, 2017, for
the idea; the format is ours (`layout.py`). The object is a pytree of arrays, an argument of a
jitted function like any other weight: a change of values or, within its capacity, of the pattern
compiles nothing anew.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from sparsejax.block_grid import BlockGrid, BlockSize, block_pair
from sparsejax.kernels.block_sparse.layout import (Layout, capacity_for, layout_of_indices,
                                                   layout_of_mask)
from sparsejax.kernels.block_sparse.probe import Probe
from sparsejax.structured import Packed

Array = jax.Array


@struct.dataclass
class BlockSparse(Packed):
  """A matrix (inputs, outputs) stored as its non-zero blocks; build it by `from_dense`.

  A kernel of more axes is a matrix whose rows are its leading `input_axes` axes and whose columns
  are the rest. Blocks at a ragged edge are padded with zeros, which stay zero in training.

  Attributes:
    blocks: (n, b_in, b_out) in the order of `layout`; fillers and padding hold zeros.
    layout: where they are.
    shape: of the kernel it stands for.
    input_axes: how many leading axes of `shape` are contracted with the inputs.
    frozen: the input rows of each output column, () for a filler, if `freeze` made them part of the
      program.
    probe: asks autodiff for the norms of the gradient at every block of the grid, see `probe.py`.
  """

  blocks: Array
  layout: Layout
  shape: tuple[int, ...] = struct.field(pytree_node=False)
  input_axes: int = struct.field(pytree_node=False, default=1)
  probe: Probe | None = None

  frozen: tuple[tuple[int, ...], ...] | None = struct.field(pytree_node=False, default=None)

  if TYPE_CHECKING:     # struct.dataclass makes it, where a type checker does not look
    def replace(self, **changes: Any) -> BlockSparse: ...

  ndim = property(lambda self: len(self.shape))
  dtype = property(lambda self: self.blocks.dtype)

  @property
  def block_size(self) -> tuple[int, int]:
    """(b_in, b_out)."""
    return (self.blocks.shape[-2], self.blocks.shape[-1])

  @property
  def matrix_shape(self) -> tuple[int, int]:
    """(inputs, outputs), without the padding of ragged edges."""
    return BlockGrid(self.shape, self.input_axes, self.block_size).matrix

  @property
  def grid(self) -> tuple[int, int]:
    """Blocks in a column of the matrix and in a row of it."""
    return BlockGrid(self.shape, self.input_axes, self.block_size).grid

  @property
  def capacity(self) -> int:
    """Entries of the block list: blocks, fillers and padding."""
    return self.blocks.shape[-3]

  @classmethod
  def from_dense(cls, weight: Array | np.ndarray, block_size: BlockSize, *,
                 mask: Any = None, density: float | None = None, input_axes: int = 1,
                 pad: bool = False, capacity: int | None = None) -> BlockSparse:
    """Stores the blocks of a dense weight, on the host.

    Args:
      weight: (inputs..., outputs...), float32, bfloat16 or float16.
      block_size: (b_in, b_out), or one number for both.
      mask: (grid rows, grid columns) bool: the blocks to keep. What is outside is dropped.
      density: fraction of the blocks to keep, those of the largest Frobenius norm; at least one.
        With neither, the blocks that hold a non-zero entry are kept.
      input_axes: see the class.
      pad: pads edges that the block size does not divide; without, they are an error.
      capacity: entries of the list; more than the pattern takes leave room for it to change.

    Raises:
      ValueError: for a block size that does not divide, a mask of another shape, both mask and
        density, a density outside (0, 1], or a capacity below what the pattern takes.
    """
    array = np.asarray(weight)
    if not 1 <= input_axes < array.ndim:
      raise ValueError(f'a weight of shape {array.shape} with input_axes={input_axes} is no '
                       'matrix; some leading axes must be inputs and the rest outputs')
    shape, size = array.shape, block_pair(block_size)
    grid = BlockGrid(shape, input_axes, size)
    _require_divides(grid.matrix, size, pad)
    tiles = np.asarray(grid.tiles(array))
    if mask is not None and density is not None:
      raise ValueError('give mask or density, not both')
    if density is not None:
      mask = _largest(tiles, density)
    elif mask is None:
      mask = (tiles != 0).any(axis=(2, 3))
    mask = np.asarray(mask, bool)
    if mask.shape != tiles.shape[:2]:
      raise ValueError(f'mask has shape {mask.shape}; {grid.matrix[0]} x {grid.matrix[1]} in '
                       f'blocks of {size[0]} x {size[1]} is a grid of {tiles.shape[:2]}')
    layout = layout_of_mask(mask, _capacity(mask, capacity))
    blocks = np.where(np.asarray(layout.live)[:, None, None],
                      tiles[np.asarray(layout.row), np.asarray(layout.col)], 0)
    return cls(jnp.asarray(blocks.astype(array.dtype)), layout, tuple(shape), input_axes)

  @classmethod
  def from_blocks(cls, blocks: Array, row: Any, col: Any, shape: tuple[int, ...], *,
                  input_axes: int = 1) -> BlockSparse:
    """Wraps blocks (n, b_in, b_out) that are sorted by column, then by row; every column has one.

    Raises:
      ValueError: for indices out of range, unsorted or repeated, or shapes that do not match.
    """
    if getattr(blocks, 'ndim', 0) != 3 or len(blocks) != len(np.asarray(row)):
      raise ValueError(f'blocks has shape {np.shape(blocks)}; {len(np.asarray(row))} indices need '
                       '(n, b_in, b_out) with as many blocks')
    grid = BlockGrid(shape, input_axes, (blocks.shape[1], blocks.shape[2])).grid
    layout = layout_of_indices(row, col, grid)
    return cls(jnp.asarray(blocks), layout, tuple(shape), input_axes)

  @classmethod
  def from_live_blocks(cls, blocks: Any, mask: Any, shape: tuple[int, ...], *,
                       input_axes: int = 1) -> BlockSparse:
    """Builds the weight from its live blocks (live, b_in, b_out), by column and then by row.

    Args:
      mask: (grid rows, grid columns) bool with as many True, or a function of the grid.

    Raises:
      ValueError: if the number of blocks is not that of the pattern.
    """
    blocks = np.asarray(blocks)
    grid = BlockGrid(shape, input_axes, (blocks.shape[1], blocks.shape[2])).grid
    mask = np.asarray(mask(grid) if callable(mask) else mask, bool)
    if mask.shape != grid or mask.sum() != len(blocks):
      raise ValueError(f'{len(blocks)} blocks do not fill a pattern of shape {mask.shape} with '
                       f'{mask.sum()} blocks, in a grid of {grid}')
    layout = layout_of_mask(mask, capacity_for(mask))
    entries = np.zeros((len(layout.live), *blocks.shape[1:]), blocks.dtype)
    entries[np.asarray(layout.live)] = blocks
    return cls(jnp.asarray(entries), layout, tuple(shape), input_axes)

  def to_dense(self) -> Array:
    """Returns the array of `shape`, zeros included; traceable."""
    (rows, columns), (b_in, b_out) = self.grid, self.block_size
    blocks = jnp.where(self.layout.live[:, None, None], self.blocks, 0)
    grid = jnp.zeros((rows, columns, b_in, b_out), self.dtype)
    # Fillers and padding share places with each other or with a block, and add zeros there.
    grid = grid.at[self.layout.row, self.layout.col].add(blocks)
    return BlockGrid(self.shape, self.input_axes, self.block_size).kernel(grid)

  def mask(self) -> Array:
    """Returns the pattern, (grid rows, grid columns) bool; traceable."""
    layout = self.layout
    return jnp.zeros(self.grid, bool).at[layout.row, layout.col].max(layout.live)

  def with_layout(self, mask: Array) -> BlockSparse:
    """Returns the weight on another pattern, same capacity: kept blocks keep values, new are zero.

    Traceable in the pattern, so that it can change in training without compiling anew.

    Raises:
      ValueError: for a mask of another shape, or, where the mask is concrete, one that takes more
        entries than the capacity. In a jitted function the caller guarantees it.
    """
    if mask.shape != self.grid:
      raise ValueError(f'mask has shape {mask.shape}; the grid of blocks is {self.grid}')
    if not isinstance(mask, jax.core.Tracer):
      _capacity(np.asarray(mask), self.capacity)
    layout = layout_of_mask(mask, self.capacity)
    place = jnp.full(self.grid, self.capacity, jnp.int32)
    old = jnp.where(self.layout.live, jnp.arange(self.capacity, dtype=jnp.int32), self.capacity)
    place = place.at[self.layout.row, self.layout.col].min(old)
    source = jnp.where(layout.live, place[layout.row, layout.col], self.capacity)
    blocks = jnp.take(self.blocks, source, axis=0, mode='fill', fill_value=0)
    return self.replace(blocks=blocks, layout=layout, frozen=None)

  def freeze(self) -> BlockSparse:
    """Returns the weight with its pattern made part of the program, on the host.

    For inference: a small pattern can then be unrolled. Another pattern is another program.

    Raises:
      ValueError: if there is spare capacity, which only a pattern that changes needs.
    """
    ptr, row = np.asarray(self.layout.ptr), np.asarray(self.layout.row)
    if ptr[-1] != self.capacity:
      raise ValueError(f'{self} has {self.capacity - ptr[-1]} spare entries; build it without '
                       'capacity to freeze it')
    live = np.asarray(self.layout.live)
    return self.replace(frozen=tuple(tuple(map(int, row[start:end][live[start:end]]))
                                     for start, end in zip(ptr, ptr[1:])))

  def merge(self, block_size: BlockSize) -> BlockSparse:
    """Returns the same matrix in larger blocks, inner zeros kept, on the host.

    The tile a device multiplies well (128 wide on a TPU) may be larger than the block that was
    pruned. The pattern of the small blocks is lost: train before you merge.

    Raises:
      ValueError: if the new block size is no multiple of the old one.
    """
    size = block_pair(block_size)
    for new, old in zip(size, self.block_size):
      if new % old:
        raise ValueError(f'blocks of {self.block_size} do not merge into {size}: each side must be '
                         'a multiple')
    (up, across), (rows, columns) = ((n // o for n, o in zip(size, self.block_size)), self.grid)
    small = np.asarray(self.mask())
    small = np.pad(small, ((0, -rows % up), (0, -columns % across)))
    mask = small.reshape(small.shape[0] // up, up, -1, across).any(axis=(1, 3))
    dense = np.asarray(self.to_dense())
    return type(self).from_dense(dense, size, mask=mask, input_axes=self.input_axes, pad=True)

  def to_tensors(self) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the live blocks and one bit per block of the grid, which says their order."""
    live = np.asarray(self.layout.live)
    tensors = {'blocks': np.asarray(self.blocks)[live],
               'pattern': np.packbits(np.asarray(self.mask()))}
    return tensors, {'shape': list(self.shape), 'input_axes': self.input_axes,
                     'frozen': self.frozen is not None}

  @classmethod
  def from_tensors(cls, tensors: dict[str, Any], facts: dict[str, Any]) -> BlockSparse:
    """The inverse; fillers are made anew, spare capacity is gone."""
    def mask(grid):
      return np.unpackbits(tensors['pattern'], count=grid[0] * grid[1]).reshape(grid)
    weight = cls.from_live_blocks(tensors['blocks'], mask, tuple(facts['shape']),
                                  input_axes=facts['input_axes'])
    return weight.freeze() if facts['frozen'] else weight

  def transpose(self) -> BlockSparse:
    """Returns the transposed matrix (outputs, inputs), on the host; a kernel of two axes only."""
    if self.ndim != 2:
      raise ValueError(f'a kernel of shape {self.shape} has no one transpose; reshape it first')
    return type(self).from_dense(np.asarray(self.to_dense()).T, self.block_size[::-1],
                                 mask=np.asarray(self.mask()).T, pad=True)

  def split(self, parts: int) -> BlockSparse:
    """Returns `parts` weights of equal output width, all arrays stacked along a new leading axis.

    For `jax.shard_map` over output blocks: shard the leading axis, take index 0 of it inside.
    `shape` is that of one part. All parts get the capacity of the fullest.

    Raises:
      ValueError: if the parts do not cut the last axis between blocks.
    """
    columns = self.grid[1]
    if self.input_axes != self.ndim - 1 or parts < 1 or columns % parts or (
        self.shape[-1] % (parts * self.block_size[1])):
      raise ValueError(f'{parts} parts do not cut the outputs of {self} between whole blocks')
    width = self.shape[-1] // parts
    masks = np.split(np.asarray(self.mask()), parts, axis=1)
    capacity = max(map(capacity_for, masks))
    dense = np.asarray(self.to_dense())
    pieces = [type(self).from_dense(dense[..., i * width:(i + 1) * width], self.block_size,
                                    mask=masks[i], input_axes=self.input_axes, pad=True,
                                    capacity=capacity) for i in range(parts)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *pieces)

  def num_blocks(self) -> int:
    """Returns the number of blocks that are trained, on the host: no fillers, no padding."""
    return int(np.sum(np.asarray(self.layout.live)))

  def entries(self) -> int:
    """Returns how many numbers its blocks hold, on the host; no fillers, no spare capacity."""
    return self.num_blocks() * math.prod(self.block_size)

  def density(self) -> float:
    """Returns the fraction of the grid that is stored and trained, on the host."""
    return self.num_blocks() / math.prod(self.grid)

  def __repr__(self) -> str:
    size = 'x'.join(map(str, self.block_size))
    return (f'BlockSparse({self.shape}, {self.dtype}, {self.capacity} entries of {size} in a grid '
            f'of {self.grid[0]}x{self.grid[1]})')


def _require_divides(matrix: tuple[int, ...], size: tuple[int, int], pad: bool) -> None:
  ragged = [(n, b) for n, b in zip(matrix, size) if n % b]
  if ragged and not pad:
    raise ValueError(f'blocks of {size[0]} x {size[1]} do not divide a matrix of {matrix[0]} x '
                     f'{matrix[1]}; choose a divisor, or pass pad=True')


def _largest(tiles: np.ndarray, density: float) -> np.ndarray:
  if not 0 < density <= 1:
    raise ValueError(f'density={density} must lie in (0, 1]')
  norms = np.square(tiles.astype(np.float64)).sum(axis=(2, 3))
  kept = max(1, round(density * norms.size))
  mask = np.zeros(norms.size, bool)
  mask[np.argsort(-norms.reshape(-1), kind='stable')[:kept]] = True
  return mask.reshape(norms.shape)


def _capacity(mask: np.ndarray, capacity: int | None) -> int:
  needed = capacity_for(mask)
  if capacity is not None and capacity < needed:
    raise ValueError(f'the pattern takes {needed} entries (its blocks and one for each empty '
                     f'output column), more than the capacity {capacity}')
  return needed if capacity is None else capacity
