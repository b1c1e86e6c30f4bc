"""Formulas and draws give the same with and without jit, as trees of the same shapes and types."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import parameterized

import sparsejax
from sparsejax.models import MLP
from sparsejax.regularisers import hard_concrete, log_uniform
from sparsejax.testing import example_weights
from sparsejax.training.fit import Recipe, start, train_step

LOG_ALPHA = np.linspace(-6, 6, 13, dtype=np.float32)


class VariantsTest(chex.TestCase):

  @chex.variants(with_jit=True, without_jit=True)
  def test_gates(self):
    probability = self.variant(hard_concrete.nonzero_probability)(LOG_ALPHA)
    wanted = 1 / (1 + np.exp(-(LOG_ALPHA - 2 / 3 * np.log(0.1 / 1.1))))
    np.testing.assert_allclose(probability, wanted, rtol=1e-5)

  @chex.variants(with_jit=True, without_jit=True)
  def test_kl(self):
    value = self.variant(log_uniform.kl_exact)(np.float32([-8, -3, 0, 3]))
    # The table of the exact divergence, to its five places.
    np.testing.assert_allclose(value, [4.63501, 2.10798, 0.42669, 0.02469], atol=2e-5)

  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters('l0_hard_concrete', 'l1', 'group_lasso', 'weight_decay')
  def test_drawn_weights_have_the_shapes_and_types_given(self, name):
    method = getattr(sparsejax, name)(0.1)
    weights = example_weights(jax.random.key(0))
    params, state = self.variant(method.init)(jax.random.key(1), weights)
    drawn = self.variant(method.weights)(params, state, jax.random.key(2))
    chex.assert_trees_all_equal_shapes_and_dtypes(drawn, weights)
    chex.assert_tree_all_finite((drawn, self.variant(method.penalty)(params, state)))


def test_a_batch_whose_labels_do_not_fit_is_refused():
  images = jnp.zeros((4, 3, 3, 1), jnp.uint8)
  recipe = Recipe(MLP((2,), 3), sparsejax.partition(), optax.sgd(0.1), num_terms=4, batch_size=4)
  state = start(recipe, jax.random.key(0), images)
  with pytest.raises(AssertionError, match='shape'):
    train_step(recipe, state, images, jnp.zeros(5, jnp.int32))
  with pytest.raises(AssertionError, match='rank'):
    train_step(recipe, state, images, jnp.zeros((4, 1), jnp.int32))
