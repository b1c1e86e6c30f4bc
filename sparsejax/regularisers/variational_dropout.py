"""Sparse variational dropout: a Gaussian posterior per weight under the log-uniform prior.

Molchanov, Ashukha, Vetrov, "Variational dropout sparsifies deep neural networks", 2017,
arXiv:1701.05369. q(w) = N(theta, sigma^2); alpha = sigma^2 / theta^2; weights with a large alpha
are pure noise and are removed. theta and log sigma^2 are trained (the paper's additive noise),
never log alpha. The log-uniform prior is improper, so the KL is known up to a constant; the
constant is chosen such that KL -> 0 as alpha -> infinity, and no KL here is a code length.

Where we differ from the authors' code: `train_clip`, which zeroes the mean of pruned weights in
training, is not in the paper and not here; `clip_variance` is their clipping of the forward pass.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from sparsejax.paths import Tree, fold, map_leaves
from sparsejax.regulariser import (Number, Regulariser, advance_numbers, initial_numbers,
                                   require_nonnegative)
from sparsejax.regularisers.log_uniform import KL_DERIVATIVES, KL_FORMS
from sparsejax.structured import Gaussian, RowGaussian

Array = jax.Array

NOISE = ('local', 'local_shared', 'rows', 'weight')
EPSILON = 1e-8  # inside log(theta^2 + EPSILON), from the authors' code


def log_alpha(theta: Array, log_sigma2: Array) -> Array:
  """log(sigma^2 / theta^2), elementwise, unclipped."""
  return log_sigma2 - jnp.log(jnp.square(theta) + EPSILON)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def total_kl(theta: Array, log_sigma2: Array, form: str = 'approximation',
             clip: float | None = 8.0) -> Array:
  """KL(q || log-uniform) summed over the weights, in nats.

  Its derivative is written out, so that a training step passes over the weights once and never
  computes the value where nobody reads it. log alpha is clipped to [-clip, clip]; outside, the
  derivative is zero, as in the authors' code.

  Args:
    theta, log_sigma2: arrays of one shape.
    form: 'approximation' (eq. 14), 'exact' (a series) or 'first', see `log_uniform.py`.
    clip: bound of |log alpha|, None for no bound.
  """
  return jnp.sum(KL_FORMS[form](_clipped(log_alpha(theta, log_sigma2), clip)))


def _clipped(value, clip):
  return value if clip is None else jnp.clip(value, -clip, clip)


def _total_kl_forward(theta, log_sigma2, form, clip):
  return total_kl(theta, log_sigma2, form, clip), (theta, log_sigma2)


def _total_kl_backward(form, clip, saved, cotangent):
  def gradient(theta, log_sigma2, cotangent):
    square = jnp.square(theta) + EPSILON
    value = log_sigma2 - jnp.log(square)
    slope = cotangent * KL_DERIVATIVES[form](_clipped(value, clip))
    if clip is not None:
      slope = jnp.where(jnp.abs(value) <= clip, slope, 0.0)
    return slope * (-2 * theta / square), slope

  def nothing(theta, log_sigma2, cotangent):
    del cotangent
    return jnp.zeros_like(theta), jnp.zeros_like(log_sigma2)

  # The branch keeps XLA:CPU from computing the slope again in each loop of the optimiser that reads
  # it, and a warm-up at weight 0 skips it.
  return jax.lax.cond(cotangent != 0, gradient, nothing, *saved, cotangent)


total_kl.defvjp(_total_kl_forward, _total_kl_backward)


def sparse_variational_dropout(
    strength: Number = 1.0,
    *,
    noise: str = 'local',
    kl: str = 'approximation',
    threshold: Number = 3.0,
    init_log_sigma2: float = -10.0,
    clip: float | None = 8.0,
    clip_variance: bool = False,
) -> Regulariser:
  """A Gaussian posterior per weight; weights with log alpha >= threshold are removed.

  Args:
    strength: factor of the KL; 1 is the variational bound. A number, traced array or schedule.
      A warm-up over epochs is the trainer's `penalty_weight`.
    noise: 'local' hands `Gaussian` weights to the layers, which draw each output by local
      reparameterisation (in convolutions that has the right marginals, but noise at neighbouring
      outputs is independent); 'local_shared' is 'local' with one draw for all positions of an
      example, the steps of a sequence, say; 'weight' draws one weight for the whole batch, for
      recurrent cells; 'rows' does so for an embedding, at the cost of the rows looked up.
    kl: 'approximation' (eq. 14), 'exact' or 'first' (of the article's first version).
    threshold: deployed weights with log alpha >= threshold are zero. 3 in the paper; choose it on
      validation data for a new problem.
    init_log_sigma2: initial log variance: -10 from scratch, -15 from a trained network.
    clip: bound of |log alpha| in the KL; None for no bound.
    clip_variance: also rebuild the variance from the clipped log alpha in training.

  Trained: `theta` (the weights' dtype) and `log_sigma2` (float32). State: strength, threshold.

  Raises:
    ValueError: for a negative strength or an unknown noise or kl.
  """
  require_nonnegative(strength=strength)
  if noise not in NOISE:
    raise ValueError(f'noise={noise!r} is not one of {", ".join(map(repr, NOISE))}')
  if kl not in KL_FORMS:
    raise ValueError(f'kl={kl!r} is not one of {sorted(KL_FORMS)}')
  if clip_variance and clip is None:
    raise ValueError('clip_variance=True needs a bound; set clip=8.0, say')
  numbers = {'strength': strength, 'threshold': threshold}

  def init(key, weights):
    del key
    log_sigma2 = jax.tree.map(
        lambda w: jnp.full(w.shape, init_log_sigma2, jnp.float32), weights)
    return {'theta': weights, 'log_sigma2': log_sigma2}, initial_numbers(**numbers)

  def log_variance(theta, log_sigma2):
    if not clip_variance:
      return log_sigma2
    theta = theta.astype(jnp.float32)
    bounded = jnp.clip(log_alpha(theta, log_sigma2), -clip, clip)
    return bounded + jnp.log(jnp.square(theta) + EPSILON)

  def variance(theta, log_sigma2):
    if not clip_variance:
      return jnp.exp(log_sigma2)
    theta = theta.astype(jnp.float32)
    bounded = jnp.clip(log_alpha(theta, log_sigma2), -clip, clip)
    return jnp.exp(bounded) * (jnp.square(theta) + EPSILON)

  def weights(params, state, key=None):
    theta, log_sigma2 = params['theta'], params['log_sigma2']
    if key is None:
      def deployed(t, s):
        kept = log_alpha(t.astype(jnp.float32), s) < state['threshold']
        return jnp.where(kept, t, jnp.zeros_like(t))
      return jax.tree.map(deployed, theta, log_sigma2)
    if noise in ('local', 'local_shared'):
      shared = noise == 'local_shared'
      return jax.tree.map(lambda t, s: Gaussian(t, variance(t, s), shared), theta, log_sigma2)
    if noise == 'rows':
      return map_leaves(lambda path, t, s: RowGaussian(t, log_variance(t, s), fold(key, path)),
                        theta, log_sigma2)

    def draw(path, t, s):
      standard = jax.random.normal(fold(key, path), t.shape)
      return t + (jnp.sqrt(variance(t, s)) * standard).astype(t.dtype)
    return map_leaves(draw, theta, log_sigma2)

  def penalty(params, state, key=None):
    del key
    terms = jax.tree.map(lambda t, s: total_kl(t.astype(jnp.float32), s, kl, clip),
                         params['theta'], params['log_sigma2'])
    return state['strength'] * sum(jax.tree.leaves(terms), jnp.zeros(()))

  def update(params, state, *, step, weight_grads=None, key=None):
    del weight_grads, key
    return params, advance_numbers(state, step, **numbers)

  return Regulariser(init, weights, penalty, update)


def log_alphas(params: Tree) -> Tree:
  """Returns the tree of unclipped log alpha, for histograms and for choosing a threshold."""
  return jax.tree.map(lambda t, s: log_alpha(t.astype(jnp.float32), s),
                      params['theta'], params['log_sigma2'])
