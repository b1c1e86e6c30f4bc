"""Posteriors with a budget of bits, and the candidates that stand for them."""
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import sparsejax
from sparsejax.packed.random_code import RandomCode, candidates
from sparsejax.regularisers.random_code import (code_bits, gaussian_kl, log_importance,
                                                minimal_random_code)
from sparsejax.structured import Gaussian

KEY = jax.random.key(0)


def small(**changes):
  options = {'bits': 6, 'length': 4, 'start': 2, 'end': 6, 'every': 2, 'seed': 5}
  return minimal_random_code(**{**options, **changes})


def weights():
  return {'dense': {'kernel': 0.1 * jax.random.normal(KEY, (5, 3)), 'bias': jnp.ones(3) * 0.05}}


def run(method, steps, params=None):
  start, state = method.init(KEY, weights())
  params = start if params is None else params
  update = jax.jit(method.update)
  for step in range(steps):
    params, state = update(params, state, step=step, key=jax.random.fold_in(KEY, step))
  return params, state


def test_kl_is_that_of_two_gaussians():
  theta, log_sigma2, log_prior2 = 0.3, -3.0, -1.0
  q, p = stats.norm(theta, math.exp(-1.5)), stats.norm(0, math.exp(-0.5))
  wanted = q.expect(lambda w: q.logpdf(w) - p.logpdf(w))
  found = gaussian_kl(jnp.float32(theta), jnp.float32(log_sigma2), jnp.float32(log_prior2))
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_importance_is_q_over_p_up_to_a_constant_of_the_block():
  table = jnp.asarray(candidates(0, 5, 3))
  theta = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32) * 0.2
  log_sigma2 = jnp.full((3, 2), -3.0)
  found = np.asarray(log_importance(table, theta, log_sigma2, jnp.float32(0.4)), np.float64)
  w = np.asarray(table)[:, :, None] * 0.4
  wanted = (stats.norm.logpdf(w, np.asarray(theta)[None], math.exp(-1.5))
            - stats.norm.logpdf(w, 0, 0.4)).sum(1)
  difference = found - wanted
  # Products of numbers up to some 30, three of them, in float32.
  np.testing.assert_allclose(difference, np.broadcast_to(difference[:1], difference.shape),
                             atol=1e-4)


@pytest.mark.slow
def test_coded_draws_follow_the_posterior():
  """One weight a block, all with one posterior, and K far above exp(KL + 3) candidates."""
  count = 2000
  method = minimal_random_code(14, 1, start=1, end=2, every=1, init_log_sigma2=-4.0,
                               init_log_prior2=-2.0, noise='weight')
  params, state = method.init(KEY, {'w': jnp.full((count,), 0.2)})
  kl = float(gaussian_kl(0.2, -4.0, jnp.float32(-2.0)))
  assert 2 ** 14 > math.exp(kl + 3) * 100
  params, state = method.update(params, state, step=0, key=KEY)
  coded = np.asarray(method.weights(params, state)['w'])
  assert bool(state['leaves']['w']['fixed'].all())
  # Draws share their candidates, of which about 4,000 matter: coarser than 2,000 free draws.
  statistic = stats.kstest(coded, stats.norm(0.2, math.exp(-2.0)).cdf).statistic
  assert statistic < 1.63 * math.sqrt(1 / count + 1 / 4000)
  assert stats.kstest(coded, stats.norm(0.2, 0.8 * math.exp(-2.0)).cdf).pvalue < 1e-3


def test_blocks_are_coded_in_their_round_and_stay():
  method = small()
  _, state = run(method, 1)
  assert not np.any(state['leaves']['dense']['kernel']['fixed']) and not state['coding']
  params, state = run(method, 3)                       # the first round ends step 2
  fixed = np.asarray(state['leaves']['dense']['kernel']['fixed'])
  assert fixed.tolist() == [True, True, False, False]  # 15 weights in blocks of 4
  assert np.asarray(state['leaves']['dense']['bias']['fixed']).tolist() == [True]
  _, later = run(method, 4)
  before, after = (s['leaves']['dense']['kernel'] for s in (state, later))
  np.testing.assert_array_equal(before['coded'][:, :2], after['coded'][:, :2])
  assert bool(after['fixed'].all())


