"""What a method would rather keep, and holding it to a choice: for landings on a density.

A `Ranking` knows one method's parameters. Its scores order what stays or goes as a whole (a gate,
a group, a weight); `hold` turns the method's parameters and state into those of the network that
is left once a choice has been made: what was not chosen is zero, what was chosen is kept whatever
the method's own threshold says, and nothing is noise any more, so that what is trained from then on
is the network that will be deployed. It acts where weights are read and changes no parameter:
what was cut can be chosen again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.cell_paths import CELLS
from sparsejax.gates import AxisLike, place_gates
from sparsejax.paths import Tree, flatten, map_leaves
from sparsejax.regularisers.bayesian_rnn import GROUPS, rnn_groups
from sparsejax.regularisers.group_lasso import group_squares
from sparsejax.regularisers.group_variables import Groups, places_of
from sparsejax.regularisers.hard_concrete import GAMMA, ZETA, deterministic_gate
from sparsejax.regularisers.variational_dropout import log_alpha

Array = jax.Array

LEAST_GATE = 0.1         # of a gate that was shut and is chosen
OPEN = 30.0              # a log alpha at which every draw of a gate is 1
QUIET = -30.0            # a log variance without effect in float32
TIE = 1e-3               # what a root mean square of 1 adds to the score of a gate
SMALLEST_NORM = 1e-15   # of which the square is a float32


class Ranking(NamedTuple):
  """How a method's parameters are ranked and held.

  Attributes:
    scores: (params, state) -> tree of finite float32 arrays, one entry for all that stays or goes
      together; the largest stay.
    hold: (params, state, kept) -> (params, state) with which the method deploys what is kept;
      `kept` is a tree of bools like the scores.
  """

  scores: Callable[[Tree, Tree], Tree]
  hold: Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]


def of_rules(rankings: Mapping[str, Ranking]) -> Ranking:
  """Returns the ranking of a partition, given those of some of its rules by name.

  The scores of different rules are compared with each other.
  """
  def scores(params, state):
    return {name: own.scores(params[name], state[name]) for name, own in rankings.items()}

  def hold(params, state, kept):
    params, state = dict(params), dict(state)
    for name, own in rankings.items():
      params[name], state[name] = own.hold(params[name], state[name], kept[name])
    return params, state
  return Ranking(scores, hold)


def gates(axis: AxisLike = -2, tied: bool = False, gamma: float = GAMMA,
          zeta: float = ZETA) -> Ranking:
  """Of `l0_hard_concrete` with these options: the log alpha of each gate.

  Gates held at the clamp tie; of these the ones of larger weights (of the leaf they sit on) stay.
  """
  shut = (LEAST_GATE - gamma) / (zeta - gamma)
  least = math.log(shut) - math.log1p(-shut)

  def scores(params, state):
    del state
    places = place_gates(params['weight'], axis, tied)
    weights = flatten(params['weight'])

    def score(path, log_alpha):
      size = weights[path].size // log_alpha.size
      squares = group_squares(weights[path], places[path].axis) / size
      return log_alpha + TIE * jnp.sqrt(squares).reshape(log_alpha.shape)
    return map_leaves(score, params['log_alpha'])

  def hold(params, state, kept):
    places = place_gates(params['weight'], axis, tied)
    log_alphas, chosen = flatten(params['log_alpha']), flatten(kept)
    values = {home: jnp.where(chosen[home],
                              deterministic_gate(jnp.where(a < least, least, a), gamma, zeta), 0.0)
              for home, a in log_alphas.items()}
    weight = map_leaves(lambda path, w: w * places[path].spread(values[places[path].home])
                        .astype(w.dtype), params['weight'])
    quiet = jax.tree.map(lambda a: jnp.full_like(a, OPEN), params['log_alpha'])
    return {**params, 'weight': weight, 'log_alpha': quiet}, state
  return Ranking(scores, hold)


def variances() -> Ranking:
  """Of `sparse_variational_dropout`: each weight's threshold minus its log alpha."""
  def scores(params, state):
    return jax.tree.map(lambda t, s: state['threshold'] - log_alpha(t.astype(jnp.float32), s),
                        params['theta'], params['log_sigma2'])

  def hold(params, state, kept):
    theta = _masked(params['theta'], kept)
    quiet = jax.tree.map(lambda s: jnp.full_like(s, QUIET), params['log_sigma2'])
    return ({**params, 'theta': theta, 'log_sigma2': quiet},
            {**state, 'threshold': jnp.full_like(state['threshold'], jnp.inf)})
  return Ranking(scores, hold)


