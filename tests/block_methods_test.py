"""Methods that take whole blocks away, from training to a packed weight that computes the same."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax import BlockSparse
from sparsejax.models.lenet import MLP
from sparsejax.training.fit import Preprocess, Recipe, jit_epoch, start

METHODS = {
    'magnitude': sparsejax.magnitude_pruning(0.75, begin=5, granularity=(16, 8)),
    'l0': sparsejax.blockwise(sparsejax.l0_hard_concrete(0.1, axis=-2, drop_rate=0.9), (16, 8)),
    'group_lasso': sparsejax.blockwise(
        sparsejax.group_lasso(2.0, axis=-2, threshold=0.02), (16, 8)),
}


@pytest.mark.parametrize('name', METHODS)
def test_trained_by_blocks_and_packed(name):
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 4, 256).astype(np.int32)
  images = rng.standard_normal((256, 64)).astype(np.float32)
  images[np.arange(256), labels] += 4           # the first four inputs say the class
  recipe = Recipe(MLP((32,), classes=4), sparsejax.partition(blocks=('dense0/kernel',
                                                                     METHODS[name])),
                  optax.adam(2e-2), len(images), 32, preprocess=Preprocess(1.0))
  state = start(recipe, jax.random.key(0), jnp.asarray(images))
  epoch = jit_epoch(recipe)
  for _ in range(12):
    state, _ = epoch(state, jnp.asarray(images), jnp.asarray(labels))
  weights = sparsejax.finalise(recipe.regulariser, state.params, state.method_state)
  packed, (found,) = sparsejax.pack(weights, {'dense0/kernel': (16, 8)}, rows=8, force=True)
  assert isinstance(packed['dense0']['kernel'], BlockSparse)
  assert 0 < found.density < 0.8, 'whole blocks are gone, and not all of them'
  dense = recipe.model.apply({'params': weights}, images)
  ours = sparsejax.apply(recipe.model, {'params': packed}, images)
  # Sums of 64 and 32 terms in float32: 96 roundings of 2^-24 are 6e-6.
  np.testing.assert_allclose(ours, dense, atol=1e-5 * np.abs(dense).max())
