"""Pruning by a rising threshold in the one and only training run: of weights, or of whole blocks.

Narang, Undersander, Diamos, "Block-sparse recurrent neural networks", 2017, arXiv:1711.02782, and
for single weights its predecessor: Narang, Diamos, Sengupta, Elsen, "Exploring sparsity in
recurrent neural networks", 2017, arXiv:1704.05119. The threshold follows two straight lines, gently
up to `ramp`, then steeper up to `end`; it is set by q, a percentile of |w| of a network trained
dense in the same way. A block goes as a whole, when its largest |w| falls below the threshold. The
parameters themselves are masked after every step, so that nothing under the mask moves: neither
momentum nor decay brings a weight back.

A group lasso over the same blocks ("GLP" with pruning, "GL" alone, at q = 0) drives them towards
the threshold. It has no factor sqrt(block size), unlike `group_lasso`:
`blockwise(group_lasso(strength), block)` is the same penalty for strength * sqrt(block size), and
thresholds at deployment instead of in training.

Where we differ: updates of the mask are counted from `start`, where the papers count from 0, which
is the same if `freq` divides `start`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.block_grid import BlockGrid, BlockSize, block_grid, block_pair
from sparsejax.paths import Tree, flatten, map_leaves
from sparsejax.regulariser import (Number, Regulariser, advance_numbers, initial_numbers, owners,
                                   require_nonnegative)

Array = jax.Array


def slopes(q: Any, *, start: Any, ramp: Any, end: Any, freq: Any,
           ratio: Any = 1.5) -> tuple[Any, Any]:
  """Returns (theta, phi), what the threshold gains every `freq` steps before and after `ramp`.

  theta = 2 q freq / (2 (ramp - start) + 3 (end - ramp)) and phi = ratio * theta. With ratio = 1.5
  the threshold ends at q. Numbers or arrays; see `threshold`.
  """
  theta = 2 * q * freq / (2 * (ramp - start) + 3 * (end - ramp))
  return theta, ratio * theta


def threshold(step: Any, theta: Any, phi: Any, *, start: Any, ramp: Any, end: Any,
              freq: Any) -> Array:
  """Returns the threshold at a step: 0 before `start`, constant from `end` on.

  theta (step - start + 1) / freq up to `ramp`, then
  (theta (ramp - start + 1) + phi (step - ramp + 1)) / freq. Numbers or arrays that broadcast.
  """
  step = jnp.minimum(step, end - 1)
  gentle = theta * (step - start + 1)
  steep = theta * (ramp - start + 1) + phi * (step - ramp + 1)
  return jnp.where(step < start, 0.0, jnp.where(step < ramp, gentle, steep) / freq)


def dense_quantile(weights: Tree, patterns: Mapping[str, str],
                   percentile: float = 90.0) -> dict[str, float]:
  """Returns q of each kind of layer: a percentile of |w| over the leaves of its pattern.

  Args:
    weights: of a network trained dense, with the optimiser, decay and epochs of the pruned one.
    patterns: {name: regular expression of paths, full match}, as in `partition`: recurrent and
      feed-forward kernels want thresholds of their own.
    percentile: in [0, 100]; 90 in the papers, for a sparsity of about 90 %.

  Raises:
    ValueError: for a percentile out of range, or a pattern that matches no leaf or shares one.
  """
  if not 0 <= percentile <= 100:
    raise ValueError(f'percentile={percentile} must lie in [0, 100]')
  leaves = flatten(weights)
  owners(list(leaves), patterns)   # raises where two patterns claim a leaf, or one claims none
  found = {}
  for name, pattern in patterns.items():
    own = [np.abs(np.asarray(leaf, np.float32)).reshape(-1) for path, leaf in leaves.items()
           if re.fullmatch(pattern, path)]
    found[name] = float(np.percentile(np.concatenate(own), percentile))
  return found


class GatedBlocks(NamedTuple):
  """How blocks cover a kernel whose outputs are several gates side by side; see `gated_blocks`.

  Attributes:
    shape: of the kernel. gates: how many. grid: of the matrix of one gate.
  """

  shape: tuple[int, ...]
  gates: int
  grid: BlockGrid

  def tiles(self, kernel: Array) -> Array:
    """Returns (gates, rows, columns, b_in, b_out); ragged edges are padded with zeros."""
    inputs, outputs = self.grid.matrix
    matrices = kernel.reshape(inputs, self.gates, outputs).swapaxes(0, 1)
    return jax.vmap(self.grid.tiles)(matrices)

  def kernel(self, tiles: Array) -> Array:
    """The inverse of `tiles`, padding cut off."""
    return jax.vmap(self.grid.kernel)(tiles).swapaxes(0, 1).reshape(self.shape)

  def maxima(self, kernel: Array) -> Array:
    """Returns the largest |w| of each block, (gates, rows, columns), float32."""
    return jnp.abs(self.tiles(kernel).astype(jnp.float32)).max(axis=(-2, -1))

  def norms(self, kernel: Array) -> Array:
    """Returns ||w|| of each block, (gates, rows, columns), float32; its gradient at 0 is 0."""
    squares = jnp.square(self.tiles(kernel).astype(jnp.float32)).sum(axis=(-2, -1))
    some = squares > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1.0)), 0.0)

  def spread(self, values: Array) -> Array:
    """Returns one value a block, (gates, rows, columns), at every entry of the kernel."""
    shape = (*values.shape, *self.grid.block)
    return self.kernel(jnp.broadcast_to(values[..., None, None], shape))


def gated_blocks(path: str, shape: tuple[int, ...], block_size: BlockSize,
                 gates: int = 1) -> GatedBlocks:
  """Returns the blocks of a kernel (..., inputs, gates * units), none across two gates.

  Raises:
    ValueError: for a leaf of one axis, such as a bias, or outputs that are not `gates` equal parts.
  """
  inputs, outputs = block_grid(path, shape, block_pair(block_size), pad=True).matrix
  if outputs % gates:
    raise ValueError(f'the {outputs} outputs of {path} {tuple(shape)} are not {gates} gates of one '
                     'width; correct gates, in a rule of its own')
  return GatedBlocks(tuple(shape), gates,
                     BlockGrid((inputs, outputs // gates), 1, block_pair(block_size)))


def shrunken(blocks: GatedBlocks, kernel: Array, amount: Any) -> Array:
  """Returns the kernel with every block's norm smaller by `amount`, at least 0 (proximal step)."""
  norms = blocks.norms(kernel)
  factor = jnp.maximum(1 - amount / jnp.where(norms > 0, norms, 1.0), 0.0)
  return kernel * blocks.spread(factor).astype(kernel.dtype)