def products(rules: Sequence[str], groups: Groups | Callable[[Sequence[str]], Groups]) -> Ranking:
  """Of `group_variables` with these groups, whose inner is a partition: `rules` are
  `sparse_variational_dropout`, the groups of their leaves.

  Each weight's threshold minus the log alpha of what is drawn, w times its variables. With
  alpha = variance / mean^2 of a factor, that of a product of independent factors is
  prod(1 + alpha) - 1.
  """
  inner = of_rules({name: variances() for name in rules})

  def scores(params, state):
    own = inner.scores(params['inner'], state['inner'])
    thresholds = {name: state['inner'][name]['threshold'] for name in rules}
    noise = {path: jax.nn.softplus(thresholds[name] - score)       # log(1 + alpha)
             for name in rules for path, score in flatten(own[name]).items()}
    for name, group in places_of(groups, noise).items():
      mean, = jax.tree.leaves(params['mean'][name])
      log_sigma, = jax.tree.leaves(params['log_sigma'][name])
      factor = jax.nn.softplus(log_alpha(mean, 2 * log_sigma))
      for path, place in group.items():
        noise[path] = noise[path] + place.spread(factor)

    def score(name, total):
      return thresholds[name] - total - jnp.log(-jnp.expm1(-total))
    return {name: map_leaves(lambda path, leaf, name=name: score(name, noise[path]), own[name])
            for name in rules}

  def hold(params, state, kept):
    own, state_inner = inner.hold(params['inner'], state['inner'], kept)
    quiet = jax.tree.map(lambda s: jnp.full_like(s, QUIET / 2), params['log_sigma'])
    return ({**params, 'inner': own, 'log_sigma': quiet},
            {**state, 'inner': state_inner,
             'threshold': jnp.full_like(state['threshold'], jnp.inf)})
  return Ranking(scores, hold)


def recurrent(groups: Sequence[str] = GROUPS, *, cells: str = CELLS,
              embedding: str | None = 'embed/embedding',
              head: str | None = 'head/kernel') -> Ranking:
  """Of `bayesian_rnn` with these arguments: `products`, without groups `variances`."""
  rules = ['cells', *(['embedding'] if embedding is not None else []),
           *(['head'] if head is not None else [])]
  if not groups:
    return of_rules({name: variances() for name in rules})
  return products(rules, lambda paths: rnn_groups(paths, groups, cells=cells, embedding=embedding,
                                                  head=head))


def norms(axis: AxisLike = -2) -> Ranking:
  """Of `group_lasso`: the log of each group's root mean square over the threshold."""
  def scores(params, state):
    places = place_gates(params, axis)

    def score(path, w):
      place = places[path]
      mean = group_squares(w, place.axis) * place.units / w.size
      floor = jnp.maximum(jnp.log(state['threshold']), math.log(SMALLEST_NORM))
      return place.spread(0.5 * jnp.log(jnp.maximum(mean, SMALLEST_NORM**2)) - floor)
    return map_leaves(score, params)

  def hold(params, state, kept):
    return _masked(params, kept), {**state, 'threshold': jnp.zeros_like(state['threshold'])}
  return Ranking(scores, hold)


def magnitudes() -> Ranking:
  """Of `l1`: the log of each weight's magnitude."""
  def scores(params, state):
    del state
    return jax.tree.map(lambda w: jnp.log(jnp.maximum(jnp.abs(w.astype(jnp.float32)),
                                                      SMALLEST_NORM)), params)

  def hold(params, state, kept):
    return _masked(params, kept), state
  return Ranking(scores, hold)


def _masked(weights: Tree, kept: Tree) -> Tree:
  return jax.tree.map(lambda w, k: jnp.where(k, w, jnp.zeros_like(w)), weights, kept)


# --- choosing -------------------------------------------------------------------------------------


def chosen(scores: Tree, count: Callable[[Tree], Any], wanted: Any) -> Tree:
  """Returns what is kept, a tree of bools: the best by score, as many as come nearest to `wanted`.

  The best entry of each array comes before all others, for an array without any would cut the
  network; of equal scores the first stays.

  Args:
    scores: tree of float32 arrays. count: (tree of bools) -> what is left then, which must not fall
      when more is kept. wanted: of it.
  """
  leaves, structure = jax.tree.flatten(scores)
  ranks = _ranks(leaves)
  total = sum(leaf.size for leaf in leaves)

  def kept(number):
    return jax.tree.unflatten(structure, [rank < number for rank in ranks])

  def halve(_, bounds):
    low, high = bounds                     # the best `low` do not exceed what is wanted
    middle = (low + high + 1) // 2
    fits = count(kept(middle)) <= wanted
    return jnp.where(fits, middle, low), jnp.where(fits, high, middle - 1)
  least = jnp.int32(len(leaves))
  below, _ = jax.lax.fori_loop(0, total.bit_length(), halve, (least, jnp.int32(total)))
  above = jnp.minimum(below + 1, total)
  nearer = jnp.abs(count(kept(above)) - wanted) < jnp.abs(count(kept(below)) - wanted)
  return kept(jnp.where(nearer, above, below))


def _ranks(leaves: list[Array]) -> list[Array]:
  """Returns the rank of each entry among all, from 0; the best of each array come first."""
  flat = [jnp.where(jnp.arange(leaf.size) == jnp.argmax(leaf), jnp.inf, leaf.reshape(-1))
          for leaf in leaves]
  order = jnp.argsort(jnp.concatenate(flat), stable=True, descending=True)
  rank = jnp.zeros(order.size, jnp.int32).at[order].set(jnp.arange(order.size, dtype=jnp.int32))
  ends = [0]
  for leaf in leaves:
    ends.append(ends[-1] + leaf.size)
  return [rank[start:end].reshape(leaf.shape)
          for start, end, leaf in zip(ends, ends[1:], leaves)]
