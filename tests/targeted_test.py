"""The controller of strengths: its law step by step in NumPy, and made-up networks under it."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.models.lenet import MLP
from sparsejax.ranking import Ranking
from sparsejax.regulariser import Regulariser, finalise, initial_numbers
from sparsejax.targeted import kernel_density, log_reference, targeted

UNITS = 2000


def network():
  """Units that drift shut where the strength is above what they are worth, and open again slowly.

  Unit i is worth exp(4 i / UNITS) / sensitivity. Its gate, in [-1, 1] and shut below 0, moves by
  `rate` times the log of worth over strength, at most 1, and more slowly when it opens.
  """
  worth = jnp.exp(4 * jnp.arange(UNITS) / UNITS)

  def init(key, weights):
    del key
    return ({'gate': jnp.ones(UNITS), 'weight': weights},
            initial_numbers(strength=1.0, rate=0.01, reopening=1.0, sensitivity=1.0))

  def weights(params, state, key=None):
    del state, key
    return jax.tree.map(lambda w: w * (params['gate'] > 0)[:, None], params['weight'])

  def update(params, state, *, step, weight_grads=None, key=None):
    del step, weight_grads, key
    drift = jnp.clip(jnp.log(worth / (state['strength'] * state['sensitivity'])), -1, 1)
    drift = state['rate'] * drift * jnp.where(drift > 0, state['reopening'], 1.0)
    return {**params, 'gate': jnp.clip(params['gate'] + drift, -1, 1)}, state
  return Regulariser(init, weights, update=update)


NETWORKS = ({'rate': 0.02}, {'rate': 0.004}, {'reopening': 0.05}, {'sensitivity': 100.0},
            {'sensitivity': 0.01}, {'rate': 0.1, 'reopening': 0.2})


@pytest.mark.slow
def test_the_density_lands_within_five_per_cent_whatever_the_network():
  # One program for all of them: a population whose members have a target of their own each.
  cases = list(itertools.product((0.1, 1 / 30, 1 / 60), NETWORKS))
  method = targeted(network(), 1.0, ramp_steps=4000, response_steps=250)

  def member(density, changes):
    params, state = method.init(jax.random.key(0), {'kernel': jnp.ones((UNITS, 3))})
    state = {**state, **changes, 'control': {**state['control'], 'density': density}}

    def step(carry, number):
      carry = method.update(*carry, step=number)
      return carry, kernel_density(method.weights(*carry))
    return jax.lax.scan(step, (params, state), jnp.arange(6000))[1]
  default = {'rate': 0.02, 'reopening': 1.0, 'sensitivity': 1.0}
  changes = [{**default, **change} for _, change in cases]
  densities = jax.jit(jax.vmap(member))(
      jnp.array([density for density, _ in cases]),
      {name: jnp.array([change[name] for change in changes]) for name in default})
  for (density, change), found in zip(cases, np.asarray(densities), strict=True):
    # One unit of the smallest target is 3 % of it; a look sees whole units.
    assert abs(found[-1] / density - 1) <= 0.05 + 1e-3, (density, change, found[-1])
    assert found.min() > 0.95 * density, f'{density}, {change}: it was overshot on the way'


def ranked():
  """The ranking of that network: a gate is its own score."""
  def hold(params, state, kept):
    return {**params, 'gate': jnp.where(kept['gate'], 1.0, -1.0)}, state
  return Ranking(lambda params, state: {'gate': params['gate']}, hold)


def test_a_landing_meets_the_density_from_above_and_from_below_and_when_it_moves():
  # Members: steered well; overshot by far, with gates that never open; nothing ever closes.
  changes = {'rate': jnp.array([0.02, 0.5, 0.0]), 'reopening': jnp.array([1.0, 0.0, 1.0]),
             'sensitivity': jnp.array([1.0, 1500.0, 1.0])}
  method = targeted(network(), 0.1, ramp_steps=600, response_steps=50, every=10, ranking=ranked(),
                    landing_step=1000)
  params, state = method.init(jax.random.key(0), {'kernel': jnp.ones((UNITS, 3))})

  @jax.jit
  @jax.vmap
  def run(changes):
    def step(carry, number):
      params, state = carry
      density = jnp.where(number < 1020, 0.1, 0.11)
      state = {**state, 'control': {**state['control'], 'density': density}}
      params, state = method.update(params, state, step=number)
      landing = {name: state['control']['landing'][name]
                 for name in ('landed', 'natural', 'cut', 'reopened')}
      return (params, state), (kernel_density(method.weights(params, state)), state['strength'],
                               landing)
    return jax.lax.scan(step, (params, {**state, **changes}), jnp.arange(1040))[1]
  density, strength, landing = jax.device_get(run(changes))
  natural = density[:, 999]
  assert abs(natural[0] / 0.11 - 1) < 0.1, 'steered to 1.1 times the target'
  assert natural[1] < 0.06 and natural[2] == 1.0
  np.testing.assert_array_equal(landing['landed'][0], np.arange(1040) >= 1000)
  np.testing.assert_allclose(density[:, 1000:1020], 0.1, rtol=1e-6)
  np.testing.assert_allclose(density[:, 1020:], 0.11, rtol=1e-6)
  assert np.all(strength[:2, 999] > 0) and not np.any(strength[:, 1000:])
  np.testing.assert_array_equal(landing['natural'][:, -1], natural)
  wanted = np.maximum(np.round((natural - 0.1) * UNITS) * 3, 0)
  np.testing.assert_allclose(landing['cut'][:, -1], wanted, atol=30)
  up = np.maximum(np.round((0.1 - natural) * UNITS) * 3, 0) + 60
  np.testing.assert_allclose(landing['reopened'][:, -1], up, atol=30)


def test_each_look_follows_the_law():
  density, ramp, begin, every, response = 0.2, 300, 20, 10, 100
  method = targeted(network(), density, ramp_steps=ramp, begin_step=begin, every=every,
                    response_steps=response)
  params, state = method.init(jax.random.key(0), {'kernel': jnp.ones((UNITS, 3))})
  state = {**state, 'rate': jnp.asarray(0.2), 'sensitivity': jnp.asarray(1000.0)}
  assert float(state['strength']) == pytest.approx(0.03)
  log_factor, slope, before, last = np.log(0.03), 0.0, 0.0, 0.0
  update, seen = jax.jit(method.update), []
  for step in range(400):
    params, state = update(params, state, step=step)
    if step % every == 0:
      now = np.log(max((np.asarray(params['gate']) > 0).mean(), 0.1 * density))
      slope = 0.9 * slope + 0.1 * (now - before) / every
      x = np.clip((step + response - begin) / ramp, 0, 1)
      error = now + response * slope - x * (2 - x) * np.log(1.02 * density)
      if step >= begin:
        change = (2 if error < 0 else 1) * error * every / response + error - last
        log_factor += np.clip(change, -4 * every / response, 2 * every / response)
        last = error
      before = now
      seen.append(error)
    assert float(state['strength']) == pytest.approx(np.exp(log_factor), rel=1e-3), step
  assert min(seen) < 0 < max(seen) and now < 0, 'the case is too tame to tell'


def test_the_reference_falls_from_one_to_a_little_above_the_target():
  at = [float(jnp.exp(log_reference(step, 100, 400, 0.01))) for step in (0, 100, 300, 500, 9000)]
  np.testing.assert_allclose(at, [1, 1, 0.0102**0.75, 0.0102, 0.0102], rtol=1e-5)
  assert float(log_reference(9000, 0, 1, 1.0)) == 0.0


def test_ratios_of_strengths_are_kept_and_other_rules_let_alone():
  weights = {'a': {'kernel': jnp.ones((4, 3))}, 'b': {'kernel': jnp.ones((4, 3))},
             'c': {'kernel': jnp.ones((4, 3))}}
  rules = sparsejax.partition(first=('a/.*', sparsejax.group_lasso(0.1)),
                              second=('b/.*', sparsejax.group_lasso(0.4)),
                              decay=('c/.*', sparsejax.weight_decay(2.0)))
  method = targeted(rules, 0.5, ramp_steps=10, response_steps=50,
                    strengths='(first|second)/strength')
  params, state = method.init(jax.random.key(0), weights)
  update = jax.jit(method.update)
  for step in range(60):
    params, state = update(params, state, step=step)
  assert float(state['first']['strength']) > 0.002
  assert float(state['second']['strength']) == pytest.approx(4 * float(state['first']['strength']))
  assert float(state['decay']['strength']) == 2.0


def test_density_counts_kernels_of_every_rule_and_no_bias():
  weights = {'a': {'kernel': jnp.array([[1.0, 0], [0, 0]]), 'bias': jnp.zeros(7)},
             'b': {'kernel': jnp.ones((2, 3))}}
  assert float(kernel_density(weights)) == pytest.approx(0.7)


@pytest.mark.parametrize('options, message', [
    ({'density': 0.0}, 'density=0.0 must lie in'), ({'density': 1.5}, 'density=1.5 must lie in'),
    ({'ramp_steps': 0}, 'ramp_steps=0 must be at least 1'), ({'every': 0}, 'every=0 must be'),
    ({'response_steps': 0.5}, 'response_steps=0.5 must be')])
def test_bad_numbers_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    targeted(sparsejax.l1(0.1), **{'density': 0.1, 'ramp_steps': 10, **options})


def test_a_ranking_needs_its_step():
  with pytest.raises(ValueError, match='landing_step=None and a ranking go together'):
    targeted(sparsejax.l1(0.1), 0.1, ramp_steps=10, ranking=ranked())
  with pytest.raises(ValueError, match='steering=False without a ranking leaves nothing to do'):
    targeted(sparsejax.l1(0.1), 0.1, ramp_steps=10, steering=False)


def test_what_nobody_reads_does_not_count():
  weights = {'dense0': {'kernel': jnp.ones((5, 4))},
             'head': {'kernel': jnp.ones((4, 2)).at[1].set(1e-9)}}
  method = targeted(sparsejax.group_lasso(0.1), 0.5, ramp_steps=10,
                    couplings=lambda weights: MLP((4,), 2).couplings())
  params, state = method.init(jax.random.key(0), weights)
  for deployed in (method.weights(params, state), finalise(method, params, state)):
    assert float(kernel_density(deployed)) == pytest.approx((5 + 2) * 3 / 28)
  drawn = method.weights(params, state, jax.random.key(1))
  assert float(kernel_density(drawn)) == 1.0


def test_a_method_without_a_strength_is_refused():
  weights = {'kernel': jnp.ones((4, 3))}
  with pytest.raises(ValueError, match="no number in the state matches strengths='.*strength'; it "
                                       'holds'):
    targeted(sparsejax.magnitude_pruning(0.5), 0.1, ramp_steps=1).init(jax.random.key(0), weights)
  once = targeted(sparsejax.l1(0.1), 0.1, ramp_steps=1)
  with pytest.raises(ValueError, match="has an entry 'control' already|an entry 'control'"):
    targeted(once, 0.1, ramp_steps=1).init(jax.random.key(0), weights)
