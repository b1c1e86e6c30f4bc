"""Soft weight-sharing: training under a mixture of Gaussians that is learned along.

Ullrich, Meeds, Welling, "Soft weight-sharing for neural network compression", 2017,
arXiv:1702.04008, after Nowlan and Hinton, 1992. All weights of a trained network share one prior,
a mixture whose means, precisions and mixing weights are trained with them. One component is pinned
at zero and holds most of the mixing weight. The weights gather at the means; deployed, each is
replaced by the mean of the component most responsible for it: pruning and quantisation in one.

  penalty = strength (-sum_w log p(w) - sum_k log Gamma(lambda_k; a_k, b_k) - log Beta(pi_0))

The last term only where pi_0 is learned. `strength` is the paper's tau; it multiplies the priors of
the mixture's parameters too, as in the authors' code. Formulas and further differences from that
code: `gaussian_mixture.py`. Biases are in the mixture if the rule owns them, as in the paper.

The paper gives the mixture learning rates of its own (means 1e-4, log-precisions and log mixing
weights 3e-3, weights 5e-4): `optax.multi_transform` by path. With too large a strength from the
first step on, all weights fall to zero before the means have moved.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax.paths import Tree, flatten, map_leaves, unflatten
from sparsejax.regulariser import (Number, Regulariser, advance_numbers, initial_numbers,
                                   require_fraction, require_nonnegative)
from sparsejax.regularisers.gaussian_mixture import (Mixture, assign, beta_nats, gamma_nats, merge,
                                                     total_log_density)

Array = jax.Array

MIXTURE = 'mixture'     # the key in params beside `weight`
# (a, b) of the precisions, Gamma(a, b) with mean a / b = 2500, a standard deviation of 0.02: of the
# zero component, and of the others. From the authors' code.
HYPER_PRIORS = ((5e3, 2.0), (2.5e2, 0.1))


def soft_weight_sharing(
    num_components: int = 17,
    zero_prior: Number | tuple[float, float] = 0.99,
    hyper_priors: tuple[tuple[float, float], tuple[float, float]] | None = HYPER_PRIORS,
    strength: Number = 0.003,
    *,
    shared: bool = True,
    init_range: float = 0.6,
    init_std: float = 0.25,
    zero_width: Number | None = None,
    width: Number | None = None,
    merge_below: Number = 1e-10,
) -> Regulariser:
  """A learned mixture of Gaussians as the prior; deployed, each weight is one of its means.

  Args:
    num_components: components of a mixture, the pinned one included: 17 in the paper.
    zero_prior: mixing weight of the component at zero, fixed; or (alpha, beta) of a Beta prior
      under which it is trained, from its mean on.
    hyper_priors: ((a, b), (a, b)) of the Gamma priors on the precision of the component at zero
      and of the others; None for no such priors.
    strength: nats per nat of the mixture, the paper's tau. A number, traced array or schedule.
    shared: one mixture over all leaves of the rule; False gives each layer, whose leaves have the
      path before the last '/' in common, one of its own.
    init_range, init_std: the free means start equally spaced in [-init_range, init_range], every
      component with this standard deviation.
    zero_width, width: standard deviations at which the Gamma priors have their mean, of the
      component at zero and of the others: b = a width^2 in place of the b of `hyper_priors`. As
      schedules they anneal the mixture. Left alone, the component at zero narrows until no weight
      crosses its edge, and the paper's priors are too weak to hold it: its weights outvote a = 5e3.
      With a well above half the number of weights the component follows its schedule.
    merge_below: deployed, components with divergences below this many nats become one.

  Trained: `weight`, and under `mixture` (below the layer's path, where each has its own) float32
  `means` and `log_mixing` of the free components, unnormalised, `log_precisions` of all, the one at
  zero first, and the scalar `zero_logit` under a Beta prior. State: strength, merge_below, and the
  numbers of the priors.

  Raises:
    ValueError: for fewer than two components, or a number out of range.
  """
  if num_components < 2:
    raise ValueError(f'num_components={num_components} leaves no component beside that at zero; '
                     'use 2 or more')
  if not (init_range > 0 and init_std > 0):
    raise ValueError(f'init_range={init_range} and init_std={init_std} must be positive')
  require_nonnegative(strength=strength, merge_below=merge_below)
  numbers = {'strength': strength, 'merge_below': merge_below,
             **_zero_numbers(zero_prior), **_hyper_numbers(hyper_priors, zero_width, width)}
  learned_zero = 'zero_alpha' in numbers

  def init(key, weights):
    del key
    log_precisions = jnp.full((num_components,), -2 * math.log(init_std), jnp.float32)
    fresh = {
        'means': jnp.linspace(-init_range, init_range, num_components - 1, dtype=jnp.float32),
        'log_precisions': log_precisions,
        'log_mixing': jnp.zeros((num_components - 1,), jnp.float32),
    }
    state = initial_numbers(**numbers)
    if learned_zero:
      fresh['zero_logit'] = jnp.log(state['zero_alpha']) - jnp.log(state['zero_beta'])
    mixture = unflatten({
        _joined(group, name): leaf
        for group in {_group(path, shared) for path in flatten(weights)}
        for name, leaf in fresh.items()
    })
    return {'weight': weights, MIXTURE: mixture}, state

  def weights(params, state, key=None):
    if key is not None:
      return params['weight']
    merged = {group: merge(mixture, state['merge_below'])
              for group, mixture in mixtures(params, state).items()}

    def collapse(path, leaf):
      mixture = merged[_group(path, shared)]
      return mixture.means[assign(leaf.astype(jnp.float32), mixture)].astype(leaf.dtype)
    return map_leaves(collapse, params['weight'])

  def penalty(params, state, key=None):
    del key
    found = mixtures(params, state)
    nats = sum((-total_log_density(leaf.astype(jnp.float32), found[_group(path, shared)])
                for path, leaf in flatten(params['weight']).items()), jnp.zeros(()))
    for mixture in found.values():
      gamma = mixture.log_precisions
      if 'zero_shape' in state:
        nats += gamma_nats(gamma[0], state['zero_shape'], state['zero_rate'])
        nats += gamma_nats(gamma[1:], state['shape'], state['rate']).sum()
    for path, leaf in flatten(params[MIXTURE]).items():
      if path.rpartition('/')[2] == 'zero_logit':
        nats += beta_nats(leaf, state['zero_alpha'], state['zero_beta'])
    return state['strength'] * nats

  def update(params, state, *, step, weight_grads=None, key=None):
    del weight_grads, key
    return params, advance_numbers(state, step, **numbers)

  return Regulariser(init, weights, penalty, update)


def mixtures(params: Tree, state: Tree) -> dict[str, Mixture]:
  """Returns {path of the layer, or '' for the shared one: its normalised mixture}.

  Component 0 is the one at zero. Neither its mean nor a fixed mixing weight has a gradient.
  """
  flat = flatten(params[MIXTURE])
  found = {}
  for group in sorted(path.rpartition('/')[0] for path in flat if path.endswith('means')):
    own = {name: flat[_joined(group, name)] for name in ('means', 'log_precisions', 'log_mixing')}
    if _joined(group, 'zero_logit') in flat:
      logit = flat[_joined(group, 'zero_logit')]
      zero, others = jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit)
    else:
      zero, others = jnp.log(state['zero_mixing']), jnp.log1p(-state['zero_mixing'])
    free = others + jax.nn.log_softmax(own['log_mixing'])
    found[group] = Mixture(jnp.concatenate([jnp.zeros((1,), jnp.float32), own['means']]),
                           own['log_precisions'], jnp.concatenate([zero[None], free]))
  return found


def _group(path: str, shared: bool) -> str:
  return '' if shared else path.rpartition('/')[0]


def _joined(group: str, name: str) -> str:
  return f'{group}/{name}' if group else name


def _zero_numbers(zero_prior: Any) -> dict[str, Number]:
  """Returns the numbers of a fixed mixing weight, or of a Beta prior."""
  if not isinstance(zero_prior, (tuple, list)):
    require_fraction(zero_prior=zero_prior)
    if not callable(zero_prior) and not isinstance(zero_prior, jax.core.Tracer) and not zero_prior:
      raise ValueError('zero_prior=0 leaves the component at zero without weight; choose one '
                       'between 0 and 1')
    return {'zero_mixing': zero_prior}
  if len(zero_prior) != 2 or not all(number > 0 for number in zero_prior):
    raise ValueError(f'zero_prior={zero_prior} must be a mixing weight, or (alpha, beta) of a Beta '
                     'prior, both positive')
  return dict(zip(('zero_alpha', 'zero_beta'), zero_prior, strict=True))


def _hyper_numbers(hyper_priors: Any, zero_width: Number | None,
                   width: Number | None) -> dict[str, Number]:
  """Returns the (a, b) of the two Gamma priors, with b = a width^2 where a width is given."""
  widths = {'zero_width': zero_width, 'width': width}
  given = {name: value for name, value in widths.items() if value is not None}
  require_nonnegative(**given)
  if hyper_priors is None:
    if given:
      raise ValueError(f'{sorted(given)[0]} moves a hyper-prior, but hyper_priors=None; give '
                       'hyper_priors, or leave it out')
    return {}
  numbers = [number for pair in hyper_priors for number in pair]
  if [len(pair) for pair in hyper_priors] != [2, 2] or not all(number > 0 for number in numbers):
    raise ValueError(f'hyper_priors={hyper_priors} must be ((a, b), (a, b)) of two Gamma priors, '
                     'all positive, or None')
  found: dict[str, Number] = dict(
      zip(('zero_shape', 'zero_rate', 'shape', 'rate'), numbers, strict=True))
  for name, value in given.items():
    shape, rate = name.replace('width', 'shape'), name.replace('width', 'rate')
    found[rate] = _rate(found[shape], value)
  return found


def _rate(shape: Any, width: Number) -> Number:
  """Returns the rate b, or its schedule, of a Gamma prior whose mean is that of the width."""
  if callable(width):
    schedule = width
    return lambda step: shape * jnp.square(schedule(step))
  return shape * width**2
