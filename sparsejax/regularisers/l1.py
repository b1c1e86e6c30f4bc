"""L1 penalty: strength * sum |w| (Tibshirani, 1996). It shrinks; magnitude pruning makes zeros."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparsejax.regulariser import (Number, Regulariser, advance_numbers, initial_numbers,
                                   require_nonnegative)


def l1(strength: Number) -> Regulariser:
  """The negative log-density of a Laplace prior, up to its constant.

  Args:
    strength: nats per unit of |w|, for the whole data set. A number, traced array or schedule.
  """
  require_nonnegative(strength=strength)

  def init(key, weights):
    del key
    return weights, initial_numbers(strength=strength)

  def weights(params, state, key=None):
    del state, key
    return params

  def penalty(params, state, key=None):
    del key
    sums = [_norm(w.astype(jnp.float32)) for w in jax.tree.leaves(params)]
    return state['strength'] * sum(sums, jnp.zeros(()))

  def update(params, state, *, step, weight_grads=None, key=None):
    del weight_grads, key
    return params, advance_numbers(state, step, strength=strength)

  return Regulariser(init, weights, penalty, update)


def _norm(w: jax.Array) -> jax.Array:
  """Returns sum |w|, whose gradient is 0 at w = 0; that of jnp.abs is 1, which moves zeros."""
  return jnp.sum(w * jax.lax.stop_gradient(jnp.sign(w)))
