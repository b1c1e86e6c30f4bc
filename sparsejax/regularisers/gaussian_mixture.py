"""Mixtures of Gaussians over single weights: log-density, responsibilities, merging, collapse.

Nowlan and Hinton, "Simplifying neural networks by soft weight-sharing", 1992; Ullrich, Meeds,
Welling, "Soft weight-sharing for neural network compression", 2017, arXiv:1702.04008. With
components k of mean mu_k, precision lambda_k = exp(gamma_k) and mixing weight pi_k,

  p(w) = sum_k pi_k N(w; mu_k, 1 / lambda_k),    r_k(w) = pi_k N(w; mu_k, 1 / lambda_k) / p(w),
  dlog p / dw = -sum_k r_k lambda_k (w - mu_k),  dlog p / dmu_k = r_k lambda_k (w - mu_k),
  dlog p / dgamma_k = r_k (1 - lambda_k (w - mu_k)^2) / 2,  dlog p / dlog pi_k = r_k.

The weights are walked in chunks, so that the scratch of K terms for each weight stays small however
many weights there are.

Where we differ from the authors' code: its collapse takes the free mixing weights as they are
trained, which do not sum to 1 - pi_0; here the responsibilities of training and of the collapse are
those of one normalised mixture. Its softmax subtracts the minimum, which overflows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

CHUNK = 8192            # weights at a time: 17 components of them are 0.5 MiB, which a cache holds
LOG_2_PI = math.log(2 * math.pi)
NOBODY = -1e30          # log mixing weight of a component that was merged into another


class Mixture(NamedTuple):
  """A mixture of K Gaussians; component 0 is the one at zero where a method pins one.

  Attributes:
    means, log_precisions: (K,). log_mixing: (K,), the logarithms of weights that sum to 1.
  """

  means: Array
  log_precisions: Array
  log_mixing: Array


def log_terms(w: Array, mixture: Mixture) -> Array:
  """Returns log(pi_k N(w; mu_k, 1 / lambda_k)), (K, n) for weights (n,)."""
  distance = w[None, :] - mixture.means[:, None]
  height = mixture.log_mixing + 0.5 * (mixture.log_precisions - LOG_2_PI)
  return height[:, None] - 0.5 * jnp.exp(mixture.log_precisions)[:, None] * jnp.square(distance)


def log_density(w: Array, mixture: Mixture) -> Array:
  """Returns log p(w) in nats, (n,) for (n,); all terms at once, for plots and small arrays."""
  return jax.nn.logsumexp(log_terms(w, mixture), axis=0)


def responsibilities(w: Array, mixture: Mixture) -> Array:
  """Returns r_k(w), (K, n) for weights (n,); each column sums to 1."""
  return jax.nn.softmax(log_terms(w, mixture), axis=0)


@jax.custom_vjp
def total_log_density(w: Array, mixture: Mixture) -> Array:
  """Returns sum log p(w) over the weights, float32 of any shape, in nats.

  Its derivative is written out by responsibilities, so that a training step, in which nobody reads
  the value, walks over the weights once. Where the cotangent is 0 (a phase of training without the
  prior) it is not computed at all.
  """
  return _chunked_sum(w, mixture)


def _chunked_sum(w, mixture):
  def add(total, chunk):
    values, valid = chunk
    return total + jnp.sum(jnp.where(valid, log_density(values, mixture), 0.0)), None
  return jax.lax.scan(add, jnp.zeros(()), _chunks(w))[0]


def _forward(w, mixture):
  return total_log_density(w, mixture), (w, mixture)


def _backward(saved, cotangent):
  def gradient(w, mixture, cotangent):
    def add(sums, chunk):
      values, valid = chunk
      r = responsibilities(values, mixture) * valid[None, :]
      distance = values[None, :] - mixture.means[:, None]
      pull = r * distance                             # times the precision, outside of the loop
      own = (jnp.sum(pull, 1), jnp.sum(pull * distance, 1), jnp.sum(r, 1))
      slope = -jnp.exp(mixture.log_precisions) @ pull
      return jax.tree.map(jnp.add, sums, own), slope
    zeros = jnp.zeros_like(mixture.means)
    (first, second, count), slopes = jax.lax.scan(add, (zeros, zeros, zeros), _chunks(w))
    precisions = jnp.exp(mixture.log_precisions)
    own = Mixture(precisions * first, 0.5 * (count - precisions * second), count)
    slopes = slopes.reshape(-1)[:w.size].reshape(w.shape)
    return cotangent * slopes, jax.tree.map(lambda leaf: cotangent * leaf, own)

  def nothing(w, mixture, cotangent):
    del cotangent
    return jnp.zeros_like(w), jax.tree.map(jnp.zeros_like, mixture)

  return jax.lax.cond(cotangent != 0, gradient, nothing, *saved, cotangent)


total_log_density.defvjp(_forward, _backward)


def _chunks(w: Array) -> tuple[Array, Array]:
  """Returns the weights as (chunks, size), filled up with zeros, and where they are no filling."""
  count = max(1, -(-w.size // CHUNK))
  size = -(-w.size // count)
  filled = jnp.pad(w.reshape(-1), (0, count * size - w.size))
  valid = jnp.arange(count * size) < w.size
  return filled.reshape(count, size), valid.reshape(count, size)


# --- from the mixture to a codebook ---------------------------------------------------------------


def assign(w: Array, mixture: Mixture) -> Array:
  """Returns the component of largest responsibility of each weight, int32 in the shape of `w`."""
  filled, _ = _chunks(w)
  codes = jax.lax.map(lambda chunk: jnp.argmax(log_terms(chunk, mixture), axis=0), filled)
  return codes.astype(jnp.int32).reshape(-1)[:w.size].reshape(w.shape)


def divergences(mixture: Mixture) -> Array:
  """Returns KL(component i || component j) in nats, (K, K): >= 0, and 0 for equal components."""
  means, gamma = mixture.means, mixture.log_precisions
  change = gamma[None, :] - gamma[:, None]                          # log(lambda_j / lambda_i)
  # exp(x) - 1 - x, whose leading digits cancel near 0, where merging looks.
  near = jnp.where(jnp.abs(change) < 0.01, change, 0.0)
  series = jnp.square(near) * (1 / 2 + near * (1 / 6 + near / 24))
  spread = jnp.where(jnp.abs(change) < 0.01, series, jnp.expm1(change) - change)
  apart = jnp.square(means[None, :] - means[:, None])
  return 0.5 * (spread + jnp.exp(gamma)[None, :] * apart)


def merge(mixture: Mixture, below: Array | float) -> Mixture:
  """Returns the mixture with near-equal components made one; the shapes stay.

  The two components whose divergences are both smaller than `below`, nearest first, become one,
  until none are left: its mean and precision are the averages weighted by the mixing weights, which
  are added. What joins component 0 takes its mean. The second of each two is left without weight.
  """
  number = mixture.means.size
  index = jnp.arange(number)
  upper = index[:, None] < index[None, :]

  def one_merge(_, mixture):
    alive = mixture.log_mixing > 0.5 * NOBODY
    distance = jax.lax.stop_gradient(divergences(mixture))
    distance = jnp.maximum(distance, distance.T)
    eligible = upper & alive[:, None] & alive[None, :]
    distance = jnp.where(eligible, distance, jnp.inf)
    first, second = jnp.unravel_index(jnp.argmin(distance), distance.shape)
    means, gamma, log_mixing = mixture
    together = jnp.logaddexp(log_mixing[first], log_mixing[second])
    share = jnp.exp(log_mixing[second] - together)
    mean = jnp.where(first == 0, means[0], (1 - share) * means[first] + share * means[second])
    precision = (1 - share) * jnp.exp(gamma[first]) + share * jnp.exp(gamma[second])
    joined = Mixture(means.at[first].set(mean), gamma.at[first].set(jnp.log(precision)),
                     log_mixing.at[first].set(together).at[second].set(NOBODY))
    near = distance[first, second] < below
    return jax.tree.map(lambda new, old: jnp.where(near, new, old), joined, mixture)

  return jax.lax.fori_loop(0, number - 1, one_merge, mixture)


# --- priors of the mixture's own parameters -------------------------------------------------------


def gamma_nats(log_precisions: Array, shape: Array, rate: Array) -> Array:
  """-log Gamma(lambda; shape, rate), elementwise in nats, of lambda = exp(log_precisions).

  The density is over lambda, without the Jacobian of the logarithm, so its mode is at
  lambda = (shape - 1) / rate.
  """
  constant = jax.scipy.special.gammaln(shape) - shape * jnp.log(rate)
  return constant - (shape - 1) * log_precisions + rate * jnp.exp(log_precisions)


def beta_nats(logit: Array, alpha: Array, beta: Array) -> Array:
  """-log Beta(p; alpha, beta), elementwise in nats, of p = sigmoid(logit); density over p."""
  return (jax.scipy.special.betaln(alpha, beta) - (alpha - 1) * jax.nn.log_sigmoid(logit)
          - (beta - 1) * jax.nn.log_sigmoid(-logit))
