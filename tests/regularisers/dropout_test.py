"""Dropout: the mean and variance of its gates, per batch and per example, tied, scheduled."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import sparsejax
from sparsejax.regularisers import dropout as module

KEY = jax.random.key(5)


@pytest.mark.parametrize('rate', [0.1, 0.5, 0.8])
def test_gates_have_mean_one_and_the_bernoulli_variance(rate):
  n = 200_000
  gates = np.asarray(module.sample(KEY, (n,), jnp.float32(rate)), np.float64)
  values = np.unique(gates)
  np.testing.assert_allclose(values, [0.0, 1 / (1 - rate)], rtol=1e-6)
  variance = rate / (1 - rate)
  assert abs(gates.mean() - 1) < 5 * np.sqrt(variance / n)
  dropped = (gates == 0).mean()
  assert abs(dropped - rate) < 5 * np.sqrt(rate * (1 - rate) / n)
  # Two values: the variance is f (1 - f) / (1 - rate)^2 for f dropped, expanded about f = rate.
  error = 5 * np.sqrt(rate * (1 - rate) / n)
  assert abs(gates.var() - variance) < (abs(1 - 2 * rate) * error + error**2) / (1 - rate) ** 2


def test_rate_zero_keeps_all():
  np.testing.assert_array_equal(module.sample(KEY, (1000,), jnp.float32(0.0)), 1.0)


def test_per_batch_drops_whole_rows_or_columns():
  kernel = jnp.ones((64, 48))
  for axis, other in ((-2, 1), (-1, 0)):
    method = sparsejax.dropout(0.5, axis=axis, per='batch')
    params, state = method.init(KEY, {'dense': {'kernel': kernel}})
    drawn = np.asarray(method.weights(params, state, KEY)['dense']['kernel'])
    assert set(np.unique(drawn)) == {0.0, 2.0}
    np.testing.assert_array_equal(drawn, np.broadcast_to(drawn.max(other, keepdims=True),
                                                         drawn.shape))
    np.testing.assert_array_equal(method.weights(params, state)['dense']['kernel'], kernel)


def test_per_example_each_example_has_its_own_gates():
  method = sparsejax.dropout(0.5)
  model = nn.Dense(3)
  variables = {'params': {'kernel': jnp.arange(12.0).reshape(4, 3), 'bias': jnp.zeros(3)}}
  rule = sparsejax.partition(drop=('kernel', method))
  params, state = rule.init(KEY, variables['params'])
  drawn = rule.weights(params, state, KEY)
  x = jnp.ones((32, 4))
  gates = drawn['kernel'].draw(32)
  assert gates.shape == (32, 4) and len(np.unique(gates, axis=0)) > 8      # of 16 patterns
  outputs = sparsejax.apply(model, {'params': drawn}, x)
  np.testing.assert_allclose(outputs, np.asarray(gates) @ np.arange(12.0).reshape(4, 3), rtol=1e-6)


@pytest.mark.parametrize('per', ['batch', 'example'])
def test_tied_leaves_share_their_gates(per):
  weights = {'a': {'kernel': jnp.ones((3, 16))}, 'b': {'kernel': jnp.ones((16, 2))}}
  gates = {}
  for tied in (True, False):
    method = sparsejax.dropout(0.5, axis={'a/.*': -1, 'b/.*': -2}, tied=tied, per=per)
    drawn = method.weights(*method.init(KEY, weights), KEY)
    if per == 'example':
      gates[tied] = [drawn[name]['kernel'].draw(8) for name in 'ab']
    else:
      gates[tied] = [drawn['a']['kernel'][0], drawn['b']['kernel'][:, 0]]
  np.testing.assert_array_equal(*gates[True])
  assert np.any(gates[False][0] != gates[False][1])


def test_the_rate_follows_its_schedule():
  method = sparsejax.dropout(optax.linear_schedule(0.0, 0.8, 4), per='batch')
  weights = {'dense': {'kernel': jnp.ones((1000, 1))}}
  params, state = method.init(KEY, weights)
  np.testing.assert_array_equal(method.weights(params, state, KEY)['dense']['kernel'], 1.0)
  for k in range(1, 4):
    params, state = method.update(params, state, step=jnp.int32(k - 1))
    np.testing.assert_allclose(state['rate'], 0.2 * k, rtol=1e-6)
  dropped = (np.asarray(method.weights(params, state, KEY)['dense']['kernel']) == 0).mean()
  assert abs(dropped - 0.6) < 5 * np.sqrt(0.24 / 1000)


def test_a_population_has_a_rate_each():
  method = sparsejax.dropout(0.5, per='batch')
  params, state = method.init(KEY, {'dense': {'kernel': jnp.ones((1000, 1))}})
  drawn = jax.vmap(method.weights, (None, 0, None))(params, {'rate': jnp.array([0.0, 0.25])}, KEY)
  dropped = (np.asarray(drawn['dense']['kernel']) == 0).mean((1, 2))
  assert dropped[0] == 0 and abs(dropped[1] - 0.25) < 5 * np.sqrt(0.1875 / 1000)


@pytest.mark.parametrize('rate', [1.0, -0.1, float('nan'), np.float32(1.0), np.array([0.5, 1.5]),
                                  jnp.float32(-0.5)])
def test_a_rate_outside_its_range_is_refused(rate):
  with pytest.raises(ValueError, match=r'rate=.* must lie in \[0, 1\)'):
    sparsejax.dropout(rate)


def test_an_unknown_draw_is_refused():
  with pytest.raises(ValueError, match="per='sample' is not"):
    sparsejax.dropout(0.5, per='sample')
