"""Minimal random code learning: a network that is sent as a draw from its posterior.

Havasi, Peharz, Hernandez-Lobato, "Minimal random code learning: getting bits back from compressed
model parameters", 2019, arXiv:1810.00440, with their code (github.com/cambridge-mlg/miracle).
Every weight has a Gaussian posterior and a Gaussian prior N(0, s^2) of its leaf's own s. Blocks of
weights have a KL budget of `bits`; a factor of each block's KL rises while the KL is above the
budget and falls while it is below. From `start` on blocks are coded, a few at a time: of 2^bits
candidates that a seed gives, one is chosen with probability proportional to q / p and becomes the
block's value, and the rest goes on training around it (progressive coding). What is left is one
index a block: the prior is proper, so the KL is what the code costs.

Where we differ from the authors' code: all blocks choose from the same candidates, plain random
numbers instead of a Sobol sequence (theirs share one sequence too); blocks interleave instead of
being permuted; several blocks are coded at once; layers draw by local reparameterisation.
"""

from __future__ import annotations

import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.paths import flatten, fold, map_leaves, unflatten
from sparsejax.packed.random_code import BITS, MAX_LENGTH, RandomCode, blocks_of, candidates
from sparsejax.regulariser import Regulariser
from sparsejax.structured import Gaussian

Array = jax.Array


# Beyond these nothing can be coded, and float32 would overflow.
LOG_VARIANCES = (-30.0, 10.0)


def gaussian_kl(theta: Array, log_sigma2: Array, log_prior2: Array) -> Array:
  """KL(N(theta, sigma^2) || N(0, prior^2)) of each weight, in nats."""
  ratio = log_sigma2 - log_prior2
  return 0.5 * (jnp.exp(ratio) + jnp.square(theta) * jnp.exp(-log_prior2) - 1 - ratio)


def log_importance(table: Array, theta: Array, log_sigma2: Array, prior: Array) -> Array:
  """log q(w) / p(w), but for a constant of the block, of each candidate for each block.

  Args:
    table: candidates (K, d); the weight is the candidate times the prior's standard deviation.
    theta, log_sigma2: (d, blocks). prior: that deviation, ().

  Returns (K, blocks).
  """
  precision = jnp.square(prior) * jnp.exp(-log_sigma2)           # of a candidate under q

  def product(left, right):
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
  return (product(jnp.square(table), 0.5 * (1 - precision))
          + product(table, theta / prior * precision))


