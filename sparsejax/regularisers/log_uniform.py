"""KL divergence of a Gaussian N(theta, alpha theta^2) from the log-uniform prior, in two forms.

p(|w|) proportional to 1/|w| is improper; the divergence is defined up to a constant, chosen such
that it vanishes as alpha -> infinity. With C = (Euler's gamma + log 2) / 2,

  KL = -log(alpha) / 2 + E[log |1 + sqrt(alpha) e|] + C,  e ~ N(0, 1)
     = (Euler's gamma + 2 log 2 + E[digamma(j + 1/2)]) / 2,  j ~ Poisson(1 / (2 alpha)),
  dKL / dlog(alpha) = -(r / 2) E[1 / (j + 1/2)],  r = 1 / (2 alpha),

the second line from the mean of the logarithm of a non-central chi-square variable. The
approximation is eq. 14 of Molchanov, Ashukha, Vetrov, 2017, arXiv:1701.05369; it is within 0.01
nats of the exact value for |log alpha| <= 8. The first version of that article had another one,
which the code of its recurrent follow-ups uses: here with the constant that makes it 0 at infinity,
within 0.014 nats.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma

Array = jax.Array

K1, K2, K3 = 0.63576, 1.87320, 1.48695  # eq. 14
FIRST1, FIRST2, FIRST3 = 0.64, 1.5, 1.3  # of the first version; from the follow-ups' code
EULER_GAMMA = float(np.euler_gamma)
# Above this rate the asymptotic series is exact to float32; below it 80 Poisson terms are.
LARGE_RATE = 25.0
TERMS = 80


def kl_approximation(log_alpha: Array) -> Array:
  """Eq. 14 with the constant that makes it 0 at infinity; elementwise, in nats."""
  return K1 * jax.nn.sigmoid(-(K2 + K3 * log_alpha)) + 0.5 * jax.nn.softplus(-log_alpha)


def kl_approximation_derivative(log_alpha: Array) -> Array:
  """Derivative of `kl_approximation` with respect to log alpha; negative everywhere."""
  s = jax.nn.sigmoid(K2 + K3 * log_alpha)
  return -K1 * K3 * s * (1 - s) - 0.5 * jax.nn.sigmoid(-log_alpha)


def kl_first(log_alpha: Array) -> Array:
  """The approximation of the article's first version; elementwise, in nats."""
  return (FIRST1 * jax.nn.sigmoid(-FIRST2 * (log_alpha + FIRST3))
          + 0.5 * jax.nn.softplus(-log_alpha))


def kl_first_derivative(log_alpha: Array) -> Array:
  """Derivative of `kl_first` with respect to log alpha; negative everywhere."""
  s = jax.nn.sigmoid(FIRST2 * (log_alpha + FIRST3))
  return -FIRST1 * FIRST2 * s * (1 - s) - 0.5 * jax.nn.sigmoid(-log_alpha)


@jax.custom_jvp
def kl_exact(log_alpha: Array) -> Array:
  """The exact divergence by its series, elementwise, in nats."""
  rate = 0.5 * jnp.exp(-log_alpha)
  small = jnp.minimum(rate, LARGE_RATE)
  series = 0.5 * (EULER_GAMMA + 2 * jnp.log(2.0)
                  + _poisson_mean(small, lambda j: digamma(j + 0.5)))
  # E log|1 + sqrt(alpha) e| = -sum_k alpha^k (2k - 1)!! / (2k), an asymptotic series.
  alpha = jnp.minimum(jnp.exp(log_alpha), 0.5 / LARGE_RATE)
  tail = -(alpha / 2 + 3 * alpha**2 / 4 + 15 * alpha**3 / 6 + 105 * alpha**4 / 8
           + 945 * alpha**5 / 10)
  asymptotic = -0.5 * log_alpha + tail + 0.5 * (EULER_GAMMA + jnp.log(2.0))
  return jnp.where(rate < LARGE_RATE, series, asymptotic)


def kl_exact_derivative(log_alpha: Array) -> Array:
  """Derivative of `kl_exact` with respect to log alpha, by its own series."""
  rate = 0.5 * jnp.exp(-log_alpha)
  small = jnp.minimum(rate, LARGE_RATE)
  series = -0.5 * small * _poisson_mean(small, lambda j: 1 / (j + 0.5))
  alpha = jnp.minimum(jnp.exp(log_alpha), 0.5 / LARGE_RATE)
  asymptotic = -0.5 - (alpha / 2 + 3 * alpha**2 / 2 + 15 * alpha**3 / 2 + 105 * alpha**4 / 2
                       + 945 * alpha**5 / 2)
  return jnp.where(rate < LARGE_RATE, series, asymptotic)


@kl_exact.defjvp
def _kl_exact_jvp(primals, tangents):
  log_alpha, = primals
  return kl_exact(log_alpha), kl_exact_derivative(log_alpha) * tangents[0]


def _poisson_mean(rate, function):
  """E[function(j)], j ~ Poisson(rate <= LARGE_RATE), elementwise."""
  def add(j, carry):
    total, probability = carry
    return total + probability * function(jnp.float32(j)), probability * rate / (j + 1)
  start = (jnp.zeros_like(rate), jnp.exp(-rate))
  return jax.lax.fori_loop(0, TERMS, add, start)[0]


KL_FORMS: dict[str, Callable[[Array], Array]] = {
    'approximation': kl_approximation, 'exact': kl_exact, 'first': kl_first}
KL_DERIVATIVES: dict[str, Callable[[Array], Array]] = {
    'approximation': kl_approximation_derivative, 'exact': kl_exact_derivative,
    'first': kl_first_derivative}