@pytest.mark.slow
def test_the_prior_stands_still_once_coding_begins():
  method = small()
  start, _ = method.init(KEY, weights())
  params, state = run(method, 4)
  moved = {**params, 'log_sigma2_prior': jax.tree.map(lambda x: x + 3, start['log_sigma2_prior'])}
  np.testing.assert_array_equal(method.penalty(moved, state), method.penalty(params, state))
  grads = jax.grad(lambda p: method.penalty(p, run(method, 3)[1]))(params)
  assert not np.any(grads['log_sigma2_prior']['dense']['kernel'])
  early = jax.grad(lambda p: method.penalty(p, run(method, 1)[1]))(params)
  assert np.any(early['log_sigma2_prior']['dense']['kernel'])


def test_coded_weights_have_neither_noise_nor_gradient():
  method = small(end=4)                                # one round: everything at once
  params, state = run(method, 3)
  drawn = method.weights(params, state, KEY)['dense']['kernel']
  assert isinstance(drawn, Gaussian) and not np.any(drawn.var)
  np.testing.assert_array_equal(drawn.mean, method.weights(params, state)['dense']['kernel'])
  grads = jax.grad(lambda p: method.weights(p, state, KEY)['dense']['kernel'].mean.sum()
                   + method.penalty(p, state))(params)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_what_is_deployed_is_what_the_indices_stand_for():
  method = small(end=4)
  params, state = run(method, 3)
  packed = sparsejax.finalise(method, params, state)['dense']
  assert isinstance(packed['kernel'], RandomCode) and packed['kernel'].indices.shape == (4,)
  np.testing.assert_array_equal(packed['kernel'].to_dense(),
                                method.weights(params, state)['dense']['kernel'])


def test_factors_rise_above_the_budget_and_fall_below():
  method = small(start=50, end=60, init_log_sigma2=-12.0, init_factor=0.5, rate=0.1)
  params, state = run(method, 2)                       # about 4 nats a weight, 16 a block, of 4.2
  np.testing.assert_allclose(state['leaves']['dense']['kernel']['factor'][:3], 0.5 * 1.1 ** 2,
                             rtol=1e-6)
  method = small(start=50, end=60, init_log_sigma2=-4.0, init_factor=0.5, rate=0.1)
  start, _ = method.init(KEY, weights())
  none = {**start, 'theta': jax.tree.map(jnp.zeros_like, start['theta'])}
  _, state = run(method, 2, none)                      # posterior is prior: 0 nats
  np.testing.assert_allclose(state['leaves']['dense']['kernel']['factor'], 0.5 / 1.1 ** 2,
                             rtol=1e-6)


def test_bits_are_counted():
  method = small(end=4)
  params, state = run(method, 3)
  found = code_bits(state)
  assert found['code_bits'] == (4 + 1) * 6
  kernel, sigma, prior = (params[n]['dense']['kernel'] for n in (
      'theta', 'log_sigma2', 'log_sigma2_prior'))
  bias = gaussian_kl(params['theta']['dense']['bias'], -10.0, jnp.float32(-4.0)).sum()
  wanted = float(gaussian_kl(kernel, sigma, prior).sum() + bias) / math.log(2)
  np.testing.assert_allclose(found['kl_bits'], wanted, rtol=1e-5)


@pytest.mark.parametrize('options, message', [
    ({'bits': 0}, 'bits=0'), ({'length': 0}, 'length=0'), ({'start': 0}, 'start=0'),
    ({'end': 2}, 'end=2'), ({'every': 0}, 'every=0'), ({'noise': 'loud'}, "noise='loud'")])
def test_options_that_make_no_sense_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    small(**options)


def test_update_needs_a_key():
  method = small()
  with pytest.raises(ValueError, match='key of the step'):
    method.update(*method.init(KEY, weights()), step=0)