def minimal_random_code(
    bits: int = 14,
    length: int = 60,
    *,
    start: int,
    end: int,
    every: int,
    seed: int = 0,
    noise: str = 'local',
    init_log_sigma2: float = -10.0,
    init_log_prior2: float = -4.0,
    init_factor: float = 1e-3,
    rate: float = 1e-3,
) -> Regulariser:
  """Gaussian posteriors in blocks of a KL budget, coded one after the other from `start` to `end`.

  The penalty is the sum over blocks not yet coded of factor * KL, so a factor of 1 is the
  variational bound. It is what the method needs to hold the budget, not a strength to choose:
  choose `bits / length`, the bits a weight.

  Args:
    bits: budget of a block and of its index, 1 to 20. length: weights of a block.
    start, end: optimiser steps between which blocks are coded; the prior's scales stand still from
      `start` on. every: steps between two rounds of coding, from which all others learn.
    seed: of the candidates; it stands in the file.
    noise: 'local' or 'weight', as for `sparse_variational_dropout`.
    init_log_sigma2, init_log_prior2: log variances of posteriors and priors.
    init_factor: of the KL of each block at the start. rate: by how much, relatively, it rises or
      falls in a step.

  Trained: `theta` (the weights' dtype), `log_sigma2`, and `log_sigma2_prior`, one number a leaf.
  State: `leaves`, for each `coded` (length, blocks), `index` (blocks,), `fixed` (blocks,) bool,
  `factor` (blocks,), `kl` (blocks,), nats when the block was coded, and `prior` (), the prior's
  standard deviation; `table`, the candidates; `coding`, whether the priors stand still.

  Raises:
    ValueError: for options that make no sense, and from `update` without a key.
  """
  if bits not in BITS or not 1 <= length <= MAX_LENGTH:
    raise ValueError(f'bits={bits} must be {BITS[0]} to {BITS[-1]}, and length={length} 1 to '
                     f'{MAX_LENGTH}: 2^bits candidates of that length are held')
  if not 0 < start < end or every < 1:
    raise ValueError(f'start={start}, end={end}, every={every}: coding takes place every so many '
                     'steps from start to end, all of them positive and start before end')
  if noise not in ('local', 'weight'):
    raise ValueError(f"noise={noise!r} is not 'local' or 'weight'")
  rounds = max((end - start) // every, 1)
  budget = bits * math.log(2)

  def in_blocks(leaf, fill=0.0):
    """(length, blocks) of the entries; what no entry fills is `fill`."""
    blocks = blocks_of(leaf.size, length)
    missing = jnp.full(blocks * length - leaf.size, fill, leaf.dtype)
    flat = jnp.concatenate([leaf.reshape(-1), missing])
    return flat.reshape(length, blocks)

  def from_blocks(array, leaf):
    return array.reshape(-1)[:leaf.size].reshape(leaf.shape)

  def init(key, weights):
    del key
    leaves: dict[str, Any] = {}
    for path, leaf in flatten(weights).items():
      blocks = blocks_of(leaf.size, length)
      leaves[path] = {'coded': jnp.zeros((length, blocks)), 'index': jnp.zeros(blocks, jnp.uint32),
                      'fixed': jnp.zeros(blocks, bool), 'factor': jnp.full(blocks, init_factor),
                      'kl': jnp.zeros(blocks), 'prior': jnp.float32(math.exp(init_log_prior2 / 2))}
    params = {
        'theta': weights,
        'log_sigma2': jax.tree.map(lambda w: jnp.full(w.shape, init_log_sigma2), weights),
        'log_sigma2_prior': jax.tree.map(
            lambda w: jnp.full((1,) * w.ndim, init_log_prior2), weights),
    }
    return params, {'leaves': unflatten(leaves), 'coding': jnp.zeros((), bool),
                    'table': jnp.asarray(candidates(seed, bits, length))}

  def bounded(log_sigma2):
    return jnp.clip(log_sigma2, *LOG_VARIANCES)

  def prior_of(params, state, path):
    """The prior's deviation, (): trained until coding begins, and what it was from there on."""
    trained = jnp.exp(bounded(_at(params['log_sigma2_prior'], path).reshape(())) / 2)
    return jnp.where(state['coding'], _leaf(state, path)['prior'], trained)

  def fixed_part(state, path, leaf):
    """(coded value, whether it is coded) of each entry."""
    mine = _leaf(state, path)
    fixed = jnp.broadcast_to(mine['fixed'][None], mine['coded'].shape)
    return from_blocks(mine['coded'], leaf), from_blocks(fixed, leaf)

  def weights(params, state, key=None):
    def draw(path, theta, log_sigma2):
      coded, fixed = fixed_part(state, path, theta)
      mean = jnp.where(fixed, coded.astype(theta.dtype), theta)
      if key is None:
        return mean
      variance = jnp.where(fixed, 0.0, jnp.exp(bounded(log_sigma2)))
      if noise == 'local':
        return Gaussian(mean, variance)
      # The root of the variance itself would have no finite gradient where it is 0.
      sigma = jnp.where(fixed, 0.0, jnp.exp(bounded(log_sigma2) / 2))
      return mean + (sigma * jax.random.normal(fold(key, path), mean.shape)).astype(mean.dtype)
    return map_leaves(draw, params['theta'], params['log_sigma2'])

  def block_kl(params, state, path):
    """KL of each block, (blocks,), in nats, coded or not."""
    theta, log_sigma2 = _at(params['theta'], path), _at(params['log_sigma2'], path)
    log_prior2 = 2 * jnp.log(prior_of(params, state, path))
    return in_blocks(gaussian_kl(theta.astype(jnp.float32), bounded(log_sigma2), log_prior2)).sum(0)

  def penalty(params, state, key=None):
    del key
    total = jnp.zeros(())
    for path in flatten(params['theta']):
      mine = _leaf(state, path)
      factor = jnp.where(mine['fixed'], 0.0, mine['factor'])
      total += jnp.sum(factor * block_kl(params, state, path))
    return total

  def update(params, state, *, step, weight_grads=None, key=None):
    del weight_grads
    if key is None:
      raise ValueError('minimal_random_code chooses candidates at random; give update the key of '
                       'the step')
    done = step + 1                                      # steps taken
    begins = done == start
    turn = (done - start) // every                       # the round of coding that is due
    due = (done >= start) & ((done - start) % every == 0) & (turn < rounds)
    leaves = {}
    for path, theta in flatten(params['theta']).items():
      mine = dict(_leaf(state, path))
      mine['prior'] = jnp.where(begins, prior_of(params, state, path), mine['prior'])
      nats = block_kl(params, state, path)
      moved = jnp.where(nats > budget, mine['factor'] * (1 + rate), mine['factor'] / (1 + rate))
      mine['factor'] = jnp.where(mine['fixed'], mine['factor'], moved)
      # Where there is no entry the posterior is the prior, which does not matter to the choice.
      log_sigma2 = in_blocks(bounded(_at(params['log_sigma2'], path)), 2 * jnp.log(mine['prior']))
      posterior = in_blocks(theta.astype(jnp.float32)), log_sigma2, nats
      draw = cast(Array, fold(key, f'code/{path}'))
      leaves[path] = jax.lax.cond(due, code_round, lambda mine, *_: mine, mine, state['table'],
                                  posterior, turn, draw)
    return params, {**state, 'leaves': unflatten(leaves), 'coding': state['coding'] | begins}

  def code_round(mine, table, posterior, turn, key):
    """Fixes the blocks b with floor(b * rounds / blocks) = turn."""
    theta, log_sigma2, nats = posterior
    blocks = mine['index'].shape[0]
    size = min(-(-blocks // rounds), blocks)
    first = jnp.clip(-(-turn * blocks // rounds), 0, blocks - size)
    chosen = (first + jnp.arange(size)) * rounds // blocks == turn

    def window(array):
      return jax.lax.dynamic_slice_in_dim(array, first, size, array.ndim - 1)
    scores = log_importance(table, window(theta), window(log_sigma2), mine['prior'])
    index = jnp.argmax(scores + jax.random.gumbel(key, scores.shape), axis=0).astype(jnp.uint32)

    def put(name, new):
      old = window(mine[name])
      kept = jnp.where(jnp.broadcast_to(chosen, old.shape), new, old)
      return jax.lax.dynamic_update_slice_in_dim(mine[name], kept, first, kept.ndim - 1)
    return {**mine, 'coded': put('coded', table[index].T * mine['prior']),
            'index': put('index', index), 'fixed': put('fixed', True),
            'kl': put('kl', window(nats))}

  def finalise(params, state):
    def one(path, theta):
      mine = jax.device_get(_leaf(state, path))
      if mine['fixed'].all() and theta.dtype == jnp.float32:
        return RandomCode(mine['index'], mine['prior'], theta.shape, bits, length, seed)
      coded, fixed = jax.device_get(fixed_part(state, path, theta))      # cut off before its end
      return np.where(fixed, coded.astype(theta.dtype), np.asarray(theta))
    return map_leaves(one, params['theta'])

  return Regulariser(init, weights, penalty, update, finalise)


def _at(tree: Any, path: str) -> Any:
  for name in path.split('/'):
    tree = tree[name]
  return tree


def _leaf(state: Any, path: str) -> dict[str, Array]:
  """The state of one leaf."""
  return _at(state['leaves'], path)


def code_bits(state: Any) -> dict[str, float]:
  """Returns {'kl_bits': KL of all blocks when they were coded, 'code_bits': of the indices}."""
  bits = int(np.log2(state['table'].shape[0]))
  leaves = [leaf for leaf in jax.tree.leaves(state['leaves'], is_leaf=lambda n: 'kl' in n)]
  return {'kl_bits': sum(float(leaf['kl'].sum()) for leaf in leaves) / math.log(2),
          'code_bits': sum(leaf['index'].size * bits for leaf in leaves)}
