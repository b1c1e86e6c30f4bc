"""Magnitude pruning: one-shot or gradual, of single weights or of structures.

Zhu and Gupta, "To prune, or not to prune", 2017, arXiv:1710.01878, for the cubic schedule; Evci et
al., "Rigging the lottery", 2020, arXiv:1911.11134, for the Erdos-Renyi-kernel densities. The mask
lives in `state` and multiplies the weights wherever they are read, so that momentum, decay or an
average can never revive what was pruned.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.paths import Tree, flatten, map_leaves
from sparsejax.regulariser import (Number, Regulariser, advance_numbers, initial_numbers,
                                   require_fraction)

Array = jax.Array
Granularity = str | tuple[int, int]


def cubic_sparsity(final: float, begin: int, end: int, initial: float = 0.0) -> Callable:
  """Schedule s(t) = final + (initial - final) (1 - (t - begin) / (end - begin))^3 (eq. 1).

  Steps before `begin` give `initial`, steps after `end` give `final`.
  """
  if not 0 <= initial <= final < 1:
    raise ValueError(f'sparsities must obey 0 <= initial={initial} <= final={final} < 1')
  if not 0 <= begin < end:
    raise ValueError(f'begin={begin} must come before end={end}, both in steps')

  def schedule(step):
    progress = jnp.clip((step - begin) / (end - begin), 0, 1)
    return final + (initial - final) * (1 - progress) ** 3

  return schedule


def magnitude_pruning(
    sparsity: Number,
    *,
    begin: int = 0,
    every: int = 100,
    granularity: Granularity = 'weight',
    allocation: str = 'uniform',
) -> Regulariser:
  """Removes the weights or structures of smallest magnitude, for good.

  Args:
    sparsity: fraction of weights removed, in [0, 1). A number prunes in one shot at step `begin`;
      a schedule (`cubic_sparsity`) prunes gradually.
    begin: first step at which the mask changes. every: steps between changes.
    granularity: 'weight'; 'row' (input unit, axis -2); 'column' (output unit, axis -1); a block
      (b_in, b_out) of the last two axes; or 'n:m' as in '2:4', which keeps n of m neighbours along
      axis -2 and takes no sparsity but 1 - n/m.
    allocation: how the sparsity is shared out: 'uniform' (each leaf alike), 'erk' (densities in
      proportion to sum(shape) / prod(shape), capped at 1) or 'global' (one threshold on the root
      mean square of every structure, found without a sort). 'uniform' and 'erk' keep at least one
      structure of each leaf; structures of the same size as the threshold go together.

  State: `mask` (bool, the weights' shapes; True keeps) and `sparsity`.

  Raises:
    ValueError: for a concrete sparsity outside [0, 1), an unknown option, or, from `init`, a block
      or an m that does not divide a leaf.
  """
  require_fraction(sparsity=sparsity)
  if allocation not in ('uniform', 'erk', 'global'):
    raise ValueError(f"allocation={allocation!r} is not 'uniform', 'erk' or 'global'")
  if every < 1 or begin < 0:
    raise ValueError(f'every={every} must be at least 1 and begin={begin} at least 0')
  pattern = _parse_n_of_m(granularity)
  if pattern and (callable(sparsity) or isinstance(sparsity, (int, float)) and abs(
      sparsity - (1 - pattern[0] / pattern[1])) > 1e-6):
    given = 'a schedule' if callable(sparsity) else sparsity
    raise ValueError(f'granularity {granularity!r} means sparsity {1 - pattern[0] / pattern[1]}, '
                     f'not {given}')
  numbers = {'sparsity': sparsity}

  def init(key, weights):
    del key
    for path, leaf in flatten(weights).items():
      _require_divides(path, leaf.shape, granularity, pattern)
    mask = jax.tree.map(lambda w: jnp.ones(w.shape, bool), weights)
    return weights, {'mask': mask, **initial_numbers(**numbers)}

  def weights(params, state, key=None):
    del key
    return jax.tree.map(lambda w, m: jnp.where(m, w, jnp.zeros_like(w)), params, state['mask'])

  def update(params, state, *, step, weight_grads=None, key=None):
    del weight_grads, key
    state = advance_numbers(state, step, **numbers)
    due = (step >= begin) & ((step - begin) % every == 0)

    def prune(mask):
      masked = weights(params, {'mask': mask})
      if pattern:
        kept = jax.tree.map(lambda w: keep_n_of_m(w, *pattern), masked)
      else:
        kept = _kept(masked, state['sparsity'], granularity, allocation)
      return jax.tree.map(jnp.logical_and, mask, kept)

    mask = jax.lax.cond(due, prune, lambda mask: mask, state['mask'])
    return params, {**state, 'mask': mask}

  return Regulariser(init, weights, update=update)


def _kept(weights: Tree, sparsity: Array, granularity: Granularity, allocation: str) -> Tree:
  """Returns the tree of bool masks that keep the largest structures."""
  scores = {path: structure_scores(leaf, granularity) for path, leaf in flatten(weights).items()}
  shapes = {path: leaf.shape for path, leaf in flatten(weights).items()}
  if allocation == 'global':
    sizes = {path: np.prod(shapes[path]) / score.size for path, score in scores.items()}
    threshold = kth_threshold(scores, sizes, sparsity)
    thresholds = dict.fromkeys(scores, threshold)
  else:
    densities = dict.fromkeys(scores, 1 - sparsity)
    if allocation == 'erk':
      densities = erdos_renyi_kernel_densities(shapes, 1 - sparsity)
    # A leaf without any weight would cut the network, so that one structure stays.
    thresholds = {path: kth_threshold({path: score}, {path: 1.0},
                                      jnp.minimum(1 - densities[path], 1 - 1 / score.size))
                  for path, score in scores.items()}
  return map_leaves(
      lambda path, leaf: expand_structures(scores[path] > thresholds[path], leaf.shape,
                                           granularity), weights)


def structure_scores(w: Array, granularity: Granularity) -> Array:
  """Returns the root mean square of each structure of `w` (one weight: its magnitude), float32."""
  w = jnp.abs(w.astype(jnp.float32))
  if granularity == 'weight':
    return w
  squares = jnp.square(w)
  if granularity == 'row':
    return jnp.sqrt(squares.mean(tuple(i for i in range(w.ndim) if i != w.ndim - 2)))
  if granularity == 'column':
    return jnp.sqrt(squares.mean(tuple(range(w.ndim - 1))))
  assert not isinstance(granularity, str)
  b_in, b_out = granularity
  rows, columns = w.shape[-2] // b_in, w.shape[-1] // b_out
  return jnp.sqrt(squares.reshape(*w.shape[:-2], rows, b_in, columns, b_out).mean((-3, -1)))


def expand_structures(kept: Array, shape: tuple[int, ...], granularity: Granularity) -> Array:
  """Returns the mask of `shape` for the kept structures."""
  if granularity == 'weight':
    return kept
  if granularity == 'row':
    return jnp.broadcast_to(kept[:, None], shape)
  if granularity == 'column':
    return jnp.broadcast_to(kept.reshape((1,) * (len(shape) - 1) + (-1,)), shape)
  assert not isinstance(granularity, str)
  b_in, b_out = granularity
  return jnp.repeat(jnp.repeat(kept, b_in, axis=-2), b_out, axis=-1)


def kth_threshold(scores: dict[str, Array], sizes: dict[str, float], fraction: Array) -> Array:
  """Returns the smallest t such that scores <= t hold at least `fraction` of the weights.

  By bisection on the bits of non-negative float32 numbers, which are ordered as the numbers are:
  31 counts give the exact order statistic, over any number of leaves, without a sort.

  Args:
    scores: {path: non-negative float32 scores of the structures}.
    sizes: {path: weights per structure}. fraction: in [0, 1]; 0 gives a t below every score.
  """
  bits = {path: jax.lax.bitcast_convert_type(score.astype(jnp.float32), jnp.int32)
          for path, score in scores.items()}
  total = sum(sizes[path] * score.size for path, score in scores.items())
  # Rounded, for 0.9 * 10 in float32 is a little more than 9.
  wanted = jnp.round(fraction * total)

  def removed(limit):
    return sum(sizes[path] * jnp.sum(b <= limit) for path, b in bits.items())

  def halve(_, bounds):
    low, high = bounds                                  # removed(low) < wanted <= removed(high)
    middle = low + (high - low) // 2
    enough = removed(middle) >= wanted
    return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

  largest = jnp.int32(0x7F7FFFFF)                        # the bits of the largest finite float32
  _, limit = jax.lax.fori_loop(0, 32, halve, (jnp.int32(-1), largest))
  threshold = jax.lax.bitcast_convert_type(limit, jnp.float32)
  return jnp.where(wanted <= 0, -1.0, threshold)


def erdos_renyi_kernel_densities(shapes: dict[str, tuple[int, ...]], density: Array) -> dict:
  """Returns {path: density}, proportional to sum(shape) / prod(shape), capped at 1 (RigL, sec. 3).

  Leaves that reach 1 are kept dense and the rest share what is left, to a fixed point, which takes
  at most one round per leaf.
  """
  sizes = np.array([np.prod(shape) for shape in shapes.values()], np.float64)
  raw = np.array([sum(shape) / np.prod(shape) for shape in shapes.values()], np.float64)
  budget = density * sizes.sum()
  dense = jnp.zeros(len(sizes), bool)
  values = jnp.ones(len(sizes))
  for _ in range(len(sizes)):
    free = jnp.where(dense, 0.0, raw * sizes).sum()
    scale = (budget - jnp.where(dense, sizes, 0.0).sum()) / jnp.maximum(free, 1e-12)
    values = jnp.where(dense, 1.0, scale * raw)
    dense = dense | (values >= 1)
  values = jnp.clip(values, 0, 1)
  return {path: values[i] for i, path in enumerate(shapes)}


def keep_n_of_m(w: Array, n: int, m: int) -> Array:
  """Returns the mask that keeps the n largest of every m neighbours along axis -2."""
  groups = jnp.moveaxis(jnp.abs(w), -2, -1).reshape(-1, m)
  rank = jnp.argsort(jnp.argsort(-groups, axis=1, stable=True), axis=1)
  kept = (rank < n).reshape(jnp.moveaxis(w, -2, -1).shape)
  return jnp.moveaxis(kept, -1, -2)


def _parse_n_of_m(granularity: Granularity) -> tuple[int, int] | None:
  if not isinstance(granularity, str):
    if len(granularity) != 2 or min(granularity) < 1:
      raise ValueError(f'a block is (b_in, b_out) of positive sizes, got {granularity}')
    return None
  if granularity in ('weight', 'row', 'column'):
    return None
  parts = granularity.split(':')
  if len(parts) != 2 or not all(part.isdigit() for part in parts):
    raise ValueError(f"granularity={granularity!r} is not 'weight', 'row', 'column', 'n:m' or a "
                     'block (b_in, b_out)')
  n, m = map(int, parts)
  if not 0 < n < m:
    raise ValueError(f'granularity {granularity!r} must keep 0 < n < m')
  return n, m


def _require_divides(path, shape, granularity, pattern) -> None:
  """Raises ValueError where structures do not tile the leaf."""
  if granularity != 'weight' and len(shape) < 2:
    raise ValueError(f'granularity {granularity!r} needs two axes, but {path} is {shape}; leave it '
                     "out of the rule or use granularity='weight'")
  if pattern and shape[-2] % pattern[1]:
    raise ValueError(f'{pattern[1]} of {granularity!r} does not divide axis -2 of {path} {shape}')
  if isinstance(granularity, tuple) and (shape[-2] % granularity[0] or shape[-1] % granularity[1]):
    raise ValueError(f'block {granularity} does not divide the last two axes of {path} {shape}; '
                     'choose divisors of them')
