"""Group variables: multiplicative Gaussian posteriors on whole rows and columns of drawn weights.

Chirkova, Lobacheva, Vetrov, "Bayesian compression for natural language processing", 2018,
arXiv:1810.10927, and "Structured sparsification of gated recurrent neural networks", 2020,
arXiv:1911.05585. A weight is w z with z ~ N(mu, sigma^2) under the log-uniform prior, one z for all
weights of a group: the row of a word in an embedding, what a hidden unit feeds, the column of a
gate. alpha = sigma^2 / mu^2; a group with a large alpha is noise and is removed as a whole.

Every example (a sequence, say) has its own z, the same at all its positions and time steps. Gates
multiply the pre-activation, before the bias, which belongs to no group unless one names it.

Where we differ from the authors' code: its KL has the form of the first version of Molchanov et
al., 2017; here that is kl='first', and their eq. 14 is the default.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.counter_noise import normal_at, normal_rows
from sparsejax.gates import GateAxis, place_gates
from sparsejax.paths import Tree, flatten, fold, unflatten
from sparsejax.regulariser import (Number, Regulariser, advance_numbers, finalise, initial_numbers,
                                   require_nonnegative)
from sparsejax.regularisers.log_uniform import KL_FORMS
from sparsejax.regularisers.variational_dropout import log_alpha, total_kl
from sparsejax.structured import Gated, is_structured

Array = jax.Array
# {name of the group: {regular expression of paths: axis, or (axis, positions)}}
Groups = Mapping[str, Mapping[str, int | tuple[int, int]]]


def sample(key: Array, shape: tuple[int, ...], mean: Array, sigma: Array) -> Array:
  """Draws z = mean + sigma e of shape (examples, n) for mean and sigma (n,)."""
  examples, units = shape
  noise = normal_rows(key, jnp.arange(examples), units)
  return jnp.expand_dims(mean, 0) + jnp.expand_dims(sigma, 0) * noise


def sample_at(key: Array, chosen: Array, units: int, mean: Array, sigma: Array) -> Array:
  """Returns sample(key, (examples, units), mean, sigma) at `chosen` (examples, k) of each."""
  noise = normal_at(key, jnp.arange(chosen.shape[0])[:, None], chosen, units)
  return jnp.take(mean, chosen) + jnp.take(sigma, chosen) * noise


def group_variables(
    inner: Regulariser,
    groups: Groups | Callable[[Sequence[str]], Groups],
    *,
    strength: Number = 1.0,
    kl: str = 'approximation',
    threshold: Number = 3.0,
    init_log_sigma: float = -3.0,
    clip: float | None = 8.0,
) -> Regulariser:
  """Multiplies the weights that `inner` draws by Gaussian variables, one for each group.

    group_variables(
        partition(r=('cell0/.*/kernel', sparse_variational_dropout(noise='weight'))),
        {'hidden': {'cell0/h./kernel': -2, 'head/kernel': -2},
         'gate_i': {'cell0/[ih]i/kernel': -1}})

  A leaf may be in several groups: rows in one, columns in another.

  Args:
    inner: the method for the weights, often a `partition`. It may draw structured weights, but its
      deployed weights are plain arrays.
    groups: {name: {pattern: axis}}. One name is one row of variables, shared by all leaves that its
      patterns match; axis -2 multiplies inputs (rows of an embedding), -1 outputs. An entry
      (axis, positions) is as in `gates.py`. Or a function from the paths of all weights to that.
    strength: factor of the KL of the variables, not of `inner`.
    kl: 'approximation', 'exact' or 'first', see `log_uniform.py`.
    threshold: groups with log alpha >= threshold are zero in deployed weights; the others are
      multiplied by their mean.
    init_log_sigma: initial log standard deviation; the means start at 1.
    clip: bound of |log alpha| in the KL; None for no bound.

  Trained: `inner`, and `mean` and `log_sigma` {name: at the path of the group's first leaf, with
  its rank}, float32. State: `inner`, strength, threshold.

  Raises:
    ValueError: for an unknown kl, a negative strength, an `inner` that needs gradients with respect
      to drawn weights; from `init` for a pattern that matches nothing, an axis that a leaf does not
      have, leaves of different lengths in a group.
  """
  require_nonnegative(strength=strength)
  if kl not in KL_FORMS:
    raise ValueError(f'kl={kl!r} is not one of {sorted(KL_FORMS)}')
  if inner.needs_weight_grads:
    raise ValueError('group_variables(inner): inner needs gradients with respect to the weights it '
                     'drew, but the network sees them multiplied; use it without group variables')
  numbers = {'strength': strength, 'threshold': threshold}

  def init(key, weights):
    params, state = inner.init(fold(key, 'inner'), weights)
    mean: Tree = {}
    log_sigma: Tree = {}
    for name, group in places_of(groups, flatten(weights)).items():
      first = next(place for path, place in group.items() if path == place.home)
      shape = first.parameter_shape(first.units)
      mean[name] = unflatten({first.home: jnp.ones(shape)})
      log_sigma[name] = unflatten({first.home: jnp.full(shape, init_log_sigma, jnp.float32)})
    return ({'inner': params, 'mean': mean, 'log_sigma': log_sigma},
            {'inner': state, **initial_numbers(**numbers)})

  def gated(params, state, leaves, key):
    """Returns the leaves {path: weight} times their variables, drawn (by a key) or deployed."""
    leaves = dict(leaves)
    for name, group in places_of(groups, leaves).items():
      mean, = jax.tree.leaves(params['mean'][name])
      log_sigma, = jax.tree.leaves(params['log_sigma'][name])
      for path, place in group.items():
        leaf = leaves[path]
        if key is not None:
          distribution = (mean.reshape(-1), jnp.exp(log_sigma).reshape(-1))
          leaves[path] = Gated(leaf, distribution, fold(key, name), sample, place.axis,
                               place.positions, sample_at)
          continue
        if is_structured(leaf):
          raise ValueError(f'the deployed weight at {path} is a {type(leaf).__name__}, which the '
                           f'group {name!r} cannot multiply; pack it after finalise instead')
        kept = log_alpha(mean, 2 * log_sigma) < state['threshold']
        leaves[path] = leaf * place.spread(jnp.where(kept, mean, 0.0)).astype(leaf.dtype)
    return unflatten(leaves)

  def weights(params, state, key=None):
    drawn = inner.weights(params['inner'], state['inner'], fold(key, 'inner'))
    return gated(params, state, flatten(drawn), fold(key, 'groups'))

  def penalty(params, state, key=None):
    own = inner.penalty(params['inner'], state['inner'], fold(key, 'inner'))
    terms = jax.tree.map(lambda m, s: total_kl(m, 2 * s, kl, clip), params['mean'],
                         params['log_sigma'])
    return own + state['strength'] * sum(jax.tree.leaves(terms), jnp.zeros(()))

  def update(params, state, *, step, weight_grads=None, key=None):
    del weight_grads
    new, state_inner = inner.update(params['inner'], state['inner'], step=step,
                                    key=fold(key, 'inner'))
    state = advance_numbers({**state, 'inner': state_inner}, step, **numbers)
    return {**params, 'inner': new}, state

  def finalise_groups(params, state):
    leaves = flatten(finalise(inner, params['inner'], state['inner']))
    return jax.device_get(gated(params, state, leaves, None))

  return Regulariser(init, weights, penalty, update, finalise_groups)


def places_of(groups: Groups | Callable[[Sequence[str]], Groups],
              leaves: Mapping[str, Any]) -> dict[str, dict[str, GateAxis]]:
  """Returns {group: {path: where its variables act}}.

  Args:
    groups: as in `group_variables`. leaves: {path: array} of the weights.
  """
  chosen = groups(tuple(leaves)) if callable(groups) else groups
  return {name: place_gates(unflatten(_members(name, axes, leaves)), axes, tied=True)
          for name, axes in chosen.items()}


def _members(name: str, axes: Mapping[str, Any], leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the leaves of a group; raises where a pattern matches none."""
  if '/' in name:
    raise ValueError(f'the name of the group {name!r} has a /, which separates paths; rename it')
  for pattern in axes:
    if not any(re.fullmatch(pattern, path) for path in leaves):
      near = difflib.get_close_matches(pattern, leaves, n=1)
      hint = f'; did you mean {near[0]!r}?' if near else ''
      raise ValueError(f'the pattern {pattern!r} of the group {name!r} matches no parameter; '
                       f'parameters are {", ".join(leaves)}{hint}')
  return {path: leaf for path, leaf in leaves.items()
          if any(re.fullmatch(pattern, path) for pattern in axes)}


def group_log_alphas(params: Tree) -> dict[str, np.ndarray]:
  """Returns {name of the group: unclipped log alpha of its variables (n,)}, on the host.

  `params` are those of `group_variables`.
  """
  found = {}
  for name, mean in params['mean'].items():
    m, = jax.tree.leaves(mean)
    s, = jax.tree.leaves(params['log_sigma'][name])
    found[name] = np.asarray(log_alpha(m, 2 * s)).reshape(-1)
  return found
