"""Training steps on dense, masked and packed weights: the same step on the same weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsejax
from sparsejax import BlockSparse
from sparsejax.training import step_timing
from sparsejax.training.fit import Recipe

RECIPE = Recipe(nn.Dense(24), sparsejax.partition(), optax.sgd(0.1), 8, 8)


def variables():
  kernel = np.random.default_rng(0).standard_normal((16, 24)).astype(np.float32)
  packed = BlockSparse.from_dense(kernel, 8, mask=np.array([[1, 0, 1], [0, 0, 1]], bool))
  return {'params': {'kernel': packed, 'bias': jnp.zeros(24)}}


def batch():
  images = np.random.default_rng(1).integers(0, 255, (8, 16)).astype(np.uint8)
  return jnp.asarray(images), jnp.arange(8)


def test_all_three_are_timed():
  found = step_timing.training_step_milliseconds(RECIPE, RECIPE.model, variables(), *batch(),
                                                 repeats=2)
  assert set(found) == {f'ms_train_step_{name}{end}' for name in ('dense', 'masked', 'packed')
                        for end in ('', '_lower_quartile', '_upper_quartile')}
  assert all(value > 0 for value in found.values())


def test_packed_and_masked_take_the_same_step(monkeypatch):
  calls = {}

  def run_once(functions, repeats, warmup):
    calls.update({name: function() for name, function in functions.items()})
    return dict.fromkeys(functions, {'median': 1, 'lower_quartile': 1, 'upper_quartile': 1})
  monkeypatch.setattr(step_timing, 'interleaved_milliseconds', run_once)
  before = variables()
  step_timing.training_step_milliseconds(RECIPE, RECIPE.model, before, *batch())
  kernel = before['params']['kernel']
  # Flattened, the bias comes first and the kernel, or its blocks, second.
  (_, masked), (_, blocks) = calls['masked'][0], calls['packed'][0]
  packed = kernel.replace(blocks=blocks).to_dense()
  np.testing.assert_allclose(packed, masked, atol=1e-6)
  moved = np.abs(packed - kernel.to_dense()).max()
  assert moved > 1e-4
  dense = calls['dense'][0][1]
  assert jnp.any(jnp.where(kernel.to_dense() == 0, dense, 0) != 0), 'dense trains every entry'


def test_floats_are_split_from_indices_and_put_back():
  tree = variables()['params']
  values, rebuild = step_timing.split_floats(tree)
  assert all(jnp.issubdtype(value.dtype, jnp.floating) for value in values)
  again = rebuild([2 * value for value in values])
  np.testing.assert_array_equal(again['kernel'].blocks, 2 * tree['kernel'].blocks)
  assert jax.tree.all(jax.tree.map(jnp.array_equal, again['kernel'].layout,
                                   tree['kernel'].layout))
