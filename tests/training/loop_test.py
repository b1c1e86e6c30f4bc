"""Where training breaks, what it says, and what is left."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.models.lenet import MLP
from sparsejax.training import fit, loop


def plain_recipe(rate=1e-2):
  """A network without a method, four steps an epoch."""
  return fit.Recipe(MLP(widths=(5,), classes=4), sparsejax.partition(), optax.sgd(rate), 44, 10)


def start(recipe, images):
  return jax.jit(lambda key, images: fit.start(recipe, key, images))(jax.random.key(0), images)


def test_epochs_are_numbered_and_continue_from_each_other(tiny_data):
  recipe = plain_recipe()
  data = tuple(map(jnp.asarray, tiny_data))
  state = start(recipe, data[0])
  found = list(loop.run_epochs(recipe, state, *data, first=3, last=5))
  assert [epoch.number for epoch in found] == [3, 4, 5]
  assert [int(epoch.state.step) for epoch in found] == [4, 8, 12]
  _, losses = fit.jit_epoch(recipe)(state, *data)
  np.testing.assert_allclose(found[0].nll, np.mean(losses), rtol=1e-6)
  assert list(loop.run_epochs(recipe, state, *data, first=3, last=2)) == []


def test_divergence_names_epoch_step_and_leaf_and_keeps_the_state_before(tiny_data):
  diverging = plain_recipe(lambda step: jnp.where(step == 6, 1e38, 1e-2))
  data = tuple(map(jnp.asarray, tiny_data))
  epochs = loop.run_epochs(diverging, start(diverging, data[0]), *data, last=5)
  good = next(epochs)
  with pytest.raises(loop.NonFiniteLoss) as caught:
    next(epochs)
  error = caught.value
  # Step 6 in all, which is 2 of its epoch, leaves huge but finite parameters; the next loss breaks.
  assert (error.epoch, error.step) == (2, 3)
  assert error.last_good is good.state and int(error.last_good.step) == 4
  assert error.leaf in str(error) and 'epoch 2, step 3' in str(error)
  for word in ('learning rate', 'strength', 'checkpoint'):
    assert word in str(error)


def test_a_poisoned_example_is_found_at_its_step(tiny_data):
  images, labels = tiny_data
  images = images.astype(np.float32)
  recipe = plain_recipe()
  state = start(recipe, jnp.asarray(images))
  order = np.asarray(fit.epoch_order(recipe, state, len(images)))
  images[order[2, 5]] = np.nan
  with pytest.raises(loop.NonFiniteLoss) as caught:
    list(loop.run_epochs(recipe, state, jnp.asarray(images), jnp.asarray(labels), last=1))
  assert (caught.value.epoch, caught.value.step) == (1, 2)
  assert caught.value.last_good is state
  # ReLU passes 0 back where its input is NaN: dense0/bias stays sound, the kernel gets 0 x NaN.
  assert caught.value.leaf == 'free/dense0/kernel'


def test_parameters_that_break_in_the_last_step_are_seen_though_every_loss_is_finite(
    tiny_data):
  recipe = plain_recipe(lambda step: jnp.where(step == 3, jnp.inf, 1e-3))
  data = tuple(map(jnp.asarray, tiny_data))
  with pytest.raises(loop.NonFiniteLoss) as caught:
    list(loop.run_epochs(recipe, start(recipe, data[0]), *data, last=1))
  assert (caught.value.epoch, caught.value.step) == (1, 3)
  assert caught.value.leaf != 'not reproduced step by step'


def test_first_non_finite_names_the_path():
  tree = {'a': {'kernel': jnp.ones(3)}, 'b': {'kernel': jnp.array([0.0, jnp.inf])},
          'c': jnp.array(jnp.nan)}
  assert loop.first_non_finite(tree) == 'b/kernel'
  assert loop.first_non_finite({'a': jnp.ones(3), 'mask': jnp.zeros(2, bool)}) is None
