"""Hard-concrete gates on activations, as a linen module.

Louizos, Welling, Kingma, 2018, arXiv:1712.01312. The formulas are those of
`sparsejax/regularisers/hard_concrete.py`; gates on weights are that file's `l0_hard_concrete`.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from sparsejax.regularisers import hard_concrete

Array = jax.Array


class HardConcreteGate(nn.Module):
  """Multiplicative gates z in [0, 1] with point masses at 0 and 1, for one axis of the input.

  z = clip(sigmoid((log u - log(1 - u) + log_alpha) / beta) (zeta - gamma) + gamma, 0, 1), with
  u ~ U(0, 1) (eqs. 10-12); deterministic, u = 1/2 and beta = 1 (eq. 13).

  Attributes:
    axis: axis of the input that is gated.
    strength: nats per open gate, for the whole data set; at 1.0 the loss is the expected L0 norm.
    beta: temperature, dimensionless; gamma, zeta: stretch limits, gamma < 0 < 1 < zeta.
    drop_rate: initial probability p that sets log_alpha ~ N(log(1 - p) - log p, 0.01^2).
    clamp: `update` clips log_alpha to the logs of these; None leaves it free.
    deterministic: the gates of test time; the call's own argument overrides it.

  The parameter `log_alpha` is (inputs.shape[axis],), float32. In training the expected L0 norm
  times strength is sown into `losses` (not by init, and once however often it is called).
  """

  axis: int = -1
  strength: float | Array = 1.0
  beta: float = hard_concrete.BETA
  gamma: float = hard_concrete.GAMMA
  zeta: float = hard_concrete.ZETA
  drop_rate: float = 0.5
  clamp: tuple[float, float] | None = (1e-2, 1e2)
  deterministic: bool = False

  @nn.compact
  def __call__(self, inputs: Array, *, deterministic: bool | None = None) -> Array:
    """Returns z of shape (inputs.shape[axis],), shared by the batch; the caller multiplies.

    RNG: stream 'noise' unless deterministic; each call draws anew.

    Raises:
      ValueError: for limits out of order, a rate outside (0, 1), an axis the input does not have,
        or without the stream 'noise'.
    """
    self._check(inputs.ndim)
    units = inputs.shape[self.axis]
    mean = math.log(1 - self.drop_rate) - math.log(self.drop_rate)

    def initial(key: Array) -> Array:
      return mean + 0.01 * jax.random.normal(key, (units,))

    log_alpha: Array = self.param('log_alpha', initial)
    if self.is_initializing():
      return hard_concrete.deterministic_gate(log_alpha, self.gamma, self.zeta)
    self.sow('losses', 'expected_l0', self.strength * self._expected_l0(log_alpha),
             init_fn=lambda: None, reduce_fn=lambda _, new: new)
    if self.deterministic if deterministic is None else deterministic:
      return hard_concrete.deterministic_gate(log_alpha, self.gamma, self.zeta)
    if not self.has_rng('noise'):
      raise ValueError(f"the gates {'/'.join(self.path) or type(self).__name__} are drawn in "
                       "training, but there is no RNG stream 'noise'; pass rngs={'noise': key}, or "
                       'deterministic=True')
    return hard_concrete.sample(self.make_rng('noise'), (units,), log_alpha, self.beta, self.gamma,
                                self.zeta)

  def expected_l0(self) -> Array:
    """Returns the expected number of open gates, sum P(z != 0), without the strength."""
    return self._expected_l0(self.get_variable('params', 'log_alpha'))

  def update(self, *, step: Array | int) -> None:
    """Clips log_alpha to the logs of `clamp`, as the authors' code does after each step.

      _, new = gate.apply(v, step=i, method='update', mutable=['params'])
    """
    del step
    if self.clamp is not None:
      low, high = math.log(self.clamp[0]), math.log(self.clamp[1])
      log_alpha: Array = self.get_variable('params', 'log_alpha')
      self.put_variable('params', 'log_alpha', jnp.clip(log_alpha, low, high))

  @nn.nowrap
  def _expected_l0(self, log_alpha: Array) -> Array:
    return hard_concrete.nonzero_probability(log_alpha, self.beta, self.gamma, self.zeta).sum()

  @nn.nowrap
  def _check(self, ndim: int) -> None:
    if not self.gamma < 0 < 1 < self.zeta:
      raise ValueError(f'gamma={self.gamma}, zeta={self.zeta}: gates reach 0 and 1 only if '
                       'gamma < 0, 1 < zeta')
    if not 0 < self.drop_rate < 1:
      raise ValueError(f'drop_rate={self.drop_rate} must lie between 0 and 1, both excluded')
    if not -ndim <= self.axis < ndim:
      raise ValueError(f'gate axis {self.axis} does not exist on an input of {ndim} axes; choose '
                       f'one from {-ndim} to -1')
