"""Mixture formulas against float64 sums by SciPy, Monte Carlo and hand-worked merges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from sparsejax.regularisers import gaussian_mixture
from sparsejax.regularisers.gaussian_mixture import (Mixture, assign, beta_nats, divergences,
                                                     gamma_nats, log_density, merge,
                                                     responsibilities, total_log_density)

RNG = np.random.default_rng(0)
MIXTURE = Mixture(*(jnp.asarray(leaf, jnp.float32) for leaf in (
    [0.0, -0.4, 0.1, 0.5], [7.0, 3.0, 5.0, 8.0], np.log([0.9, 0.05, 0.03, 0.02]))))


def naive_density(w, mixture):
  """p(w) in float64, the plain sum, (n,)."""
  means, gamma, log_mixing = (np.asarray(leaf, np.float64) for leaf in mixture)
  heights = stats.norm.pdf(np.asarray(w, np.float64)[:, None], means, np.exp(-gamma / 2))
  return (np.exp(log_mixing) * heights).sum(1)


def test_log_density_equals_the_naive_sum():
  w = RNG.uniform(-0.7, 0.7, 1000)
  with jax.enable_x64(True):
    mixture = Mixture(*(jnp.asarray(np.asarray(leaf, np.float64)) for leaf in MIXTURE))
    found = log_density(jnp.asarray(w), mixture)
  # Where the naive sum underflows, it has no logarithm.
  density = naive_density(w, MIXTURE)
  seen = density > 1e-280
  assert seen.sum() > 900
  np.testing.assert_allclose(found[seen], np.log(density[seen]), rtol=1e-8)


def test_log_density_is_finite_far_out():
  assert np.all(np.isfinite(log_density(jnp.array([-10.0, 10.0]), MIXTURE)))


@pytest.mark.slow
@pytest.mark.parametrize('shape', [(5,), (30, 4), (7, 11, 3)])
def test_chunks_do_not_change_the_total_or_its_gradient(shape, monkeypatch):
  w = jnp.asarray(RNG.normal(0, 0.3, shape), jnp.float32)

  def naive(w, mixture):
    return log_density(w.reshape(-1), mixture).sum()
  wanted = jax.value_and_grad(naive, (0, 1))(w, MIXTURE)
  monkeypatch.setattr(gaussian_mixture, 'CHUNK', 16)     # several chunks, the last one not full
  found = jax.jit(jax.value_and_grad(lambda *args: total_log_density(*args), (0, 1)))(w, MIXTURE)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    # float32 sums of a few hundred terms in another order
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(jnp.abs(b).max()))


def test_gradient_on_a_weight_is_the_pull_of_the_responsible_means():
  w = jnp.asarray(RNG.normal(0, 0.3, 50), jnp.float32)
  means, gamma, log_mixing = (np.asarray(leaf, np.float64) for leaf in MIXTURE)
  precisions, x = np.exp(gamma), np.asarray(w, np.float64)[:, None]
  terms = log_mixing + stats.norm.logpdf(x, means, precisions**-0.5)
  r = special.softmax(terms, axis=1)
  pull = (r * precisions * (x - means)).sum(1)
  found = jax.grad(lambda w: -total_log_density(w, MIXTURE))(w)
  # r depends on differences of terms of up to 1000 nats, known to float32 rounding of those
  np.testing.assert_allclose(found, pull, rtol=1e-3, atol=1e-3 * np.abs(pull).max())


def test_a_cotangent_of_zero_gives_zero_gradients():
  w = jnp.array([0.1, 3.0])
  grads = jax.grad(lambda w, m: 0.0 * total_log_density(w, m), (0, 1))(w, MIXTURE)
  assert all(not np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_responsibilities_sum_to_one_and_choose_the_codes():
  w = jnp.asarray(RNG.normal(0, 0.4, (20, 3)), jnp.float32)
  r = responsibilities(w.reshape(-1), MIXTURE)
  np.testing.assert_allclose(r.sum(0), 1, rtol=1e-6)
  np.testing.assert_array_equal(assign(w, MIXTURE).reshape(-1), r.argmax(0))


def test_divergences_match_monte_carlo():
  found = np.asarray(divergences(MIXTURE))
  assert np.all(found >= 0) and np.all(np.diag(found) == 0)
  draws = 200_000
  means, sds = np.asarray(MIXTURE.means), np.exp(-np.asarray(MIXTURE.log_precisions) / 2)
  for i, j in ((0, 2), (2, 0), (1, 2)):
    x = RNG.normal(means[i], sds[i], draws)
    terms = stats.norm.logpdf(x, means[i], sds[i]) - stats.norm.logpdf(x, means[j], sds[j])
    assert abs(found[i, j] - terms.mean()) < 5 * terms.std() / np.sqrt(draws)


def test_divergence_of_near_equal_components_keeps_its_digits():
  gamma = jnp.array([1.0, 1.0 + 2.0**-12])     # a difference that float32 holds exactly
  found = divergences(Mixture(jnp.zeros(2), gamma, jnp.zeros(2)))[0, 1]
  change = 2.0**-12
  np.testing.assert_allclose(found, 0.5 * (np.expm1(change) - change), rtol=1e-4)


def test_merge_by_hand():
  log_mixing = np.log([0.5, 0.1, 0.3, 0.1])
  mixture = Mixture(jnp.array([0.0, 1e-4, 1.0, 1.0]), jnp.log(jnp.array([4.0, 4.0, 2.0, 6.0])),
                    jnp.asarray(log_mixing, jnp.float32))
  # KL between the last two: (1/3 - 1 + log 3) / 2 = 0.216 and (3 - 1 - log 3) / 2 = 0.451
  some = merge(mixture, 1e-3)
  assert some.means[0] == 0
  np.testing.assert_allclose(np.exp(some.log_mixing), [0.6, 0.0, 0.3, 0.1], rtol=1e-6)
  more = merge(mixture, 0.5)
  np.testing.assert_allclose(np.exp(more.log_mixing), [0.6, 0.0, 0.4, 0.0], rtol=1e-6)
  np.testing.assert_allclose(more.means[2], 1.0, rtol=1e-6)
  np.testing.assert_allclose(np.exp(more.log_precisions[2]), 0.75 * 2 + 0.25 * 6, rtol=1e-6)
  for a, b in zip(merge(mixture, 0.0), mixture, strict=True):
    np.testing.assert_array_equal(a, b)
  w = jnp.linspace(-1, 2, 50)
  assert set(np.asarray(assign(w, more)).tolist()) <= {0, 2}


def test_priors_against_scipy():
  gamma = jnp.array([-2.0, 3.0, 7.8])
  found = gamma_nats(gamma, jnp.float32(250.0), jnp.float32(0.1))
  wanted = -stats.gamma.logpdf(np.exp(np.asarray(gamma, np.float64)), 250.0, scale=10.0)
  # 1e-6 of the largest terms, which cancel
  np.testing.assert_allclose(found, wanted, atol=1e-6 * 3000)
  for shape, rate, mode in ((5e3, 2.0, 2499.5), (2.5e2, 0.1, 2490.0)):
    slope = jax.grad(lambda g: gamma_nats(g, shape, rate))(jnp.log(mode))  # noqa: B023
    assert abs(slope) < 1e-6 * shape * 8        # the rounding of log(mode), about 8
  logit = jnp.array([-1.0, 0.5, 4.0])
  wanted = -stats.beta.logpdf(special.expit(np.asarray(logit, np.float64)), 40.0, 2.0)
  np.testing.assert_allclose(beta_nats(logit, jnp.float32(40.0), jnp.float32(2.0)), wanted,
                             rtol=1e-5, atol=1e-5 * 40)
