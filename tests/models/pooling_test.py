"""Max-pooling is Flax's, its gradient too where nothing ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sparsejax.models.pooling import max_pool_2x2


def stock(x):
  return nn.max_pool(x, (2, 2), (2, 2))


@pytest.mark.parametrize(('shape', 'dtype'), [
    ((3, 8, 6, 4), jnp.float32), ((2, 7, 5, 1), jnp.float32), ((1, 2, 2, 3), jnp.float32),
    ((2, 6, 5, 3), jnp.bfloat16),      # 180 integers, which bfloat16 still tells apart
])
def test_value_and_gradient_are_those_of_flax(shape, dtype):
  distinct = jax.random.permutation(jax.random.key(0), jnp.arange(np.prod(shape)))
  x = distinct.reshape(shape).astype(dtype)
  y, pull = jax.vjp(max_pool_2x2, x)
  wanted, stock_pull = jax.vjp(stock, x)
  assert y.dtype == dtype
  np.testing.assert_array_equal(y, wanted)
  g = jax.random.normal(jax.random.key(1), y.shape, dtype)
  np.testing.assert_array_equal(pull(g)[0], stock_pull(g)[0])


def test_ties_share_the_gradient():
  x = jnp.array([[1.0, 1.0], [0.0, 1.0]]).reshape(1, 2, 2, 1)
  got = jax.grad(lambda x: 6 * max_pool_2x2(x).sum())(x).reshape(2, 2)
  np.testing.assert_allclose(got, [[2.0, 2.0], [0.0, 2.0]], rtol=1e-6)


def test_behind_a_relu_it_equals_flax_at_all_zero_windows():
  x = jax.random.normal(jax.random.key(0), (4, 6, 6, 3)) - 0.5

  def loss(pool):
    return lambda x: jnp.sum(jnp.sin(pool(nn.relu(x))))
  np.testing.assert_allclose(jax.grad(loss(max_pool_2x2))(x), jax.grad(loss(stock))(x), rtol=1e-6)


def test_under_vmap_and_scan():
  x = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))
  grad = jax.grad(lambda x: jnp.square(max_pool_2x2(x)).sum())
  many = jax.jit(jax.vmap(grad))(x)
  _, scanned = jax.lax.scan(lambda carry, one: (carry, grad(one)), 0, x)
  for i in range(2):
    np.testing.assert_allclose(many[i], grad(x[i]), rtol=1e-6)
    np.testing.assert_allclose(scanned[i], grad(x[i]), rtol=1e-6)
