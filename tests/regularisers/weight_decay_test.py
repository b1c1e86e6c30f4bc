"""Weight decay: half the sum of squares, and the negative log-density of a Gaussian by SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import sparsejax

RNG = np.random.default_rng(0)
W = {'a': {'kernel': RNG.normal(size=(4, 3)).astype(np.float32)},
     'b': {'bias': np.array([0.0, -2.0], np.float32)}}
WEIGHTS = jax.tree.map(jnp.asarray, W)
FLAT = np.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(W)]).astype(np.float64)


def test_penalty_is_a_gaussian_negative_log_density_up_to_its_constant():
  strength = 2.5                                             # a precision
  method = sparsejax.weight_decay(strength)
  value = method.penalty(*method.init(jax.random.key(0), WEIGHTS))
  gaussian = stats.norm(scale=strength ** -0.5)
  wanted = -gaussian.logpdf(FLAT).sum() + FLAT.size * gaussian.logpdf(0.0)
  np.testing.assert_allclose(value, wanted, rtol=1e-6)
  np.testing.assert_allclose(value, 0.5 * strength * (FLAT**2).sum(), rtol=1e-6)


def test_gradient_descent_on_it_shrinks_each_weight_alike():
  method = sparsejax.weight_decay(2.5)
  params, state = method.init(jax.random.key(0), WEIGHTS)
  grads = jax.grad(method.penalty)(params, state, jax.random.key(0))
  np.testing.assert_allclose(grads['a']['kernel'], 2.5 * W['a']['kernel'], rtol=1e-6)
  np.testing.assert_allclose(grads['b']['bias'], [0.0, -5.0], rtol=1e-6)


def test_weights_are_the_trained_ones_and_the_strength_follows_its_schedule():
  method = sparsejax.weight_decay(optax.linear_schedule(1.0, 3.0, 4))
  params, state = method.init(jax.random.key(0), WEIGHTS)
  np.testing.assert_array_equal(method.weights(params, state)['a']['kernel'], W['a']['kernel'])
  _, state = method.update(params, state, step=jnp.int32(0))
  np.testing.assert_allclose(state['strength'], 1.5)


def test_a_negative_strength_is_refused():
  with pytest.raises(ValueError, match='strength=-1'):
    sparsejax.weight_decay(-1.0)