def block_pruning(
    q: Number,
    *,
    start: int,
    ramp: int,
    end: int,
    freq: int = 100,
    block_size: BlockSize = 1,
    gates: int = 1,
    ratio: Number = 1.5,
    group_lasso: Number = 0.0,
    proximal_step: Number | None = None,
) -> Regulariser:
  """Prunes what lies below a threshold that rises in training; what is pruned stays zero.

  Args:
    q: where the threshold for single weights ends, see `dense_quantile`. For blocks of n weights
      the threshold is n^(1/4) times as high, since their maximum is. 0 prunes nothing.
    start, ramp, end: steps at which pruning begins, the threshold steepens, and the mask freezes.
      The papers: the second epoch, a quarter and a half of all epochs.
    freq: steps between updates of the mask, which are made in [start, end), counted from `start`.
    block_size: (b_in, b_out), or one number for both; 1 prunes single weights. Edges that blocks do
      not divide are padded.
    gates: gates that lie side by side on the output axis of each kernel; no block covers two. In
      Flax's own cells each gate has a kernel of its own, which is 1.
    ratio: phi / theta, how much steeper the threshold rises after `ramp`; 1.5 to 2 in the papers.
    group_lasso: nats per unit of block norm, for the whole data set.
    proximal_step: None leaves the group lasso to the gradient. A number, learning rate / terms of
      the data set, shrinks every block by proximal_step * group_lasso after each step instead,
      which makes exact zeros; the penalty then has no gradient.

  Trained: the weights, zero where pruned. State: `mask` (bool, the weights' shapes; True keeps),
  `q`, `ratio`, `group_lasso`, and `proximal_step` if given.

  Raises:
    ValueError: for negative numbers or steps out of order and, from `init`, for a leaf of one axis
      (biases are not pruned: leave them out of the rule) or a width that is no multiple of `gates`.
  """
  if not 0 <= start <= ramp < end or freq < 1 or gates < 1:
    raise ValueError(f'steps must obey 0 <= start={start} <= ramp={ramp} < end={end}, and '
                     f'freq={freq} and gates={gates} must be at least 1')
  numbers = {'q': q, 'ratio': ratio, 'group_lasso': group_lasso}
  if proximal_step is not None:
    numbers['proximal_step'] = proximal_step
  require_nonnegative(**numbers)
  b_in, b_out = block_pair(block_size)

  def blocks_of(path, leaf):
    return gated_blocks(path, leaf.shape, (b_in, b_out), gates)

  def init(key, weights):
    del key
    map_leaves(blocks_of, weights)
    mask = jax.tree.map(lambda w: jnp.ones(w.shape, bool), weights)
    return weights, {'mask': mask, **initial_numbers(**numbers)}

  def weights(params, state, key=None):
    del key
    return jax.tree.map(lambda w, m: jnp.where(m, w, jnp.zeros_like(w)), params, state['mask'])

  def penalty(params, state, key=None):
    kept = weights(params, state, key)
    if proximal_step is not None:
      kept = jax.lax.stop_gradient(kept)
    norms = [blocks_of(path, leaf).norms(leaf).sum() for path, leaf in flatten(kept).items()]
    return state['group_lasso'] * sum(norms, jnp.zeros(()))

  def update(params, state, *, step, weight_grads=None, key=None):
    del weight_grads, key
    state = advance_numbers(state, step, **numbers)
    if proximal_step is not None:
      amount = state['proximal_step'] * state['group_lasso']
      params = map_leaves(lambda path, w: shrunken(blocks_of(path, w), w, amount), params)
    due = (step >= start) & (step < end) & ((step - start) % freq == 0)
    times = {'start': start, 'ramp': ramp, 'end': end, 'freq': freq}
    theta, phi = slopes(state['q'] * (b_in * b_out) ** 0.25, ratio=state['ratio'], **times)

    def prune(mask):
      limit = threshold(step, theta, phi, **times)

      def kept(path, w, m):
        blocks = blocks_of(path, w)
        return m & blocks.spread(blocks.maxima(w) >= limit)
      return map_leaves(kept, params, mask)

    mask = jax.lax.cond(due, prune, lambda mask: mask, state['mask'])
    state = {**state, 'mask': mask}
    return weights(params, state), state

  return Regulariser(init, weights, penalty, update)
