"""L0 regularisation by hard-concrete gates.

Louizos, Welling, Kingma, "Learning sparse neural networks through L0 regularization", 2018,
arXiv:1712.01312. Each group of weights is multiplied by a gate z in [0, 1] whose distribution has
point masses at 0 and at 1, so that the expected number of weights in use is a closed form:

  s = sigmoid((log u - log(1 - u) + log_alpha) / beta),  u ~ U(0, 1)           (eq. 10)
  z = clip(s (zeta - gamma) + gamma, 0, 1)                                    (eqs. 11, 12)
  P(z != 0) = sigmoid(log_alpha - beta log(-gamma / zeta))                    (eq. 12)

Where we differ from the authors' code: its conv bias penalty has the wrong sign, and its conv
layers drop the bias in training but not in evaluation. Here a bias is gated with its filter if the
rule owns it (tied gates) and untouched otherwise.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from sparsejax.gates import AxisLike, place_gates
from sparsejax.paths import Tree, flatten, fold, unflatten
from sparsejax.regulariser import (Number, Regulariser, advance_numbers, initial_numbers,
                                   require_nonnegative)
from sparsejax.structured import Gated

Array = jax.Array

BETA = 2 / 3      # temperature, section 4.1 of the paper
GAMMA = -0.1      # lower and upper limit of the stretched interval
ZETA = 1.1
U_MARGIN = 1e-6   # keeps log u and log(1 - u) finite; from the authors' code


def sample(key: Array, shape: tuple[int, ...], log_alpha: Array, beta: Array | float = BETA,
           gamma: Array | float = GAMMA, zeta: Array | float = ZETA) -> Array:
  """Draws gates; `log_alpha` (n,) is broadcast to `shape` (..., n). Eqs. 10-12."""
  u = jax.random.uniform(key, shape, jnp.float32, minval=U_MARGIN, maxval=1 - U_MARGIN)
  logits = jnp.log(u) - jnp.log1p(-u) + jnp.broadcast_to(log_alpha, shape)
  return jnp.clip(jax.nn.sigmoid(logits / beta) * (zeta - gamma) + gamma, 0, 1)


def deterministic_gate(log_alpha: Array, gamma: float = GAMMA, zeta: float = ZETA) -> Array:
  """The gate at test time, clip(sigmoid(log_alpha) (zeta - gamma) + gamma, 0, 1): no beta (eq. 13).

  Exactly 0 where log_alpha <= log(-gamma / zeta) = -2.3979 for the default limits.
  """
  return jnp.clip(jax.nn.sigmoid(log_alpha) * (zeta - gamma) + gamma, 0, 1)


def nonzero_probability(log_alpha: Array, beta: Array | float = BETA, gamma: float = GAMMA,
                        zeta: float = ZETA) -> Array:
  """P(z != 0), eq. 12."""
  return jax.nn.sigmoid(log_alpha - beta * math.log(-gamma / zeta))


def one_probability(log_alpha: Array, beta: Array | float = BETA, gamma: float = GAMMA,
                    zeta: float = ZETA) -> Array:
  """P(z = 1) = P(s >= (1 - gamma) / (zeta - gamma))."""
  return jax.nn.sigmoid(log_alpha - beta * math.log((1 - gamma) / (zeta - 1)))


def l0_hard_concrete(
    strength: Number,
    *,
    axis: AxisLike = -2,
    tied: bool = False,
    per: str = 'batch',
    l2: Number = 0.0,
    drop_rate: float = 0.5,
    beta: Number = BETA,
    gamma: float = GAMMA,
    zeta: float = ZETA,
    clamp: tuple[float, float] | None = (1e-2, 1e2),
) -> Regulariser:
  """Hard-concrete gates on slices of kernels; the penalty is strength times the expected L0 norm.

  Args:
    strength: nats per weight in use, for the whole data set: the paper's lambda times N (its
      0.1/N is strength=0.1). A number, a traced array or an optax schedule.
    axis: gated axis: -2 gates input units of a Dense kernel (the paper's choice), -1 output units
      or filters; or a dict {path pattern: axis}, see `gates.py`.
    tied: one gate per index shared by all leaves of the rule.
    per: 'batch' folds one draw into the weights (the default of the authors' code); 'example'
      draws gates for each example, inside the layer.
    l2: the paper's rho times N: 0.5 l2 P(z != 0) |w|^2, in nats. 0.0 leaves the term out.
    drop_rate: initial probability that sets log_alpha ~ N(log(1 - p) - log p, 0.01^2).
    beta, gamma, zeta: temperature and limits, gamma < 0 < 1 < zeta.
    clamp: log_alpha is clipped to the logs of these after each step; None leaves it free.

  Trained: `weight` and `log_alpha` (float32, one per gate). State: strength, beta, l2 if any.

  Raises:
    ValueError: for limits out of order, a negative strength or l2, a rate outside (0, 1).
  """
  require_nonnegative(strength=strength, l2=l2)
  if not gamma < 0 < 1 < zeta:
    raise ValueError(f'gamma={gamma}, zeta={zeta}: gates reach 0 and 1 only if gamma < 0, 1 < zeta')
  if not 0 < drop_rate < 1:
    raise ValueError(f'drop_rate={drop_rate} must lie between 0 and 1, both excluded')
  if per not in ('batch', 'example'):
    raise ValueError(f"per={per!r} is not 'batch' or 'example'")
  numbers = {'strength': strength, 'beta': beta}
  has_l2 = not (isinstance(l2, (int, float)) and l2 == 0)
  if has_l2:
    numbers['l2'] = l2

  def init(key, weights):
    places = place_gates(weights, axis, tied)
    mean = math.log(1 - drop_rate) - math.log(drop_rate)
    log_alpha = {
        home: mean + 0.01 * jax.random.normal(fold(key, home), place.parameter_shape(place.units))
        for home, place in places.items() if home == place.home
    }
    params = {'weight': weights, 'log_alpha': unflatten(log_alpha)}
    return params, initial_numbers(**numbers)

  def gates_of(params, state, key, places):
    """Returns {home: gates, shaped as log_alpha}."""
    log_alpha = flatten(params['log_alpha'])
    if key is None:
      return {home: deterministic_gate(a, gamma, zeta) for home, a in log_alpha.items()}
    return {
        home: sample(fold(key, home), (a.size,), a.reshape(-1), state['beta'], gamma, zeta)
        for home, a in log_alpha.items()
    }

  def weights(params, state, key=None):
    places = place_gates(params['weight'], axis, tied)
    leaves = flatten(params['weight'])
    if key is not None and per == 'example':
      log_alpha = flatten(params['log_alpha'])
      limits = (state['beta'], jnp.asarray(gamma), jnp.asarray(zeta))
      return unflatten({
          path: Gated(leaf, (log_alpha[place.home].reshape(-1), *limits), fold(key, place.home),
                      sample, place.axis, place.positions)
          for path, leaf in leaves.items() for place in (places[path],)
      })
    gates = gates_of(params, state, key, places)
    return unflatten({
        path: leaf * places[path].spread(gates[places[path].home]).astype(leaf.dtype)
        for path, leaf in leaves.items()
    })

  def penalty(params, state, key=None):
    del key
    places = place_gates(params['weight'], axis, tied)
    in_use = {home: nonzero_probability(a, state['beta'], gamma, zeta)
              for home, a in flatten(params['log_alpha']).items()}
    total = jnp.zeros(())
    for path, leaf in flatten(params['weight']).items():
      place = places[path]
      probability = in_use[place.home].reshape(-1)
      per_gate = leaf.size // place.units
      total += state['strength'] * per_gate * probability.sum()
      if has_l2:
        others = tuple(i for i in range(leaf.ndim) if i != leaf.ndim + place.axis)
        squares = jnp.sum(jnp.square(leaf.astype(jnp.float32)), others)
        total += 0.5 * state['l2'] * jnp.dot(jnp.tile(probability, place.positions), squares)
    return total

  def update(params, state, *, step, weight_grads=None, key=None):
    del weight_grads, key
    if clamp is not None:
      low, high = math.log(clamp[0]), math.log(clamp[1])
      log_alpha = jax.tree.map(lambda a: jnp.clip(a, low, high), params['log_alpha'])
      params = {**params, 'log_alpha': log_alpha}
    return params, advance_numbers(state, step, **numbers)

  return Regulariser(init, weights, penalty, update)


def expected_weights(params: Tree, state: Tree, axis: AxisLike = -2, tied: bool = False,
                     gamma: float = GAMMA, zeta: float = ZETA) -> Array:
  """Returns the expected number of weights in use, sum over gates of |g| P(z != 0).

  axis, tied, gamma and zeta are those of the rule.
  """
  places = place_gates(params['weight'], axis, tied)
  log_alpha = flatten(params['log_alpha'])
  return sum((
      leaf.size // places[path].units
      * nonzero_probability(log_alpha[places[path].home], state['beta'], gamma, zeta).sum()
      for path, leaf in flatten(params['weight']).items()
  ), jnp.zeros(()))
