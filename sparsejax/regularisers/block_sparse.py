"""Training with weights of which only some blocks exist, from the start and to the end.

Gray, Radford, Kingma, "GPU kernels for block-sparse weights", OpenAI technical report, 2017, trains
networks so: the pattern is chosen before training, and nothing of the rest is stored, multiplied or
given a gradient. What is trained are the blocks alone; layers see a `BlockSparse` weight, whose
products cost what the blocks cost. Where we differ: the report starts recurrent weights at the
identity, while here the model's own initial values are kept, scaled up for the inputs that are
gone.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.block_grid import (BlockGrid, BlockSize, block_grid, block_pair, recorded_shape,
                                  shape_record)
from sparsejax.block_patterns import GRAPHS, dealt, graph_pattern
from sparsejax.kernels.block_sparse import BlockSparse
from sparsejax.kernels.block_sparse.layout import Layout, capacity_for, layout_of_mask
from sparsejax.paths import Tree, flatten, fold, unflatten
from sparsejax.regulariser import Regulariser
from sparsejax.regularisers.dynamic_mask import largest
from sparsejax.regularisers.static_mask import Density, kept_counts, require_densities
from sparsejax.structured import densify

Array = jax.Array

DRAWN = ('random', *GRAPHS)      # patterns that do not look at the weights
LAYOUTS = (*DRAWN, 'magnitude', 'given')


def block_sparse(
    block_size: BlockSize | None,
    *,
    layout: str | Mapping[str, Any] = 'random',
    density: Density | None = None,
    allocation: str = 'uniform',
    seed: int | None = None,
    rewiring: float = 0.2,
    rescale: bool | None = None,
    input_axes: int | None = None,
    pad: bool = False,
) -> Regulariser:
  """Trains the blocks of a fixed pattern; the weights are `BlockSparse`. No penalty.

  A kernel of more than two axes is a matrix, see `input_axes`. Every output column keeps a block,
  but for a pattern of your own.

  Args:
    block_size: (b_in, b_out), or one number for both; with layout='given' None stands for what the
      weights have.
    layout: which blocks exist:
      'random': as equal a number in all columns and in all rows, drawn from the key of `init`;
      'barabasi_albert', 'watts_strogatz': small worlds, see `block_patterns.graph_pattern`, whose
        densities come in steps: the nearest is taken;
      'magnitude': the blocks of largest Frobenius norm in the weights given to `init`, and the
        largest of each column: sparse fine-tuning;
      'given': the weights are `BlockSparse` already (`sparsejax.pack`) and keep their pattern;
      {leaf path: (grid rows, grid columns) bool}: your own, for every leaf.
    density: fraction of the blocks kept, in (0, 1], or {leaf path: density}; for the layouts by
      name but 'given'. allocation: how a number is shared out, see `static_mask`.
    seed: of the graphs, drawn on the host, one for each leaf. Other layouts take none.
    rewiring: of 'watts_strogatz'.
    rescale: multiplies the initial values of each output column by sqrt(inputs / stored inputs), as
      if He's, LeCun's or Glorot's in-going rule had been told the inputs that are left, so that the
      variance of activations is that of the dense layer. By default where the pattern does not come
      from the weights: not for 'magnitude' and 'given', which continue from trained values.
    input_axes: leading axes of a kernel that are inputs; all but the last by default, as for Dense
      and Conv. An attention projection (in, heads, features) has 1.
    pad: lets blocks stick out of a ragged edge.

  Trained: the blocks of each leaf under its path, (blocks, b_in, b_out), by output column and then
  by row. State: `layout` (index arrays, see `Layout`) and `axes`, which keeps the kernels' shapes.
  `finalise` returns dense arrays.

  Raises:
    ValueError: for options that make no sense together and, from `init`, for a leaf that blocks do
      not divide, fewer blocks than output columns, a density that no graph has, masks of the wrong
      shapes or paths, or weights that are or are not `BlockSparse`, against the layout.
  """
  start = Start(block_size, layout, density, allocation, seed, rewiring, rescale, input_axes, pad)
  # Only such patterns have entries that are no blocks and must stay zero whatever moves params.
  fillers = not isinstance(layout, str) or layout == 'given'

  def init(key, weights):
    blocks, layouts, axes = start(key, weights)
    state = {'layout': {path: entry._asdict() for path, entry in layouts.items()}}
    return unflatten(blocks), {'layout': unflatten(state['layout']), 'axes': axes}

  def weights(params, state, key=None):
    del key
    boxes = {}
    for path, blocks, entry, grid in entries(params, state, input_axes):
      if fillers:
        blocks = jnp.where(entry['live'][:, None, None], blocks, jnp.zeros_like(blocks))
      boxes[path] = BlockSparse(blocks, Layout(**entry), grid.shape, grid.input_axes)
    return unflatten(boxes)

  def finalise(params, state):
    return jax.device_get(densify(weights(params, state)))

  return Regulariser(init, weights, finalise=finalise)


def entries(params: Tree, state: Tree,
            input_axes: int | None) -> list[tuple[str, Array, dict[str, Array], BlockGrid]]:
  """Returns (path, blocks, index arrays by name, grid) of each leaf."""
  layout, axes = flatten(state['layout']), flatten(state['axes'])

  def under(flat, path):
    return {name.rpartition('/')[2]: leaf for name, leaf in flat.items()
            if name.rpartition('/')[0] == path}
  found = []
  for path, blocks in flatten(params).items():
    shape = recorded_shape(under(axes, path))
    grid = block_grid(path, shape, blocks.shape[-2:], input_axes, pad=True)
    found.append((path, blocks, under(layout, path), grid))
  return found


class Start:
  """How the first pattern and the first blocks come about; the arguments of `block_sparse`.

  Called as (key, weights) -> ({path: blocks}, {path: Layout}, records of the shapes); traceable.
  """

  def __init__(self, block_size: BlockSize | None, layout: str | Mapping[str, Any],
               density: Density | None, allocation: str, seed: int | None, rewiring: float,
               rescale: bool | None, input_axes: int | None, pad: bool):
    by_name = isinstance(layout, str)
    if by_name and layout not in LAYOUTS:
      raise ValueError(f'layout={layout!r} is not known; choose from {", ".join(LAYOUTS)}, or give '
                       '{leaf path: mask}')
    needs_density = by_name and layout != 'given'
    if needs_density and density is None:
      raise ValueError(f'layout={layout!r} needs a density in (0, 1], or {{leaf path: density}}')
    if not needs_density and density is not None:
      raise ValueError(f'density={density} has no say where the pattern is given; leave it out')
    if (by_name and layout in GRAPHS) != (seed is not None):
      raise ValueError(f'seed={seed} with layout={layout!r}: {" and ".join(map(repr, GRAPHS))} '
                       "need a seed, no other layout takes one; 'random' is drawn from the key")
    if block_size is None and layout != 'given':
      raise ValueError("block_size=None goes with layout='given' alone; give (b_in, b_out)")
    if density is not None:
      require_densities(density, allocation)
    self.block = None if block_size is None else block_pair(block_size)
    self.layout, self.density, self.allocation = layout, density, allocation
    self.seed, self.rewiring, self.input_axes, self.pad = seed, rewiring, input_axes, pad
    trained = by_name and layout in ('magnitude', 'given')
    self.rescale = not trained if rescale is None else rescale

  def __call__(self, key: Array, weights: Tree) -> tuple[dict, dict[str, Layout], Tree]:
    leaves = flatten(weights)
    for path, leaf in leaves.items():
      if isinstance(leaf, BlockSparse) != (self.layout == 'given'):
        kind = 'BlockSparse already' if isinstance(leaf, BlockSparse) else 'a plain array'
        raise ValueError(f'{path} is {kind}, against layout={self.layout!r}; layout=\'given\' is '
                         'for BlockSparse weights and for no other')
    axes = unflatten({path: shape_record(leaf.shape) for path, leaf in leaves.items()})
    if self.layout == 'given':
      grids = {path: self._given_grid(path, leaf) for path, leaf in leaves.items()}
      blocks = {path: leaf.blocks for path, leaf in leaves.items()}
      layouts = {path: leaf.layout for path, leaf in leaves.items()}
    else:
      assert self.block is not None
      grids = {path: block_grid(path, leaf.shape, self.block, self.input_axes, self.pad)
               for path, leaf in leaves.items()}
      tiles = {path: grids[path].tiles(leaf) for path, leaf in leaves.items()}
      layouts = self._layouts(key, tiles)
      blocks = {path: _live(tiles[path][entry.row, entry.col], entry)
                for path, entry in layouts.items()}
    if self.rescale:
      blocks = {path: _rescaled(leaf, layouts[path], grids[path]) for path, leaf in blocks.items()}
    return blocks, layouts, axes

  def _given_grid(self, path: str, leaf: BlockSparse) -> BlockGrid:
    if self.block not in (None, leaf.block_size):
      raise ValueError(f'{path} has blocks of {leaf.block_size}, not {self.block}; take '
                       'block_size=None')
    grid = block_grid(path, leaf.shape, leaf.block_size, self.input_axes, pad=True)
    if grid.input_axes != leaf.input_axes:
      raise ValueError(f'{path} {leaf.shape} has {leaf.input_axes} input axes, not '
                       f'{grid.input_axes}; pass input_axes={leaf.input_axes}, in its own rule')
    return grid

  def _layouts(self, key: Array, tiles: dict[str, Array]) -> dict[str, Layout]:
    sizes = {path: tile.shape[:2] for path, tile in tiles.items()}
    if not isinstance(self.layout, str):
      masks = _own_masks(self.layout, sizes)
      return {path: layout_of_mask(jnp.asarray(mask), capacity_for(mask))
              for path, mask in masks.items()}
    assert self.density is not None
    grids = unflatten({path: jax.ShapeDtypeStruct(size, bool) for path, size in sizes.items()})
    counts = kept_counts(grids, self.density, self.allocation)
    layouts = {}
    for path, (rows, columns) in sizes.items():
      count = counts[path]
      mask: Any
      if self.layout in GRAPHS:
        assert self.seed is not None
        mask = _named(path, graph_pattern, self.layout, rows, columns, count / (rows * columns),
                      seed=path_seed(self.seed, path), rewiring=self.rewiring)
        count = int(mask.sum())
      elif count < columns:
        raise ValueError(f'{count} of the {rows} x {columns} blocks of {path} are fewer than one '
                         f'for each output column; raise its density to {1 / rows:.3g} or more')
      elif self.layout == 'random':
        mask = dealt(cast(Array, fold(key, path)), rows, columns, count)
      else:
        mask = largest_with_columns(block_norms(tiles[path]), count)
      layouts[path] = layout_of_mask(mask, count)
    return layouts


def block_norms(blocks: Array) -> Array:
  """Returns the Frobenius norms of blocks (..., b_in, b_out), float32."""
  return jnp.sqrt(jnp.sum(jnp.square(blocks.astype(jnp.float32)), axis=(-2, -1)))


def largest_with_columns(norms: Array, count: Array | int) -> Array:
  """Returns the mask of `count` blocks: the largest of each column, then the largest of the rest.

  Args:
    norms: (rows, columns), not negative; -1 where a block cannot be taken. count: at least columns.
  """
  best = jnp.arange(norms.shape[0])[:, None] == jnp.argmax(norms, axis=0)[None, :]
  return largest(jnp.where(best, jnp.inf, norms), count)


def path_seed(seed: int, path: str) -> int:
  """Returns a seed of its own for each leaf."""
  return int(np.random.SeedSequence([seed, zlib.crc32(path.encode())]).generate_state(1)[0])


def _rescaled(blocks: Array, layout: Layout, grid: BlockGrid) -> Array:
  """Multiplies each output column by sqrt(inputs / stored inputs)."""
  inputs = jnp.asarray(grid.inputs_of_rows(), jnp.float32)[layout.row]
  stored = jax.ops.segment_sum(jnp.where(layout.live, inputs, 0), layout.col, grid.grid[1])
  # A column that stores nothing has nothing to scale either.
  scale = jnp.sqrt(grid.matrix[0] / jnp.maximum(stored, 1))[layout.col]
  return (blocks.astype(jnp.float32) * scale[:, None, None]).astype(blocks.dtype)


def _live(blocks: Array, layout: Layout) -> Array:
  return jnp.where(layout.live[:, None, None], blocks, jnp.zeros_like(blocks))


def _own_masks(masks: Mapping[str, Any],
               sizes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """Returns the masks given for the leaves, checked."""
  missing, unknown = sorted(sizes.keys() - masks), sorted(masks.keys() - sizes)
  if missing or unknown:
    wrong = [f'lacks {", ".join(missing)}'] * bool(missing)
    wrong += [f'names {", ".join(unknown)}, no leaf of this rule'] * bool(unknown)
    raise ValueError(f'layout {" and ".join(wrong)}; leaves are {", ".join(sizes)}')
  checked = {path: np.asarray(masks[path], bool) for path in sizes}
  for path, size in sizes.items():
    if checked[path].shape != size:
      raise ValueError(f'the mask of {path} has shape {checked[path].shape}; its grid of blocks is '
                       f'{size[0]} x {size[1]}')
    if not checked[path].any():
      raise ValueError(f'the mask of {path} keeps no block; leave the leaf out of the rule')
  return checked


def _named(path, function, *args, **kwargs):
  """Calls a function; its errors name the leaf."""
  try:
    return function(*args, **kwargs)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None
