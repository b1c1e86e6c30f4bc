"""The hard-concrete distribution of a gate, as a NumPyro distribution.

Louizos, Welling, Kingma, "Learning sparse neural networks through L0 regularization", 2018,
arXiv:1712.01312, section 2.2. A gate is z = clip(s (zeta - gamma) + gamma, 0, 1) of a binary
concrete s, so it has atoms at 0 and at 1 and a density between them. With the stretched logit
y(z) = log(z - gamma) - log(zeta - z),

  F(z) = sigmoid(beta y(z) - log_alpha) for 0 <= z < 1,  F(z) = 1 for z >= 1,
  P(z = 0) = F(0),  P(z = 1) = 1 - F(1-) = sigmoid(log_alpha - beta y(1)),
  f(z) = F(z) (1 - F(z)) beta (zeta - gamma) / ((z - gamma) (zeta - z)) for 0 < z < 1.

Densities are with respect to Lebesgue measure on (0, 1) plus a unit atom at 0 and one at 1. All
hard concretes are absolutely continuous to each other, so the divergence between two is finite.
One from a Bernoulli variable is not (the density between the atoms has nothing to compare with),
and is not offered.

Moments, entropy and divergence have no elementary form. They are integrals over y by
Gauss-Legendre with 64 nodes. The integrand is analytic but for poles at distance pi and pi / beta
from the real line, so the relative error falls as rho^-128 with rho = a + sqrt(1 + a^2),
a = min(pi, pi / beta) / ((y(1) - y(0)) / 2): far below float32 rounding at the paper's constants,
and still 1e-7 at beta = 10 or at limits of -1e-4 and 1 + 1e-4.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.kl import kl_divergence
from numpyro.distributions.transforms import biject_to
from numpyro.distributions.util import promote_shapes, validate_sample

from sparsejax.regularisers import hard_concrete
from sparsejax.regularisers.hard_concrete import BETA, GAMMA, ZETA

Array = jax.Array
ArrayLike = Any  # a number or an array

_ROOTS, _WEIGHTS = np.polynomial.legendre.leggauss(64)


class _ClosedUnitInterval(constraints.interval):
  """[0, 1] with its ends, which carry atoms; no bijection to the real line is offered."""

  def __init__(self):
    super().__init__(0.0, 1.0)

  def tree_flatten(self):
    return (), ((), {'lower_bound': 0.0, 'upper_bound': 1.0})


@biject_to.register(_ClosedUnitInterval)
def _no_bijection(constraint):
  raise ValueError('a HardConcrete site has atoms at 0 and 1, which no change of variables carries '
                   'to the real line: HMC, NUTS and the autoguides would lose them; use SVI with a '
                   'HardConcrete guide and TraceMeanField_ELBO')


class HardConcrete(dist.Distribution):
  """A gate in [0, 1] with atoms at 0 and 1.

  Samples are those of `regularisers.hard_concrete.sample` and reparameterised: a continuous
  function of the gate has unbiased pathwise gradients. `log_prob` is no such function (it jumps
  between an atom and the density), so the sampled KL term of `Trace_ELBO` has a biased gradient.
  Use `TraceMeanField_ELBO`, which takes the registered `kl_divergence` between two HardConcretes.
  The support is mixed: HMC, NUTS and autoguides are refused by a ValueError.

  Args:
    log_alpha: location, in logits: log_alpha of the paper (not the ratio of variational dropout).
    beta: temperature, positive.
    gamma, zeta: limits of the stretched interval, gamma < 0 < 1 < zeta.
    validate_args: as in NumPyro.

  All four may be arrays; they are broadcast to the batch shape. The event is a scalar.

  Raises:
    ValueError: where arguments are validated, for a temperature or limits out of range.
  """

  arg_constraints: ClassVar[dict[str, Any]] = {
      'log_alpha': constraints.real,
      'beta': constraints.positive,
      'gamma': constraints.less_than(0.0),
      'zeta': constraints.greater_than(1.0),
  }
  support = _ClosedUnitInterval()
  reparametrized_params: ClassVar[list[str]] = ['log_alpha', 'beta', 'gamma', 'zeta']

  def __init__(self, log_alpha: ArrayLike, beta: ArrayLike = BETA, gamma: ArrayLike = GAMMA,
               zeta: ArrayLike = ZETA, *, validate_args: bool | None = None):
    self.log_alpha, self.beta, self.gamma, self.zeta = promote_shapes(log_alpha, beta, gamma, zeta)
    shapes = [jnp.shape(argument) for argument in (log_alpha, beta, gamma, zeta)]
    super().__init__(jax.lax.broadcast_shapes(*shapes), validate_args=validate_args)

  def validate_args(self, strict: bool = True) -> None:
    try:
      super().validate_args(strict)
    except ValueError as error:
      raise ValueError(f'{error} Got log_alpha={self.log_alpha}, beta={self.beta}, '
                       f'gamma={self.gamma}, zeta={self.zeta}; a gate needs finite log_alpha, '
                       'beta > 0 and gamma < 0 < 1 < zeta.') from None

  def _parameters(self, shape: tuple[int, ...]) -> list[Array]:
    """Returns log_alpha, beta, gamma, zeta, each of `shape`."""
    return [jnp.broadcast_to(jnp.asarray(value, jnp.result_type(float)), shape)
            for value in (self.log_alpha, self.beta, self.gamma, self.zeta)]

  def _with_parameters(self, value: ArrayLike) -> tuple[Array, list[Array]]:
    """Returns the value and the parameters, broadcast against each other."""
    shape = jax.lax.broadcast_shapes(jnp.shape(value), self.batch_shape)
    return jnp.broadcast_to(value, shape), self._parameters(shape)

  def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
    """Draws gates of shape sample_shape + batch_shape."""
    shape = self.shape(sample_shape)
    return hard_concrete.sample(key, shape, *self._parameters(shape))

  @validate_sample
  def log_prob(self, value: ArrayLike, intermediates: list[Any] | None = None) -> Array:
    """The log probability of an atom at 0 and at 1, the log density between."""
    del intermediates
    value, parameters = self._with_parameters(value)
    inside = _log_density(value, *parameters)
    return jnp.where(value == 0, _log_zero_probability(*parameters),
                     jnp.where(value == 1, _log_one_probability(*parameters), inside))

  def cdf(self, value: ArrayLike) -> Array:
    """P(z <= value), which jumps at 0 and at 1."""
    value, (log_alpha, beta, gamma, zeta) = self._with_parameters(value)
    logit = _stretched_logit(jnp.clip(value, 0, 1), gamma, zeta)
    inside = jax.nn.sigmoid(beta * logit - log_alpha)
    return jnp.where(value < 0, 0.0, jnp.where(value >= 1, 1.0, inside))

  def icdf(self, q: ArrayLike) -> Array:
    """The smallest gate with cdf(gate) >= q, for 0 < q < 1; 0 up to P(z = 0)."""
    q, (log_alpha, beta, gamma, zeta) = self._with_parameters(q)
    logits = (jnp.log(q) - jnp.log1p(-q) + log_alpha) / beta
    return jnp.clip(jax.nn.sigmoid(logits) * (zeta - gamma) + gamma, 0, 1)

  @property
  def prob_zero(self) -> Array:
    """P(z = 0)."""
    return jnp.exp(_log_zero_probability(*self._parameters(self.batch_shape)))

  @property
  def prob_one(self) -> Array:
    """P(z = 1)."""
    return jnp.exp(_log_one_probability(*self._parameters(self.batch_shape)))

  @property
  def mean(self) -> Array:
    return _expectation(self._parameters(self.batch_shape), 0.0, 1.0, lambda z: z)

  @property
  def variance(self) -> Array:
    """By centred terms, all positive, so that a nearly certain gate keeps its digits."""
    parameters = self._parameters(self.batch_shape)
    mean = self.mean
    rest = _expectation(parameters, 1.0, 0.0, lambda z: 1 - z)  # 1 - mean, without cancellation
    return _expectation(parameters, jnp.square(mean), jnp.square(rest),
                        lambda z: jnp.square(z - mean[..., None]))

  def entropy(self) -> Array:
    """The entropy with respect to the mixed measure above, in nats; may be negative."""
    parameters = self._parameters(self.batch_shape)
    return -_expectation(parameters, _log_zero_probability(*parameters),
                         _log_one_probability(*parameters),
                         lambda z: _log_density(z, *_spread(parameters, z)))


@kl_divergence.register(HardConcrete, HardConcrete)
def _kl_hard_concrete(p: HardConcrete, q: HardConcrete) -> Array:
  """KL(p || q) in nats: the two atoms and the density between them."""
  shape = jax.lax.broadcast_shapes(p.batch_shape, q.batch_shape)
  of_p, of_q = p._parameters(shape), q._parameters(shape)
  return _expectation(
      of_p,
      _log_zero_probability(*of_p) - _log_zero_probability(*of_q),
      _log_one_probability(*of_p) - _log_one_probability(*of_q),
      lambda z: _log_density(z, *_spread(of_p, z)) - _log_density(z, *_spread(of_q, z)))


# --- formulas, elementwise over arrays of one shape -----------------------------------------------


def _stretched_logit(z, gamma, zeta):
  """The logit of the binary concrete that is stretched to z."""
  return jnp.log(z - gamma) - jnp.log(zeta - z)


def _log_zero_probability(log_alpha, beta, gamma, zeta):
  return jax.nn.log_sigmoid(beta * _stretched_logit(0.0, gamma, zeta) - log_alpha)


def _log_one_probability(log_alpha, beta, gamma, zeta):
  return jax.nn.log_sigmoid(log_alpha - beta * _stretched_logit(1.0, gamma, zeta))


def _log_density(z, log_alpha, beta, gamma, zeta):
  logit = beta * _stretched_logit(z, gamma, zeta) - log_alpha
  slope = jnp.log(beta * (zeta - gamma)) - jnp.log(z - gamma) - jnp.log(zeta - z)
  return jax.nn.log_sigmoid(logit) + jax.nn.log_sigmoid(-logit) + slope


def _spread(parameters, z):
  """Returns the parameters of shape (...) repeated over the nodes of z (..., nodes)."""
  return [jnp.broadcast_to(value[..., None], z.shape) for value in parameters]


def _expectation(parameters, at_zero, at_one, inside):
  """E[g(z)] for g(0), g(1) and a smooth g between; inside: z (..., nodes) -> the same shape."""
  _, _, gamma, zeta = parameters
  low, high = _stretched_logit(0.0, gamma, zeta), _stretched_logit(1.0, gamma, zeta)
  shape = (*low.shape, _ROOTS.size)
  half = jnp.broadcast_to((0.5 * (high - low))[..., None], shape)
  roots = jnp.broadcast_to(jnp.asarray(_ROOTS, low.dtype), shape)
  y = jnp.broadcast_to((0.5 * (high + low))[..., None], shape) + half * roots
  log_alpha, beta, gamma, zeta = _spread(parameters, y)
  logit = beta * y - log_alpha
  mass = (half * jnp.broadcast_to(jnp.asarray(_WEIGHTS, low.dtype), shape)
          * beta * jax.nn.sigmoid(logit) * jax.nn.sigmoid(-logit))
  z = gamma + (zeta - gamma) * jax.nn.sigmoid(y)
  return (jnp.exp(_log_zero_probability(*parameters)) * at_zero
          + jnp.exp(_log_one_probability(*parameters)) * at_one
          + jnp.sum(mass * inside(z), axis=-1))
