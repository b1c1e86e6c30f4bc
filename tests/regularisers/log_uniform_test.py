"""KL from the log-uniform prior: two independent exact forms, Monte Carlo, a table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special

from sparsejax.regularisers import log_uniform
from sparsejax.regularisers.log_uniform import KL_DERIVATIVES, KL_FORMS

GRID = np.linspace(-8, 8, 65)
# log alpha: exact, approximation (eq. 14), to five decimals.
TABLE = {
    -8.0: (4.63501, 4.63590),
    -3.0: (2.10798, 2.11559),
    0.0: (0.42669, 0.43124),
    3.0: (0.02469, 0.02542),
    8.0: (0.00017, 0.00017),
}
# The exact form adds numbers of about 2 in float32, and 80 Poisson terms whose sum is as large.
FLOAT32 = 5e-6


def exact_derivative(log_alpha):
  """-x D(x), x = 1 / sqrt(2 alpha), D Dawson's integral: the Poisson mean as an integral."""
  x = np.exp(-0.5 * np.asarray(log_alpha, np.float64)) / np.sqrt(2)
  return -x * special.dawsn(x)


def exact_kl(log_alpha):
  """The integral of the derivative from log alpha to infinity, where the KL vanishes."""
  # Beyond 40 the integrand is 1 / (2 alpha) < exp(-40).
  return integrate.quad(lambda a: -exact_derivative(a), log_alpha, 40, epsabs=1e-12, limit=200)[0]


@pytest.mark.parametrize('form, column', [('exact', 0), ('approximation', 1)])
def test_table(form, column):
  kl = KL_FORMS[form](jnp.array(list(TABLE)))
  rounding = 0.5e-5  # the table has five decimals
  np.testing.assert_allclose(kl, [row[column] for row in TABLE.values()], atol=rounding + FLOAT32)


def test_exact_form_matches_dawsons_integral():
  # The last three are about where the series switches.
  log_alpha = np.concatenate([np.linspace(-15, 12, 55), [-3.9, -3.92, -3.91203]])
  np.testing.assert_allclose(log_uniform.kl_exact(jnp.asarray(log_alpha)),
                             [exact_kl(a) for a in log_alpha], atol=FLOAT32)
  np.testing.assert_allclose(log_uniform.kl_exact_derivative(jnp.asarray(log_alpha)),
                             exact_derivative(log_alpha), rtol=2e-5)


def test_asymptotic_series_has_its_first_five_terms():
  """Left of the switch at alpha = 0.02 only the terms from alpha^6 on are missing."""
  log_alpha = np.linspace(-12, np.log(0.0199), 12)
  with jax.enable_x64(True):
    kl = np.asarray(log_uniform.kl_exact(jnp.asarray(log_alpha)))
    slope = np.asarray(log_uniform.kl_exact_derivative(jnp.asarray(log_alpha)))
  alpha = np.exp(log_alpha)
  # The first missing term, (2k - 1)!! alpha^k / (2k) with k = 6, and half as much for the rest.
  missing = 1.5 * 10395 / 12 * alpha**6
  np.testing.assert_array_less(np.abs(kl - [exact_kl(a) for a in log_alpha]), missing + 1e-10)
  np.testing.assert_array_less(np.abs(slope - exact_derivative(log_alpha)), 6 * missing + 1e-10)


def test_both_forms_match_monte_carlo():
  """-log(alpha) / 2 + E[log |1 + sqrt(alpha) e|] + (Euler's gamma + log 2) / 2."""
  n = 4_000_000
  e = np.random.default_rng(0).standard_normal(n)
  constant = 0.5 * (np.euler_gamma + np.log(2))
  for log_alpha in TABLE:
    each = np.log(np.abs(1 + np.exp(0.5 * log_alpha) * e))
    mean, error = each.mean() - 0.5 * log_alpha + constant, 5 * each.std() / np.sqrt(n)
    assert abs(log_uniform.kl_exact(log_alpha) - mean) < error + FLOAT32
    # Eq. 14 is within 0.01 nats of the exact value, see the next test.
    assert abs(log_uniform.kl_approximation(log_alpha) - mean) < error + 0.01


def test_approximation_is_within_a_hundredth_of_a_nat():
  exact = np.array([exact_kl(a) for a in GRID])
  error = np.abs(log_uniform.kl_approximation(jnp.asarray(GRID)) - exact)
  assert error.max() < 0.01
  assert GRID[np.argmax(error)] == pytest.approx(-3.5, abs=0.5)


def test_first_version_has_its_constants_and_ends_at_zero():
  # As the code of the recurrent follow-ups has it, which ends at -0.67.
  value = (0.5 * np.log1p(np.exp(-GRID)) - (0.03 + 0.64 * special.expit(1.5 * (GRID + 1.3))))
  np.testing.assert_allclose(log_uniform.kl_first(jnp.asarray(GRID)), value + 0.67, atol=FLOAT32)
  error = np.abs(value + 0.67 - [exact_kl(a) for a in GRID])
  assert 0.01 < error.max() < 0.014


@pytest.mark.parametrize('form', sorted(KL_FORMS))
def test_kl_falls_strictly_from_its_limit_to_zero(form):
  kl = np.asarray(KL_FORMS[form](jnp.asarray(GRID)))
  assert (np.diff(kl) < 0).all() and (kl > 0).all()
  assert (np.asarray(KL_DERIVATIVES[form](jnp.asarray(GRID))) < 0).all()
  np.testing.assert_allclose(KL_FORMS[form](30.0), 0, atol=FLOAT32)
  # sigma -> 0: -log(alpha) / 2 + (Euler's gamma + log 2) / 2 = 0.6352; eq. 14 has k1 = 0.63576.
  limit = {'exact': 0.5 * (np.euler_gamma + np.log(2)), 'approximation': 0.63576,
           'first': 0.64}[form]
  np.testing.assert_allclose(KL_FORMS[form](-30.0), 15 + limit, rtol=1e-6)


@pytest.mark.parametrize('form', sorted(KL_FORMS))
def test_derivative_is_that_of_the_value(form):
  # At 1e-3 differences of float64 are exact to 1e-7 h^2 / 6 and 1e-16 / h.
  with jax.enable_x64(True):
    log_alpha, h = jnp.asarray(GRID), 1e-3
    values = KL_FORMS[form](jnp.concatenate([log_alpha - h, log_alpha + h]))
    slope = (values[GRID.size:] - values[:GRID.size]) / (2 * h)
    derivative = KL_DERIVATIVES[form](log_alpha)
    autodiff = jax.vmap(jax.grad(KL_FORMS[form]))(log_alpha)
  np.testing.assert_allclose(autodiff, derivative, rtol=1e-6)
  # Where the exact form switches to its asymptotic series the value steps by that series' last
  # term, 10395 alpha^6 / 12 = 6e-8 at alpha = 0.02; the grid does not straddle the switch.
  np.testing.assert_allclose(slope, derivative, rtol=1e-5, atol=1e-6)


@pytest.mark.debug_nans
@pytest.mark.parametrize('form', sorted(KL_FORMS))
def test_extreme_arguments_stay_finite(form):
  log_alpha = jnp.array([-100.0, -50.0, 50.0, 100.0])
  assert np.isfinite(KL_FORMS[form](log_alpha)).all()
  assert np.isfinite(jax.vmap(jax.grad(KL_FORMS[form]))(log_alpha)).all()
