"""The unrolled form, whose pattern is part of the program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import BlockSparse
from sparsejax.kernels.block_sparse import block_sparse_matmul, cost
from sparsejax.kernels.block_sparse.backend import Problem

RNG = np.random.default_rng(0)


def weight(**options):
  mask = RNG.random((4, 5)) < 0.4
  mask[:, 1] = False
  dense = RNG.standard_normal((30, 40)).astype(np.float32)
  return BlockSparse.from_dense(dense, 8, mask=mask, pad=True, **options)


def test_it_equals_the_dense_product_and_has_its_gradients():
  frozen = weight().freeze()
  x = jnp.asarray(RNG.standard_normal((6, 30)), jnp.float32)

  def ours(x, blocks):
    w = frozen.replace(blocks=blocks)
    return block_sparse_matmul(x, w, activation='tanh', implementation='xla/unroll')

  def dense(x, blocks):
    return jnp.tanh(x @ frozen.replace(blocks=blocks).to_dense())
  # Sums of 30 terms in float32.
  np.testing.assert_allclose(jax.jit(ours)(x, frozen.blocks), dense(x, frozen.blocks), atol=1e-5)
  cotangent = jnp.ones((6, 40))
  found, expected = (jax.vjp(f, x, frozen.blocks)[1](cotangent) for f in (ours, dense))
  for a, b in zip(found, expected):
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_pattern_that_can_change_is_not_unrolled():
  moving = weight(capacity=30)
  with pytest.raises(ValueError, match='spare entries; build it without capacity to freeze it'):
    moving.freeze()
  with pytest.raises(ValueError, match='xla/unroll for a weight that was frozen'):
    block_sparse_matmul(jnp.ones((2, 30)), moving, implementation='xla/unroll')
  frozen = weight().freeze()
  assert frozen.with_layout(frozen.mask()).frozen is None


def test_it_is_considered_for_small_frozen_patterns_alone():
  problem = Problem(8, (8, 8), (4, 4), 4, 'float32', 'cpu', frozen=((0,), (1,), (2,), (3,)))
  assert 'unroll' in cost.xla_forms('matmul', problem)
  assert 'unroll' not in cost.xla_forms('transposed', problem)
  assert 'unroll' not in cost.xla_forms('matmul', problem._replace(frozen=None))
  assert 'unroll' not in cost.xla_forms('matmul', problem._replace(entries=1000))
