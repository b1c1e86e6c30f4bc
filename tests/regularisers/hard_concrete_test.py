"""L0 by hard-concrete gates: closed forms, the penalty by hand, gates per batch and per example."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from scipy import stats

import sparsejax
from sparsejax.paths import flatten, fold
from sparsejax.regularisers import hard_concrete
from sparsejax.regularisers.hard_concrete import l0_hard_concrete

LOG_ALPHA = np.array([-4.6, -2.4, -1.3863, 0.0, 1.3863, 2.4, 4.6])
C = 2 / 3 * math.log(0.1 / 1.1)  # beta log(-gamma / zeta) = -1.598597


# --- the distribution of one gate -----------------------------------------------------------------


def test_gate_probabilities_match_samples():
  n = 1_000_000
  log_alpha = jnp.asarray(LOG_ALPHA, jnp.float32)

  @jax.jit
  def frequencies(key):
    z = hard_concrete.sample(key, (n, log_alpha.size), log_alpha)
    return (z == 0).mean(0), (z == 1).mean(0), z.mean(0)
  zero, one, mean = frequencies(jax.random.key(0))
  # The logistic variable behind the gate, by SciPy.
  p_zero, p_one = stats.logistic.cdf(C - LOG_ALPHA), stats.logistic.sf(-C - LOG_ALPHA)
  np.testing.assert_allclose(hard_concrete.nonzero_probability(log_alpha), 1 - p_zero, rtol=1e-5)
  np.testing.assert_allclose(hard_concrete.one_probability(log_alpha), p_one, rtol=1e-5)
  for frequency, p in ((zero, p_zero), (one, p_one)):
    error = 5 * np.sqrt(p * (1 - p) / n) + hard_concrete.U_MARGIN
    np.testing.assert_array_less(np.abs(frequency - p), error)
  # Reference values to four and three decimals; a gate's standard deviation is below 1/2.
  np.testing.assert_allclose([p_zero[3], p_one[3], p_zero[4], p_one[4]],
                             [0.1682, 0.1682, 0.0481, 0.4471], atol=5e-5)
  np.testing.assert_allclose(mean[3:5], [0.5, 0.774], atol=5e-4 + 5 * 0.5 / np.sqrt(n))
  np.testing.assert_allclose(hard_concrete.deterministic_gate(1.3863), 0.860, atol=5e-4)


def test_closed_forms_follow_other_limits():
  log_alpha, beta, gamma, zeta = 0.4, 0.9, -0.3, 1.05
  n = 400_000
  z = hard_concrete.sample(jax.random.key(1), (n, 1), jnp.array([log_alpha]), beta, gamma, zeta)
  for found, p in (
      (float((z > 0).mean()), hard_concrete.nonzero_probability(log_alpha, beta, gamma, zeta)),
      (float((z == 1).mean()), hard_concrete.one_probability(log_alpha, beta, gamma, zeta))):
    assert abs(found - p) < 5 * math.sqrt(p * (1 - p) / n) + hard_concrete.U_MARGIN


def test_probability_of_use_rises_with_log_alpha():
  log_alpha = jnp.linspace(-12.0, 12.0, 97)
  p = hard_concrete.nonzero_probability(log_alpha)
  slope = jax.vmap(jax.grad(hard_concrete.nonzero_probability))(log_alpha)
  assert (slope > 0).all()
  # 1 - P has the rounding of P, 6e-8 of 1, which at P near 1 is 1e-2 of 1 - P.
  np.testing.assert_allclose(slope, p * (1 - p), atol=1e-7)


def test_gradient_is_zero_exactly_where_the_gate_is_clipped():
  log_alpha = jnp.linspace(-6.0, 6.0, 2000)

  def gates(a):
    return hard_concrete.sample(jax.random.key(2), a.shape, a)
  z, slope = gates(log_alpha), jax.grad(lambda a: gates(a).sum())(log_alpha)
  clipped = (z == 0) | (z == 1)
  assert 200 < clipped.sum() < 1800
  np.testing.assert_array_equal(np.asarray(slope)[clipped], 0)
  assert (np.asarray(slope)[~clipped] > 0).all()


@pytest.mark.debug_nans
def test_gates_are_finite_for_u_at_both_ends(monkeypatch):
  def at_the_ends(key, shape, dtype, minval, maxval):
    assert 0 < minval < maxval < 1
    return jnp.broadcast_to(jnp.array([minval, maxval], dtype), shape)
  monkeypatch.setattr(jax.random, 'uniform', at_the_ends)
  for log_alpha in (-100.0, -4.6, 0.0, 4.6, 100.0):
    def total(a, beta):
      return hard_concrete.sample(jax.random.key(0), (3, 2), a, beta).sum()
    value, slopes = jax.value_and_grad(total, (0, 1))(jnp.full(2, log_alpha), 2 / 3)
    assert np.isfinite(value) and all(np.isfinite(s).all() for s in slopes)


def test_deterministic_gate_is_zero_up_to_minus_log_eleven_and_rises():
  edge = -math.log(11)  # sigmoid = 1/12, times 1.2 less 0.1; the slope there is 0.09
  gate = hard_concrete.deterministic_gate(jnp.array([-30.0, edge - 1e-5, edge + 1e-5, 0.0]))
  assert gate[0] == gate[1] == 0 < gate[2] < 2e-6
  assert gate[3] == 0.5
  np.testing.assert_array_equal(
      hard_concrete.deterministic_gate(jnp.array([-edge + 1e-5, 4.6])), 1)
  steps = np.diff(hard_concrete.deterministic_gate(jnp.linspace(-2.39, 2.39, 400)))
  assert (steps > 0).all()


# --- the regulariser ------------------------------------------------------------------------------


def dense_weights(key=0, width=6):
  rng = np.random.default_rng(key)
  shapes = {'first': (4, width), 'second': (width, 3)}
  return {name: {'kernel': jnp.asarray(rng.normal(size=shape), jnp.float32)}
          for name, shape in shapes.items()}


# A convolution, its bias and the dense layer behind a flatten share four gates; two positions.
TIED = {'conv/.*': -1, 'dense/kernel': (-2, 2)}


def tied_weights():
  rng = np.random.default_rng(1)
  shapes = {'conv': {'kernel': (2, 2, 3, 4), 'bias': (4,)}, 'dense': {'kernel': (8, 5)}}
  return jax.tree.map(lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32), shapes,
                      is_leaf=lambda shape: isinstance(shape, tuple))


def with_log_alpha(params, values):
  """Returns params with the given log_alpha at its only leaf."""
  return {**params, 'log_alpha': jax.tree.map(
      lambda a: jnp.asarray(values, jnp.float32).reshape(a.shape), params['log_alpha'])}


def test_penalty_equals_loops_over_tied_gates_and_positions():
  strength, rho, beta, gamma, zeta = 0.3, 0.7, 0.8, -0.2, 1.3
  method = l0_hard_concrete(strength, axis=TIED, tied=True, l2=rho, beta=beta, gamma=gamma,
                            zeta=zeta)
  tree = tied_weights()
  params, state = method.init(jax.random.key(0), tree)
  values = np.array([-2.0, 0.0, 0.5, 3.0])
  params = with_log_alpha(params, values)
  in_use = 1 / (1 + np.exp(beta * np.log(-gamma / zeta) - values))
  kernel, bias, dense = (np.asarray(leaf, np.float64) for leaf in (
      tree['conv']['kernel'], tree['conv']['bias'], tree['dense']['kernel']))
  total = 0.0
  for unit in range(4):
    group = list(kernel[..., unit].ravel()) + [bias[unit]]
    for position in range(2):
      group += list(dense[position * 4 + unit])  # the unit runs fastest, as in NHWC
    assert len(group) == 12 + 1 + 10
    for weight in group:
      total += in_use[unit] * (strength + 0.5 * rho * weight**2)
  penalty = method.penalty(params, state)
  assert penalty.shape == () and penalty.dtype == jnp.float32
  np.testing.assert_allclose(penalty, total, rtol=1e-6)


def test_penalty_without_l2_and_its_gradient():
  strength = 0.4
  method = l0_hard_concrete(strength)
  params, state = method.init(jax.random.key(0), {'dense': {'kernel': jnp.ones((3, 5))}})
  values = np.array([-1.0, 0.0, 2.0])
  params = with_log_alpha(params, values)
  p = stats.logistic.cdf(values - C)
  np.testing.assert_allclose(method.penalty(params, state), strength * 5 * p.sum(), rtol=1e-6)
  slope = jax.grad(method.penalty)(params, state)
  np.testing.assert_allclose(slope['log_alpha']['dense']['kernel'].ravel(),
                             strength * 5 * p * (1 - p), rtol=1e-5)
  np.testing.assert_array_equal(slope['weight']['dense']['kernel'], 0)


def test_expected_weights_count_the_group_and_double_with_the_width():
  def count(width, value):
    params, state = l0_hard_concrete(1.0).init(
        jax.random.key(0), {'dense': {'kernel': jnp.ones((4, width))}})
    return hard_concrete.expected_weights(with_log_alpha(params, np.full(4, value)), state)
  np.testing.assert_allclose(count(6, 0.3), 24 * stats.logistic.cdf(0.3 - C), rtol=1e-6)
  np.testing.assert_allclose(count(12, 0.3), 2 * count(6, 0.3), rtol=1e-6)
  np.testing.assert_allclose(count(6, 100.0), 24)


def test_expected_weights_follow_other_limits():
  beta, gamma, zeta = 0.5, -0.4, 1.2
  params, state = l0_hard_concrete(1.0, beta=beta, gamma=gamma, zeta=zeta).init(
      jax.random.key(0), {'dense': {'kernel': jnp.ones((4, 6))}})
  params = with_log_alpha(params, np.full(4, 0.3))
  found = hard_concrete.expected_weights(params, state, gamma=gamma, zeta=zeta)
  expected = 24 * stats.logistic.cdf(0.3 - beta * math.log(-gamma / zeta))
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_open_gates_leave_the_network_as_it_is():
  tree = dense_weights()
  method = l0_hard_concrete(0.0)
  params, state = method.init(jax.random.key(0), tree)
  params['log_alpha'] = jax.tree.map(lambda a: jnp.full_like(a, 4.6), params['log_alpha'])
  assert method.penalty(params, state) == 0
  jax.tree.map(np.testing.assert_array_equal, method.weights(params, state), tree)


def test_initial_gates_have_the_asked_drop_rate():
  tree = {'dense': {'kernel': jnp.zeros((4000, 1))}}
  for rate, in_use in ((0.2, 0.952), (0.3, 0.920), (0.5, 0.832)):
    params, _ = l0_hard_concrete(1.0, drop_rate=rate).init(jax.random.key(0), tree)
    log_alpha = params['log_alpha']['dense']['kernel']
    mean = math.log(1 - rate) - math.log(rate)
    assert abs(log_alpha.mean() - mean) < 5 * 0.01 / math.sqrt(4000) + 1e-6
    assert abs(log_alpha.std() / 0.01 - 1) < 5 / math.sqrt(2 * 4000)
    # Reference values to three decimals; log_alpha spreads by 0.01 and the slope is below 1/4.
    np.testing.assert_allclose(hard_concrete.nonzero_probability(log_alpha).mean(), in_use,
                               atol=1e-3)


def drawn_gates(method, tree, key):
  """Returns {path: gate of each row}, having checked that a row has one gate."""
  params, state = method.init(jax.random.key(0), tree)
  found = {}
  for path, leaf in flatten(method.weights(params, state, key)).items():
    ratio = np.asarray(leaf / flatten(tree)[path])
    np.testing.assert_allclose(ratio, np.repeat(ratio[:, :1], ratio.shape[1], 1), rtol=1e-6)
    found[path] = ratio[:, 0]
  return found


def test_one_key_draws_one_set_of_gates_and_layers_differ():
  tree = {name: {'kernel': jnp.full((50, 3), 2.0)} for name in ('first', 'second')}
  method = l0_hard_concrete(1.0)
  gates = drawn_gates(method, tree, jax.random.key(5))
  again = drawn_gates(method, tree, jax.random.key(5))
  other = drawn_gates(method, tree, jax.random.key(6))
  for path, row in gates.items():
    np.testing.assert_array_equal(row, again[path])
    assert (row != other[path]).mean() > 0.3
    assert 0 <= row.min() and row.max() <= 1
  assert (gates['first/kernel'] != gates['second/kernel']).mean() > 0.3


def test_tied_leaves_share_their_gates_over_positions():
  tree = jax.tree.map(jnp.ones_like, tied_weights())
  method = l0_hard_concrete(1.0, axis=TIED, tied=True)
  params, state = method.init(jax.random.key(0), tree)
  for key in (None, jax.random.key(1)):
    drawn = method.weights(params, state, key)
    gates = np.asarray(drawn['conv']['bias'])
    np.testing.assert_array_equal(drawn['conv']['kernel'],
                                  np.broadcast_to(gates, (2, 2, 3, 4)))
    np.testing.assert_array_equal(drawn['dense']['kernel'],
                                  np.repeat(np.tile(gates, 2)[:, None], 5, 1))


# --- gates per example ----------------------------------------------------------------------------


class Mixed(nn.Module):
  """VALID convolution, relu, flatten, dense."""

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Conv(4, (2, 2), padding='VALID', name='conv')(x))
    return nn.Dense(5, use_bias=False, name='dense')(x.reshape(x.shape[0], -1))


def gates_of(key, home, examples, log_alpha):
  z = hard_concrete.sample(fold(key, home), (examples, log_alpha.size), log_alpha.reshape(-1))
  return np.asarray(z, np.float64)


def test_gates_per_example_equal_a_loop_over_the_examples_dense():
  tree = dense_weights()
  method = l0_hard_concrete(1.0, per='example')
  params, state = method.init(jax.random.key(0), tree)
  x = jnp.asarray(np.random.default_rng(3).normal(size=(7, 4)), jnp.float32)
  key = jax.random.key(8)
  model = nn.Sequential([nn.Dense(6, use_bias=False), nn.relu, nn.Dense(3, use_bias=False)])
  drawn = method.weights(params, state, key)
  variables = {'params': {'layers_0': drawn['first'], 'layers_2': drawn['second']}}
  outputs = jax.jit(lambda v, x: sparsejax.apply(model, v, x))(variables, x)

  z = {path: gates_of(key, path, 7, a) for path, a in flatten(params['log_alpha']).items()}
  first, second = (np.asarray(tree[n]['kernel'], np.float64) for n in ('first', 'second'))
  for i in range(7):
    hidden = np.maximum((z['first/kernel'][i][:, None] * first).T @ np.asarray(x[i]), 0)
    expected = (z['second/kernel'][i][:, None] * second).T @ hidden
    np.testing.assert_allclose(outputs[i], expected, rtol=1e-5, atol=1e-5)
  assert len({tuple(row) for row in z['first/kernel'].round(6)}) == 7


def test_gates_per_example_equal_a_loop_over_the_examples_tied():
  tree = tied_weights()
  method = l0_hard_concrete(1.0, axis=TIED, tied=True, per='example')
  params, state = method.init(jax.random.key(0), tree)
  x = jnp.asarray(np.random.default_rng(4).normal(size=(6, 2, 3, 3)), jnp.float32)  # 1 x 2 outputs
  key = jax.random.key(9)
  outputs = jax.jit(lambda v, x: sparsejax.apply(Mixed(), v, x))(
      {'params': method.weights(params, state, key)}, x)

  (home, log_alpha), = flatten(params['log_alpha']).items()
  z = gates_of(key, home, 6, log_alpha)
  kernel, bias, dense = (np.asarray(leaf, np.float64) for leaf in (
      tree['conv']['kernel'], tree['conv']['bias'], tree['dense']['kernel']))
  for i in range(6):
    hidden = np.zeros((2, 4))
    for column in range(2):
      patch = np.asarray(x[i, :, column:column + 2], np.float64)
      for unit in range(4):
        total = (patch * kernel[..., unit]).sum() + bias[unit]
        hidden[column, unit] = max(z[i, unit] * total, 0)
    expected = np.zeros(5)
    for column in range(2):
      for unit in range(4):
        expected += hidden[column, unit] * z[i, unit] * dense[column * 4 + unit]
    np.testing.assert_allclose(outputs[i], expected, rtol=1e-5, atol=1e-5)


# --- numbers, types, errors -----------------------------------------------------------------------


def test_state_follows_schedules_and_keeps_written_numbers():
  schedule = optax.linear_schedule(0.0, 1.0, 10)
  method = l0_hard_concrete(schedule, l2=0.5, beta=optax.constant_schedule(0.6))
  params, state = method.init(jax.random.key(0), dense_weights())
  state = {**state, 'l2': jnp.float32(0.125)}  # as a controller writes it
  for k in range(12):
    np.testing.assert_allclose(state['strength'], schedule(k), rtol=1e-6)
    params, state = method.update(params, state, step=k)
  np.testing.assert_allclose([state['l2'], state['beta']], [0.125, 0.6], rtol=1e-6)


def test_update_clamps_log_alpha_unless_told_not_to():
  values = np.array([-9.0, 0.3, 9.0, -1.0])
  for clamp, low, high in (((1e-2, 1e2), -math.log(100), math.log(100)), (None, -9.0, 9.0)):
    method = l0_hard_concrete(1.0, clamp=clamp)
    params, state = method.init(jax.random.key(0), {'dense': {'kernel': jnp.ones((4, 2))}})
    params, _ = method.update(with_log_alpha(params, values), state, step=0)
    np.testing.assert_allclose(params['log_alpha']['dense']['kernel'].ravel(),
                               np.clip(values, low, high), rtol=1e-6)


def test_a_traced_strength_works_under_jit_and_vmap():
  tree = dense_weights()

  def penalty(strength, l2):
    method = l0_hard_concrete(strength, l2=l2)
    return method.penalty(*method.init(jax.random.key(0), tree))
  strengths = jnp.array([0.0, 0.5, 2.0])
  swept = jax.jit(jax.vmap(penalty, (0, None)))(strengths, 0.25)
  single = [penalty(float(s), 0.25) for s in strengths]
  np.testing.assert_allclose(swept, single, rtol=1e-5)


@pytest.mark.parametrize('arguments, message', [
    ({'strength': -0.1}, 'strength=-0.1'),
    ({'strength': float('nan')}, 'strength=nan'),
    ({'l2': -1.0}, 'l2=-1.0'),
    ({'drop_rate': 1.0}, 'drop_rate=1.0'),
    ({'gamma': 0.0}, 'gamma=0.0'),
    ({'zeta': 1.0}, 'zeta=1.0'),
    ({'per': 'layer'}, "per='layer'"),
])
def test_wrong_arguments_raise_and_say_which(arguments, message):
  with pytest.raises(ValueError, match=message):
    l0_hard_concrete(**{'strength': 1.0, **arguments})


def test_weights_keep_bfloat16_and_gates_are_float32():
  tree = jax.tree.map(lambda w: w.astype(jnp.bfloat16), dense_weights())
  method = l0_hard_concrete(1.0, l2=1.0)
  params, state = method.init(jax.random.key(0), tree)
  assert {a.dtype for a in jax.tree.leaves(params['log_alpha'])} == {jnp.dtype('float32')}
  for key in (None, jax.random.key(1)):
    for leaf in jax.tree.leaves(method.weights(params, state, key)):
      assert leaf.dtype == jnp.bfloat16
  assert method.penalty(params, state).dtype == jnp.float32
