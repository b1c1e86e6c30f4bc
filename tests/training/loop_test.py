"""Where training breaks, what it says, and what is left."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.training import fit, loop


@pytest.fixture(scope='module')
def diverging(tiny_recipe):
  """A recipe whose seventh step, in the second epoch of four steps, is far too long."""
  rate = lambda step: jnp.where(step == 6, 1e38, 1e-2)
  return tiny_recipe(optimiser=optax.chain(optax.scale_by_sign(), optax.scale_by_learning_rate(rate)))


def start(recipe, images):
  return jax.jit(lambda key, images: fit.start(recipe, key, images))(jax.random.key(0), images)


def test_epochs_are_numbered_and_continue_from_each_other(tiny_recipe, tiny_data):
  recipe = tiny_recipe()
  data = tuple(map(jnp.asarray, tiny_data))
  state = start(recipe, data[0])
  found = list(loop.run_epochs(recipe, state, *data, first=3, last=5))
  assert [epoch.number for epoch in found] == [3, 4, 5]
  assert [int(epoch.state.step) for epoch in found] == [4, 8, 12]
  _, losses = fit.jit_epoch(recipe)(state, *data)
  np.testing.assert_allclose(found[0].nll, np.mean(losses), rtol=1e-6)
  assert list(loop.run_epochs(recipe, state, *data, first=3, last=2)) == []


def test_divergence_names_epoch_step_and_leaf_and_keeps_the_state_before(diverging, tiny_data):
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


def test_a_poisoned_example_is_found_at_its_step(tiny_recipe, tiny_data):
  images, labels = tiny_data
  images = images.astype(np.float32)
  recipe = tiny_recipe()
  state = start(recipe, jnp.asarray(images))
  order = np.asarray(fit.epoch_order(recipe, state, len(images)))
  images[order[2, 5]] = np.nan
  with pytest.raises(loop.NonFiniteLoss) as caught:
    list(loop.run_epochs(recipe, state, jnp.asarray(images), jnp.asarray(labels), last=1))
  assert (caught.value.epoch, caught.value.step) == (1, 2)
  assert caught.value.last_good is state
  # ReLU passes no gradient where its input is NaN, so the layer before it stays sound.
  assert caught.value.leaf == 'free/head/bias'


def test_parameters_that_break_in_the_last_step_are_seen_though_every_loss_is_finite(
    tiny_recipe, tiny_data):
  recipe = tiny_recipe(optimiser=optax.sgd(lambda step: jnp.where(step == 3, jnp.inf, 1e-3)))
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
