"""The improper log-uniform prior of variational dropout, as a NumPyro distribution.

Kingma, Salimans, Welling, 2015, arXiv:1506.02557; Molchanov, Ashukha, Vetrov, 2017,
arXiv:1701.05369. Its posterior is NumPyro's own Normal(theta, exp(log_sigma2 / 2)).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.kl import kl_divergence
from numpyro.distributions.util import validate_sample

from sparsejax.regularisers.log_uniform import kl_exact

Array = jax.Array

# log c of p(w) = c / |w|, such that KL(N(theta, sigma^2) || p) -> 0 as sigma / |theta| -> infinity:
# E[log |sigma e|] = log sigma - (Euler's gamma + log 2) / 2 against the entropy of a Gaussian.
LOG_CONSTANT = -0.5 * (math.log(4 * math.pi) + 1 + float(np.euler_gamma))


class ImproperLogUniform(dist.Distribution):
  """p(w) proportional to 1 / |w| on the real line: log |w| is uniform. Not a distribution.

  It has no finite mass, neither near 0 nor far out, so it cannot be sampled, a model with it has
  no evidence, and no divergence from it is a code length. A posterior under it is improper too
  wherever the likelihood of w = 0 is positive, so NUTS on such a model samples nothing: for a
  proper stand-in take `numpyro.distributions.LogUniform(low, high)`.

  What is left is a divergence up to a constant. `kl_divergence(Normal, ImproperLogUniform)` is
  registered, exact (by its series), and scaled as in `regularisers.log_uniform`: it is positive and
  vanishes as sigma / |theta| grows. `log_prob` carries the same constant, so a Monte Carlo estimate
  E_q[log q(w) - log_prob(w)] has that very value.

  Args:
    batch_shape: shape of independent weights. The event is a scalar.
  """

  arg_constraints: ClassVar[dict[str, Any]] = {}
  support = constraints.real

  def __init__(self, batch_shape: tuple[int, ...] = (), *, validate_args: bool | None = None):
    super().__init__(tuple(batch_shape), validate_args=validate_args)

  @validate_sample
  def log_prob(self, value: Array, intermediates: list[Any] | None = None) -> Array:
    """-log |value| + LOG_CONSTANT; infinite at 0."""
    del intermediates
    shape = jax.lax.broadcast_shapes(jnp.shape(value), self.batch_shape)
    return LOG_CONSTANT - jnp.log(jnp.abs(jnp.broadcast_to(value, shape)))


@kl_divergence.register(dist.Normal, ImproperLogUniform)
def _kl_normal_log_uniform(p: dist.Normal, q: ImproperLogUniform) -> Array:
  """The divergence in nats, a function of log alpha = 2 log(scale / |loc|) alone."""
  shape = jax.lax.broadcast_shapes(p.batch_shape, q.batch_shape)
  loc, scale = jnp.broadcast_to(p.loc, shape), jnp.broadcast_to(p.scale, shape)
  # At loc = 0 the divergence and its gradient are 0; below 1e-15 both are so to float32, and the
  # floor keeps the logarithm away from 0.
  ratio = jnp.maximum(jnp.abs(loc) / scale, 1e-15)
  return kl_exact(-2 * jnp.log(ratio))
