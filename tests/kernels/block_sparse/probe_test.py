"""The probe's answer against norms of the dense gradient's blocks, and when it is formed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.kernels.block_sparse import BlockSparse, block_sparse_matmul
from sparsejax.kernels.block_sparse.probe import Probe

RNG = np.random.default_rng(0)


def problem(shape, block, dtype=np.float32):
  weight = BlockSparse.from_dense(RNG.normal(size=shape).astype(np.float32), block, density=0.4,
                                  pad=True)
  weight = weight.replace(blocks=weight.blocks.astype(dtype))
  x = jnp.asarray(RNG.normal(size=(2, 5, shape[0])), dtype)
  return x, weight


def block_norms(gradient, block):
  rows, columns = (-(-n // b) for n, b in zip(gradient.shape, block))
  return np.array([[np.linalg.norm(gradient[i * block[0]:(i + 1) * block[0],
                                            j * block[1]:(j + 1) * block[1]])
                    for j in range(columns)] for i in range(rows)])


def probed(weight, due=True):
  return weight.replace(probe=Probe(jnp.zeros(weight.grid), jnp.asarray(due)))


@pytest.mark.slow
@pytest.mark.parametrize('shape, block, options', [
    ((8, 12), (2, 3), {}),
    ((7, 10), (4, 4), {'activation': 'gelu', 'bias': True, 'input_gate': True,
                       'output_gate': True})])
def test_the_answer_is_the_norm_of_each_block_of_the_dense_gradient(shape, block, options):
  x, weight = problem(shape, block)
  options = dict(options)
  for name, size in (('bias', shape[1]), ('output_gate', shape[1]), ('input_gate', shape[0])):
    if options.get(name):
      options[name] = jnp.asarray(RNG.normal(size=size), jnp.float32)
  cotangent = jnp.asarray(RNG.normal(size=(2, 5, shape[1])), jnp.float32)

  def loss(weight):
    return jnp.vdot(block_sparse_matmul(x, weight, **options), cotangent)

  def dense_loss(dense):
    z = jnp.einsum('bti,ij->btj', x * options.get('input_gate', jnp.ones(shape[0]))[None, None],
                   dense) + options.get('bias', jnp.zeros(shape[1]))[None, None]
    z = jax.nn.gelu(z) if 'activation' in options else z
    return jnp.vdot(z * options.get('output_gate', jnp.ones(shape[1]))[None, None], cotangent)
  value, got = jax.jit(jax.value_and_grad(loss, allow_int=True))(probed(weight))
  plain, wanted = jax.value_and_grad(loss, allow_int=True)(weight)
  # float32 sums of ten products, in another order.
  np.testing.assert_allclose(value, plain, rtol=1e-5)
  np.testing.assert_allclose(got.blocks, wanted.blocks, rtol=1e-4, atol=1e-5)
  dense = np.asarray(jax.grad(dense_loss)(weight.to_dense()), np.float64)
  np.testing.assert_allclose(got.probe.scores, block_norms(dense, block), rtol=1e-4, atol=1e-5)


def test_bfloat16_answers_in_float32():
  x, weight = problem((8, 8), (4, 4), jnp.bfloat16)
  grad = jax.grad(lambda w: block_sparse_matmul(x, w).sum().astype(jnp.float32),
                  allow_int=True)(probed(weight))
  rows = np.asarray(x, np.float64).reshape(-1, 8)
  wanted = block_norms(rows.T @ np.ones((10, 8)), (4, 4))
  assert grad.probe.scores.dtype == jnp.float32 and grad.blocks.dtype == jnp.bfloat16
  np.testing.assert_allclose(grad.probe.scores, wanted, rtol=1e-5)


def test_steps_that_do_not_ask_get_zeros_and_skip_the_products():
  x, weight = problem((8, 12), (2, 3))

  def scores(due):
    weights = probed(weight, due)
    return jax.grad(lambda w: block_sparse_matmul(x, w).sum(), allow_int=True)(weights).probe.scores
  np.testing.assert_array_equal(scores(False), 0)
  assert np.all(np.asarray(scores(True)) > 0)
  # In the program the norms stand in one branch of a condition.
  text = jax.jit(scores).lower(True).as_text()
  assert text.count('stablehlo.case') == 1
