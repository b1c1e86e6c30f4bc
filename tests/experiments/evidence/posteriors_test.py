"""Posteriors of tiny models against closed forms; NumPyro itself promotes ranks, so it may here."""
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

from experiments.evidence import posteriors


@pytest.fixture(autouse=True)
def ranks_are_promoted():
  with jax.numpy_rank_promotion('allow'):
    yield


@pytest.mark.slow  # NUTS compiles for ten seconds
def test_nuts_samples_the_posterior_of_linear_regression():
  """Weights N(0, I), noise 0.5: N(m, S) with S = (I + X'X / 0.25)^-1 and m = S X'y / 0.25."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(12, 2)) @ np.array([[1, 0.8], [0, 0.6]])      # correlated inputs
  y = x @ [1.0, -0.5] + 0.5 * rng.normal(size=12)

  def model(inputs, targets):
    w = numpyro.sample('w', dist.Normal(jnp.zeros(2), 1.0).to_event())
    numpyro.sample('targets', dist.Normal(inputs @ w, 0.5), obs=targets)
  chains = posteriors.run_nuts(model, jax.random.key(0), jnp.float32(x), jnp.float32(y),
                               warmup=300, draws=6000, chains=2)
  covariance = np.linalg.inv(np.eye(2) + x.T @ x / 0.25)
  mean = covariance @ x.T @ y / 0.25
  samples = np.asarray(chains.samples['w'])
  assert samples.shape == (2, 6000, 2) and chains.divergences == 0
  r_hat, size = posteriors.mixing(samples)
  # The two weights are strongly correlated, so draws are worth little: but 900 of them make the
  # slack below a sixth of a standard deviation for the mean, a third of a variance for covariances.
  assert r_hat < 1.02 and size > 900
  flat = samples.reshape(-1, 2)
  sd = np.sqrt(np.diag(covariance))
  # The effective size is of the mean; squares mix no worse by more than a factor of two here.
  assert np.all(np.abs(flat.mean(0) - mean) < 5 * sd / np.sqrt(size))
  error = np.outer(sd, sd) * np.sqrt(2 / (size / 2))
  assert np.all(np.abs(np.cov(flat.T) - covariance) < 5 * error)


def test_the_network_is_its_formula():
  rng = np.random.default_rng(0)
  sizes = posteriors.shapes(3, 4)
  weights = {layer: {name: rng.normal(size=shape).astype(np.float32)
                     for name, shape in each.items()} for layer, each in sizes.items()}
  x = rng.normal(size=(5, 3)).astype(np.float32)
  hidden, head = weights['hidden'], weights['head']
  expected = np.tanh(x.astype(np.float64) @ hidden['kernel'] + hidden['bias']) @ head['kernel']
  # Two float32 products of at most four terms.
  np.testing.assert_allclose(posteriors.network(weights, x), expected[:, 0] + head['bias'],
                             rtol=0, atol=1e-5)
  # From samples with axes (chains, draws) to the functions.
  samples = {f'{layer}/{name}': jnp.asarray(value)[None, None].repeat(2, 1)
             for layer, each in weights.items() for name, value in each.items()}
  found = posteriors.predictions({**samples, 'noise': jnp.ones((1, 2))}, jnp.asarray(x))
  assert found.shape == (1, 2, 5)
  np.testing.assert_allclose(found[0, 1], expected[:, 0] + head['bias'], rtol=0, atol=1e-5)


def test_the_divergence_of_the_noise_is_its_closed_form():
  mean, sd, n = -0.7, 0.3, 20_000
  factor = {'mean': jnp.float32(mean), 'log_sd': jnp.log(jnp.float32(sd))}
  log_noise, kl = jax.vmap(lambda key: posteriors._draw_noise(factor, key))(
      jax.random.split(jax.random.key(0), n))
  # E log q of a Gaussian; E log p(rho) = log sqrt(2 / pi) - E exp(2 rho) / 2 + E rho.
  expected = (-np.log(sd) - 0.5 * np.log(2 * np.pi * np.e)
              - (0.5 * np.log(2 / np.pi) - 0.5 * np.exp(2 * mean + 2 * sd**2) + mean))
  kl = np.asarray(kl, np.float64)
  assert abs(kl.mean() - expected) < 5 * kl.std() / np.sqrt(n)
  assert stats.kstest(np.asarray(log_noise), stats.norm(mean, sd).cdf).pvalue > 1e-4


def test_mixing_tells_chains_that_agree_from_chains_that_do_not():
  rng = np.random.default_rng(0)
  independent = rng.normal(size=(2, 1000, 3))
  r_hat, size = posteriors.mixing(independent)
  # R-hat of independent draws is 1 + O(1 / draws); the estimate of the size is good to a third.
  assert abs(r_hat - 1) < 0.01 and size > 2000 * 2 / 3
  apart = independent + np.array([0, 3])[:, None, None]
  assert posteriors.mixing(apart)[0] > 1.5


@pytest.mark.slow
def test_sparse_vd_learns_a_function_and_drops_the_inputs_that_do_not_matter():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(200, 4)).astype(np.float32)
  y = np.tanh(2 * x[:, 0]) + 0.1 * rng.normal(size=200)
  test = rng.normal(size=(50, 4)).astype(np.float32)
  found = posteriors.sparse_vd(jax.random.key(0), jnp.asarray(x), jnp.float32(y), jnp.asarray(test),
                               hidden=3, steps=1500, draws=50)
  assert found.kernels_total == 4 * 3 + 3
  # One unit of one input would do; at most all three units and no other input.
  assert 2 <= found.kernels_kept <= 2 * 3
  for draws in (found.posterior, found.deployed):
    assert draws.functions.shape == (50, 50) and draws.sds.shape == (50,)
    error = np.sqrt(np.mean((draws.functions.mean(0) - np.tanh(2 * test[:, 0]))**2))
    assert error < 0.1                                             # below the noise
  assert np.ptp(found.deployed.functions, axis=0).max() == 0
  assert found.posterior.sds.mean() == pytest.approx(0.1, rel=5 / np.sqrt(2 * 200))
