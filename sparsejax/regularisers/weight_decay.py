"""L2 penalty: 0.5 * strength * sum w^2, the negative log-density of N(0, 1 / strength)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparsejax.regulariser import (Number, Regulariser, advance_numbers, initial_numbers,
                                   require_nonnegative)


def weight_decay(strength: Number) -> Regulariser:
  """Weight decay as a penalty, so that Adam sees it as part of the loss.

  Args:
    strength: nats per unit of w^2 / 2, for the whole data set: the precision of a Gaussian prior.
      A per-example decay of 5e-4 on N examples is 5e-4 * N.
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
    squares = [jnp.square(w.astype(jnp.float32)).sum() for w in jax.tree.leaves(params)]
    return 0.5 * state['strength'] * sum(squares, jnp.zeros(()))

  def update(params, state, *, step, weight_grads=None, key=None):
    del weight_grads, key
    return params, advance_numbers(state, step, strength=strength)

  return Regulariser(init, weights, penalty, update)
