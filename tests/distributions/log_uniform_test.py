"""The improper log-uniform prior: its constant, its divergence, its place in NumPyro."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions.kl import kl_divergence
from numpyro.infer import SVI, TraceMeanField_ELBO
from scipy import special

from sparsejax.distributions import ImproperLogUniform
from sparsejax.regularisers.variational_dropout import total_kl


def divergence(posterior, prior):
  """A plain function, which jit and eval_shape can take; `kl_divergence` is a dispatcher."""
  return kl_divergence(posterior, prior)


def test_divergence_is_that_of_the_log_prob_by_monte_carlo():
  """E_q[log q - log p] with the constant of log_prob, nothing added."""
  n = 400_000
  loc, scale = np.array([0.0, 0.5, -1.0, 3.0]), np.array([1.0, 2.0, 1.0, 0.5])
  w = loc + scale * np.random.default_rng(0).standard_normal((n, 4))
  posterior, prior = dist.Normal(jnp.asarray(loc), jnp.asarray(scale)), ImproperLogUniform()
  log_q = -0.5 * ((w - loc) / scale)**2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
  each = log_q - np.asarray(prior.log_prob(w.astype(np.float32)), np.float64)
  error = 5 * each.std(0) / np.sqrt(n) + 1e-6
  np.testing.assert_array_less(np.abs(each.mean(0) - kl_divergence(posterior, prior)), error)


def test_divergence_is_the_penalty_of_variational_dropout():
  theta, log_sigma2 = jnp.array([0.3, -1.0, 2.0]), jnp.array([-4.0, 0.0, 1.0])
  posterior = dist.Normal(theta, jnp.exp(0.5 * log_sigma2))
  # They differ by the 1e-8 inside log(theta^2 + 1e-8) only.
  np.testing.assert_allclose(kl_divergence(posterior, ImproperLogUniform()).sum(),
                             total_kl(theta, log_sigma2, 'exact', None), rtol=1e-5)


def test_gradients_match_dawsons_integral():
  """dKL/dlog(alpha) = -x D(x), x = |loc| / (scale sqrt(2)), D Dawson's integral (SciPy)."""
  loc, scale = np.array([-2.0, 0.1, 0.7, 5.0]), np.array([1.0, 3.0, 0.2, 0.5])
  def of_normal(loc, scale):
    return divergence(dist.Normal(loc, scale), ImproperLogUniform()).sum()
  by_loc, by_scale = jax.jit(jax.grad(of_normal, (0, 1)))(jnp.asarray(loc), jnp.asarray(scale))
  x = np.abs(loc) / (scale * np.sqrt(2))
  slope = -x * special.dawsn(x)
  np.testing.assert_allclose(by_loc, slope * -2 / loc, rtol=1e-5)
  np.testing.assert_allclose(by_scale, slope * 2 / scale, rtol=1e-5)


@pytest.mark.debug_nans
def test_divergence_and_gradient_are_finite_at_the_ends():
  def of_normal(loc, scale):
    return divergence(dist.Normal(loc, scale), ImproperLogUniform())
  loc, scale = jnp.array([0.0, 1e-30, 1e-3, 1e4]), jnp.array([1.0, 1.0, 1e4, 1e-4])
  values = jax.jit(jax.vmap(of_normal))(loc, scale)
  slopes = jax.jit(jax.vmap(jax.grad(of_normal, (0, 1))))(loc, scale)
  assert np.isfinite(values).all() and np.isfinite(slopes).all()
  np.testing.assert_allclose(values[:2], 0, atol=1e-6)
  assert slopes[0][0] == 0


def test_shapes_and_containers():
  prior = ImproperLogUniform((3,))
  assert prior.batch_shape == (3,) and prior.event_shape == ()

  def shape(function, *arguments):
    return jax.eval_shape(function, *arguments).shape  # shapes need no compilation
  assert shape(prior.log_prob, jnp.ones((5, 3))) == (5, 3)
  assert shape(divergence, dist.Normal(0.0, 1.0), prior) == (3,)
  assert shape(divergence, dist.Normal(jnp.zeros((2, 1)), 1.0), prior) == (2, 3)
  posterior = dist.Normal(jnp.ones((2, 3)), 1.0)
  for wide in (ImproperLogUniform().expand((2, 3)), ImproperLogUniform((2, 3))):
    both = jax.jit(divergence)(posterior.to_event(1), wide.to_event(1))
    np.testing.assert_allclose(both, np.full(2, 3 * 0.4266856), rtol=1e-5)  # the value at alpha = 1
  again = jax.jit(lambda p: p)(prior)
  assert again.batch_shape == (3,)
  np.testing.assert_allclose(jax.vmap(ImproperLogUniform().log_prob)(jnp.array([0.5, -0.5])),
                             ImproperLogUniform().log_prob(0.5))


def test_it_cannot_be_sampled():
  with pytest.raises(NotImplementedError):
    ImproperLogUniform().sample(jax.random.key(0))


def test_svi_with_it_is_variational_dropout():
  """One weight, y = w + noise: the optimum is known, see the shrinkage in the second line.

  The bound is -((theta - m)^2 + sigma^2) / (2 s^2) + log sigma - E log|w| with E log|w| =
  log theta - alpha / 2 + O(alpha^2); its optimum is theta = m - s^2 / m, 1 / sigma^2 =
  1 / s^2 - 1 / m^2, both up to a relative O((s / m)^4).
  """
  m, s = 1.0, 0.2

  def model():
    w = numpyro.sample('w', ImproperLogUniform())
    numpyro.sample('y', dist.Normal(w, s), obs=m)

  def guide():
    theta = numpyro.param('theta', 1.2)
    log_sigma2 = numpyro.param('log_sigma2', -4.0)
    numpyro.sample('w', dist.Normal(theta, jnp.exp(0.5 * log_sigma2)))

  svi = SVI(model, guide, numpyro.optim.Adam(0.01), TraceMeanField_ELBO(num_particles=16))
  result = svi.run(jax.random.key(0), 1500, progress_bar=False)
  # Stochastic gradients: Adam wanders by about sqrt(rate) times the width of the bound's optimum
  # (s for theta, 1 for log sigma^2) over the particles, sqrt(0.01 / 16) = 0.025; four times that.
  wander = 4 * np.sqrt(0.01 / 16)
  assert abs(result.params['theta'] - (m - s**2 / m)) < wander * s + 3 * (s / m)**4
  log_variance = -np.log(1 / s**2 - 1 / m**2)
  assert abs(result.params['log_sigma2'] - log_variance) < wander + 3 * (s / m)**4


def test_sparsejax_itself_does_not_load_numpyro():
  code = 'import sys, sparsejax; sys.exit("numpyro" in sys.modules)'
  subprocess.run([sys.executable, '-c', code], check=True, timeout=120)
