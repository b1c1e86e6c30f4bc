"""Numbers that a program reads as arguments."""
import jax.numpy as jnp
import numpy as np
import optax

from experiments import build
from experiments.configs.digits import group_lasso_mlp, l0_mlp
from experiments.data import load
from experiments.sweeps import numbers


def test_learning_rates_weight_and_mean_are_found_and_replaced():
  config = l0_mlp.get_config()
  config.optimiser.groups = {'gates': {'leaves': '.*log_alpha', 'learning_rate': 0.5}}
  config.preprocess.subtract_mean = True
  config.penalty_weight = 0.25
  data = load(config)
  recipe = build.recipe(config, data.images)
  found = numbers.numbers_of(config, recipe)
  assert {name: value.shape for name, value in found.items()} == {
      'optimiser.learning_rate': (), 'optimiser.groups.gates.learning_rate': (),
      'penalty_weight': (), 'preprocess.mean': (8, 8, 1)}
  np.testing.assert_array_equal(found['preprocess.mean'], data.images.mean(0, dtype=np.float32))
  other = numbers.with_numbers(config, recipe, 24, {
      'optimiser.learning_rate': jnp.float32(2.0), 'penalty_weight': jnp.float32(7),
      'optimiser.groups.gates.learning_rate': jnp.float32(3.0),
      'preprocess.mean': np.full((8, 8, 1), 255, np.float32)})
  assert other.penalty_weight(3) == 7
  np.testing.assert_array_equal(other.preprocess(jnp.zeros((2, 8, 8, 1))), -jnp.ones((2, 8, 8, 1)))
  params = {'a': {'log_alpha': jnp.ones(1)}, 'b': {'weight': jnp.ones(1)}}
  updates, _ = other.optimiser.update(params, other.optimiser.init(params), params)
  # The first step of Adam is the learning rate, but for 1 - 0.999 in float32, half of 6e-8 off.
  np.testing.assert_allclose(updates['a']['log_alpha'], -3, rtol=2e-5)
  np.testing.assert_allclose(updates['b']['weight'], -2, rtol=2e-5)


def test_schedules_stay_as_they_are():
  config = group_lasso_mlp.get_config()
  with config.ignore_type():
    config.penalty_weight = {'schedule': 'piecewise_linear', 'epochs': (0, 1), 'values': (0.0, 1.0)}
  images = np.zeros((100, 8, 8, 1), np.uint8)
  recipe = build.recipe(config, images)
  assert numbers.numbers_of(config, recipe) == {}
  assert numbers.with_numbers(config, recipe, 2, {}) is recipe
  assert isinstance(recipe.optimiser, optax.GradientTransformation)


def test_only_numbers_that_differ_are_stacked():
  found = numbers.stacked([{'a': np.float32(1), 'b': np.zeros(2)}, {'a': np.float32(1),
                                                                   'b': np.ones(2)}])
  assert {name: value.tolist() for name, value in found.items()} == {'b': [[0, 0], [1, 1]]}
