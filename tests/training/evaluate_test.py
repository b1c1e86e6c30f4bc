"""Logits in batches, and the numbers of the deployed network, against NumPy."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import sparsejax
from sparsejax.models.lenet import MLP
from sparsejax.training import evaluate, fit


@pytest.fixture(scope='module')
def trained():
  """(recipe, state) of softmax regression whose average differs from its params and has zeros."""
  regulariser = sparsejax.partition(
      kernels=('.*kernel', sparsejax.group_lasso(0.5, axis=-2, threshold=0.2)))
  recipe = fit.Recipe(MLP(widths=(), classes=3), regulariser, optax.sgd(0.1), 100, 10,
                      ema_decay=0.9)
  rng = np.random.default_rng(2)
  state = fit.start(recipe, jax.random.key(0), np.zeros((1, 2, 2, 1), np.uint8))
  kernel = rng.normal(size=(4, 3)).astype(np.float32)
  kernel[1] *= 0.01
  average = {'kernels': {'head': {'kernel': jnp.asarray(kernel * (1 - 0.9**3))}},
             'free': {'head': {'bias': jnp.asarray([0.1, 0, -0.1]) * (1 - 0.9**3)}}}
  return recipe, state._replace(average=average, step=jnp.int32(3)), kernel


def numpy_logits(kernel, images):
  kernel = kernel.astype(np.float64) * (np.arange(4) != 1)[:, None]   # row 1 is below the threshold
  return images.reshape(len(images), -1) / 255 @ kernel + np.array([0.1, 0, -0.1])


@pytest.mark.parametrize('count', [3, evaluate.EVALUATION_BATCH, 2 * evaluate.EVALUATION_BATCH + 7])
def test_logits_do_not_depend_on_the_batches(trained, count):
  recipe, state, kernel = trained
  images = np.random.default_rng(count).integers(0, 256, (count, 2, 2, 1)).astype(np.uint8)
  variables = {'params': evaluate.deployed_weights(recipe, state)}
  found = evaluate.jit_logits(recipe)(variables, images)
  # Four float32 products each.
  np.testing.assert_allclose(found, numpy_logits(kernel, images), rtol=0, atol=2e-6)


def test_the_summary_is_of_the_deployed_average(trained):
  recipe, state, kernel = trained
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (20, 2, 2, 1)).astype(np.uint8)
  labels = rng.integers(0, 3, 20).astype(np.int32)
  numbers = evaluate.host_numbers(evaluate.jit_summary(recipe)(state, images, labels))
  logits = numpy_logits(kernel, images)
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  assert numbers['nll_nats'] == pytest.approx(-log_p[np.arange(20), labels].mean(), rel=1e-5)
  assert numbers['error_percent'] == pytest.approx(100 * np.mean(logits.argmax(1) != labels))
  assert numbers['density'] == numbers['density/head/kernel'] == 0.75
  # The penalty is of the raw params, which the loss saw.
  raw = np.asarray(state.params['kernels']['head']['kernel'], np.float64)
  wanted = 0.5 * np.sqrt(3) * np.linalg.norm(raw, axis=1).sum()
  assert numbers['penalty_nats'] == pytest.approx(wanted, rel=1e-5)


def test_blocks_are_counted_by_their_entries():
  method = sparsejax.partition(kernels=('.*kernel', sparsejax.block_sparse((1, 3), density=0.5)))
  recipe = fit.Recipe(MLP(widths=(), classes=3), method, optax.sgd(0.1), 100, 10)
  images = np.zeros((2, 2, 2, 1), np.uint8)
  state = fit.start(recipe, jax.random.key(0), images)
  labels = np.zeros(2, np.int32)
  numbers = evaluate.host_numbers(evaluate.jit_summary(recipe)(state, images, labels))
  assert numbers['density'] == numbers['density/head/kernel'] == 0.5     # 2 of 4 rows


class Bigram(nn.Module):
  """Logits of the next of four symbols, from a table alone; (n, T) -> (n, T, 4)."""

  @nn.compact
  def __call__(self, tokens):
    return nn.Embed(4, 4, name='table')(tokens)


@pytest.mark.parametrize('count', [3, evaluate.EVALUATION_BATCH + 2])
def test_sequences_keep_their_positions(count):
  recipe = fit.Recipe(Bigram(), sparsejax.partition(), optax.sgd(0.1), 100, 10,
                      preprocess=fit.as_tokens, loss=fit.token_cross_entropy)
  rng = np.random.default_rng(count)
  tokens, labels = rng.integers(0, 4, (2, count, 5))
  tokens, labels = tokens.astype(np.uint8), labels.astype(np.int32)
  state = fit.start(recipe, jax.random.key(0), tokens)
  table = np.asarray(state.params['free']['table']['embedding'], np.float64)
  logits = evaluate.jit_logits(recipe)({'params': evaluate.deployed_weights(recipe, state)}, tokens)
  np.testing.assert_array_equal(logits, table[tokens])
  numbers = evaluate.host_numbers(evaluate.jit_summary(recipe)(state, tokens, labels))
  log_p = table - np.log(np.exp(table).sum(1, keepdims=True))
  assert numbers['nll_nats'] == pytest.approx(-log_p[tokens, labels].mean(), rel=1e-5)
  wrong = table.argmax(1)[tokens] != labels
  assert numbers['error_percent'] == pytest.approx(100 * wrong.mean(), rel=1e-5)
