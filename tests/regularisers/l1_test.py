"""L1: |w| summed in NumPy, its sign as gradient, schedules and other dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax

RNG = np.random.default_rng(0)
W = {'a': {'kernel': RNG.normal(size=(4, 3)).astype(np.float32)},
     'b': {'bias': np.array([0.0, -2.0], np.float32)}}
WEIGHTS = jax.tree.map(jnp.asarray, W)


def test_penalty_and_gradient():
  method = sparsejax.l1(0.7)
  params, state = method.init(jax.random.key(0), WEIGHTS)
  value, grads = jax.value_and_grad(method.penalty)(params, state)
  np.testing.assert_allclose(value, 0.7 * (np.abs(W['a']['kernel']).sum() + 2), rtol=1e-6)
  for name, leaf in (('a', 'kernel'), ('b', 'bias')):
    # 0 at w = 0, so that a zero is not pushed either way
    np.testing.assert_allclose(grads[name][leaf], 0.7 * np.sign(W[name][leaf]), rtol=1e-6)


def test_weights_are_the_trained_ones():
  method = sparsejax.l1(0.7)
  params, state = method.init(jax.random.key(0), WEIGHTS)
  for key in (None, jax.random.key(1)):
    drawn = method.weights(params, state, key)
    np.testing.assert_array_equal(drawn['a']['kernel'], W['a']['kernel'])


def test_a_schedule_moves_the_strength():
  method = sparsejax.l1(optax.linear_schedule(0.0, 1.0, 4))
  params, state = method.init(jax.random.key(0), WEIGHTS)
  assert method.penalty(params, state) == 0.0
  for k in range(1, 4):
    params, state = method.update(params, state, step=jnp.int32(k - 1))
    np.testing.assert_allclose(state['strength'], k / 4)


def test_small_weights_are_summed_in_float32():
  # In bfloat16, with 8 bits, the sum of 1000 ones would stick at 256.
  method = sparsejax.l1(1.0)
  params, state = method.init(jax.random.key(0), {'w': jnp.ones(1000, jnp.bfloat16)})
  assert method.penalty(params, state) == 1000.0


def test_a_negative_strength_is_refused():
  with pytest.raises(ValueError, match='strength=-1'):
    sparsejax.l1(-1.0)
