"""Blocks that move in training: SET and RigL, block by block, with weights that stay small.

Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity
inspired by network science", 2018, arXiv:1707.04780 (SET), and Evci et al., "Rigging the lottery",
2020, arXiv:1911.11134 (RigL), for single weights; see `sparse_evolutionary.py` and `rigl.py`. Here
whole blocks are dropped, those of least Frobenius norm, and as many are grown, at random or where
the norm of the loss's gradient is largest. Where we differ: the largest block of every output
column always stays, so that no output dies and the number of stored blocks never changes; nothing
of the matrix but its blocks is ever held.

A block keeps its place in the parameters for as long as it lives, whatever the order of the pattern
is by then, so that its moments in the optimiser stay its own. A grown block starts from zero in the
place of a dropped one and inherits its moments, which act on it for as long as they last. An
average of the parameters (`ema_decay`) mixes the two as long: let the moving `end` well before
averages are deployed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp

from sparsejax.block_grid import BlockSize
from sparsejax.kernels.block_sparse import BlockSparse
from sparsejax.kernels.block_sparse.layout import Layout, layout_of_mask
from sparsejax.kernels.block_sparse.probe import Probe
from sparsejax.paths import flatten, fold, unflatten
from sparsejax.regulariser import (Number, Regulariser, advance_numbers, initial_numbers,
                                   require_fraction)
from sparsejax.regularisers.block_sparse import Start, block_norms, entries, largest_with_columns
from sparsejax.regularisers.dynamic_mask import largest
from sparsejax.regularisers.static_mask import Density
from sparsejax.structured import densify

Array = jax.Array

LAYOUTS = ('random', 'magnitude')


def block_set(
    block_size: BlockSize,
    density: Density,
    *,
    fraction: Number = 0.3,
    every: int,
    end: int | None = None,
    layout: str = 'random',
    allocation: str = 'uniform',
    rescale: bool | None = None,
    input_axes: int | None = None,
    pad: bool = False,
) -> Regulariser:
  """SET of blocks: some of the least blocks go, as many come in random places. No penalty.

  Nothing that an update drops is grown by the same update.

  Args:
    fraction: of each leaf's blocks moved at an update, in [0, 1): a number, traced array or
      schedule. Fewer move where only one block is left in each column, or fewer places are free.
    every: optimiser steps between updates. end: no update after that many steps or later.
    layout: of the start, 'random' or 'magnitude'.
    block_size, density, allocation, rescale, input_axes, pad: as for `block_sparse`.

  Trained: as for `block_sparse`, in places that stay a block's own. State: `layout`, with `slot`,
  each entry's place in the parameters; `axes`; `fraction`; `due`, whether the coming step ends in
  an update.

  Raises:
    ValueError: for options that make no sense, from `init` as `block_sparse`, and from `update`
      without a key.
  """

  def random_scores(path, shape, weight_grads, key):
    del weight_grads
    if key is None:
      raise ValueError('block_set grows blocks at random; give update the key of the step')
    return jax.random.uniform(cast(Array, fold(key, f'grow/{path}')), shape)

  start = _start(block_size, density, layout, allocation, rescale, input_axes, pad)
  return _moving(start, random_scores, fraction=fraction, every=every, end=end, gradients=False)


def block_rigl(
    block_size: BlockSize,
    density: Density,
    *,
    fraction: float = 0.3,
    every: int = 100,
    end: int,
    layout: str = 'random',
    allocation: str = 'uniform',
    rescale: bool | None = None,
    input_axes: int | None = None,
    pad: bool = False,
) -> Regulariser:
  """RigL of blocks: some of the least go, as many come where the gradient is largest. No penalty.

  The weights of the steps that end in an update carry a `Probe`, and the gradient with respect to
  them, which the trainer passes on, holds the norms of the gradient at every block of the grid. In
  all other steps only stored blocks have gradients. What an update drops may be grown by it again;
  it then keeps its values. A weight that a layer computes with as a dense array has no probe: there
  the first free places grow.

  Args:
    fraction: of each leaf's blocks exchanged at first, in [0, 1); it decays as
      fraction / 2 (1 + cos(pi t / end)). every, end: as for `block_set`.
    Others, trained and state: as for `block_set`.

  Raises:
    ValueError: for options that make no sense, from `init` as `block_sparse`, and from `update`
      without gradients.
  """
  require_fraction(fraction=fraction)

  def decayed(step):
    return fraction / 2 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / end, 1.0)))

  def gradient_norms(path, shape, weight_grads, key):
    del shape, key
    if weight_grads is None:
      raise ValueError('block_rigl grows blocks by their gradients; give update weight_grads, the '
                       'gradients with respect to the drawn weights')
    return flatten(weight_grads)[path].probe.scores

  start = _start(block_size, density, layout, allocation, rescale, input_axes, pad)
  return _moving(start, gradient_norms, fraction=decayed, every=every, end=end, gradients=True)


def _start(block_size, density, layout, allocation, rescale, input_axes, pad) -> Start:
  if layout not in LAYOUTS:
    raise ValueError(f'layout={layout!r} is not {" or ".join(map(repr, LAYOUTS))}, with which a '
                     'moving pattern may start')
  return Start(block_size, layout, density, allocation, None, 0.0, rescale, input_axes, pad)


def _moving(start: Start, growth_scores: Callable[..., Array], *, fraction: Number, every: int,
            end: int | None, gradients: bool) -> Regulariser:
  """Returns the method that grows by growth_scores(path, grid, weight_grads, key) -> (grid) >= 0.

  `gradients`: whether it reads them, as RigL does, where what is dropped may also be grown again.
  """
  require_fraction(fraction=fraction)
  if every < 1 or (end is not None and end < 1):
    raise ValueError(f'every={every} and end={end} must be at least 1, in steps')

  def due_after(steps):
    due = jnp.asarray(steps % every == 0)
    return due if end is None else due & (steps < end)

  def init(key, weights):
    blocks, layouts, axes = start(key, weights)
    layout = {path: {**entry._asdict(), 'slot': jnp.arange(entry.row.size, dtype=jnp.int32)}
              for path, entry in layouts.items()}
    return unflatten(blocks), {'layout': unflatten(layout), 'axes': axes, 'due': due_after(1),
                               **initial_numbers(fraction=fraction)}

  def weights(params, state, key=None):
    boxes = {}
    for path, blocks, entry, grid in entries(params, state, start.input_axes):
      slot = entry.pop('slot')
      probe = None
      if gradients and key is not None:
        probe = Probe(jnp.zeros(grid.grid), state['due'])
      boxes[path] = BlockSparse(blocks[slot], Layout(**entry), grid.shape, grid.input_axes, probe)
    return unflatten(boxes)

  def update(params, state, *, step, weight_grads=None, key=None):
    state = advance_numbers(state, step, fraction=fraction)

    def move(params, layout):
      moved, layouts = {}, {}
      for path, blocks, entry, grid in entries(params, {**state, 'layout': layout},
                                               start.input_axes):
        scores = growth_scores(path, grid.grid, weight_grads, key)
        entry, freed = exchange(entry, block_norms(blocks), scores, state['fraction'], gradients)
        moved[path] = jnp.where(freed[:, None, None], jnp.zeros_like(blocks), blocks)
        layouts[path] = entry
      return unflatten(moved), unflatten(layouts)

    params, layout = jax.lax.cond(state['due'], move, lambda *same: same, params, state['layout'])
    return params, {**state, 'layout': layout, 'due': due_after(step + 2)}

  def finalise(params, state):
    return jax.device_get(densify(weights(params, state)))

  return Regulariser(init, weights, update=update, finalise=finalise, needs_weight_grads=gradients)


def exchange(entry: dict[str, Array], norms: Array, scores: Array, fraction: Array,
             dropped_may_return: bool) -> tuple[dict[str, Array], Array]:
  """Returns the index arrays after an update, and which slots were freed, (n,) bool.

  round(fraction * n) blocks are exchanged; fewer where fewer can be spared or placed.

  Args:
    entry: index arrays of a `Layout` without fillers and padding, and `slot`.
    norms: (n,) of the blocks, by slot. scores: (rows, columns), not negative; the largest grow.
    fraction: scalar in [0, 1). dropped_may_return: whether what is dropped may be grown again.
  """
  row, col, slot = entry['row'], entry['col'], entry['slot']
  number, (_, columns) = slot.size, scores.shape
  held = jnp.full(scores.shape, -1.0).at[row, col].set(norms[slot])
  spare = number - columns
  if not dropped_may_return:
    spare = min(spare, scores.size - number)
  moved = jnp.minimum(jnp.round(fraction * number).astype(jnp.int32), spare)
  kept = largest_with_columns(held, number - moved)
  candidates = ~kept if dropped_may_return else held < 0
  grown = largest(jnp.where(candidates, scores, -1.0), moved)
  layout = layout_of_mask(kept | grown, number)
  # Who lives on keeps its slot; the others share out those of the dead.
  place = jnp.full(scores.shape, -1, jnp.int32).at[row, col].set(slot)
  old = place[layout.row, layout.col]
  freed = jnp.ones(number, bool).at[jnp.where(old < 0, number, old)].set(False, mode='drop')
  (free,) = jnp.nonzero(freed, size=number, fill_value=0)
  new = old < 0
  slot = jnp.where(new, free[jnp.cumsum(new) - 1].astype(jnp.int32), old)
  return {**layout._asdict(), 'slot': slot}, freed
