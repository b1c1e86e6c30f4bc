"""Steps and epochs against NumPy, closed forms and single runs."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import sparsejax
from sparsejax.models.convnet import ConvNet
from sparsejax.models.lenet import MLP
from sparsejax.paths import flatten
from sparsejax.training import fit

# Sums of at most 10 float32 products, each off by half a unit in the last place (6e-8).
FLOAT32 = 1e-6


def leaves(tree):
  """The arrays of a state, its key as raw words."""
  return [np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
                     else leaf) for leaf in jax.tree.leaves(tree)]


def assert_close(found, wanted, tolerance):
  """Compares each leaf relative to its own largest entry."""
  for a, b in zip(leaves(found), leaves(wanted), strict=True):
    scale = max(float(np.max(np.abs(b.astype(np.float64)), initial=0)), 1e-12)
    np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=0,
                               atol=tolerance * scale)


def start(recipe, seed, images):
  """The state before the first step, by one compilation instead of one for each operation."""
  return jax.jit(lambda key, images: fit.start(recipe, key, images))(jax.random.key(seed), images)


def plain_regulariser():
  """Plain weights under an L2 penalty, whose gradient is known by heart."""
  return sparsejax.partition(kernels=('.*kernel', sparsejax.weight_decay(3.0)))


# --- the order of an epoch ------------------------------------------------------------------------


def test_epoch_order_is_a_prefix_of_a_permutation(tiny_recipe, tiny_data):
  recipe = tiny_recipe()
  state = start(recipe, 0, tiny_data[0])
  order = np.asarray(fit.epoch_order(recipe, state, 44))
  assert order.shape == (4, 10)
  assert len(set(order.ravel())) == 40 and order.min() >= 0 and order.max() < 44


def test_epoch_order_repeats_for_a_state_and_differs_between_epochs_and_keys(tiny_recipe,
                                                                              tiny_data):
  recipe = tiny_recipe()
  state = start(recipe, 0, tiny_data[0])
  orders = [np.asarray(fit.epoch_order(recipe, s, 44)).tobytes() for s in (
      state, state._replace(step=state.step + 4), state._replace(step=state.step + 8),
      state._replace(key=jax.random.key(1)))]
  assert orders[0] == np.asarray(fit.epoch_order(recipe, state, 44)).tobytes()
  assert len(set(orders)) == 4


def test_epoch_order_takes_each_example_equally_often(tiny_recipe, tiny_data):
  recipe = tiny_recipe(batch_size=4)
  state = start(recipe, 0, tiny_data[0])
  draws = 2000
  steps = jnp.arange(draws, dtype=jnp.int32)
  first = jax.vmap(lambda step: fit.epoch_order(recipe, state._replace(step=step), 6)[0])(steps)
  counts = np.bincount(np.asarray(first).ravel(), minlength=6)
  p = 4 / 6
  # Five standard deviations of a binomial count.
  assert np.all(np.abs(counts - draws * p) < 5 * np.sqrt(draws * p * (1 - p)))


def test_a_batch_larger_than_the_data_is_an_error(tiny_recipe, tiny_data):
  recipe = tiny_recipe(batch_size=50)
  state = start(recipe, 0, tiny_data[0])
  with pytest.raises(ValueError, match='batch_size=50 exceeds the 44 training examples'):
    fit.epoch_order(recipe, state, 44)


# --- one step -------------------------------------------------------------------------------------


def numpy_softmax_step(kernel, bias, velocity, x, labels, decay, rate, momentum):
  """One SGD step with momentum on softmax regression with 0.5 decay |kernel|^2, in float64."""
  logits = x @ kernel + bias
  logits -= logits.max(1, keepdims=True)
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  nll = -np.log(p[np.arange(len(labels)), labels]).mean()
  p[np.arange(len(labels)), labels] -= 1
  p /= len(labels)
  grads = (x.T @ p + decay * kernel, p.sum(0))
  velocity = [momentum * v + g for v, g in zip(velocity, grads, strict=True)]
  return kernel - rate * velocity[0], bias - rate * velocity[1], velocity, nll


def test_three_steps_equal_numpy_and_the_loss_leaves_the_penalty_out(tiny_data):
  images, labels = tiny_data
  recipe = fit.Recipe(MLP(widths=(), classes=4), plain_regulariser(),
                      optax.sgd(0.3, momentum=0.9), num_terms=44, batch_size=10,
                      penalty_weight=lambda step: 0.5 * (step + 1),
                      preprocess=fit.Preprocess(1 / 100, images.astype(np.float32).mean(0)))
  state = start(recipe, 0, images)
  weights = recipe.regulariser.weights(state.params, state.method_state)['head']
  kernel, bias = (np.asarray(weights[name], np.float64) for name in ('kernel', 'bias'))
  velocity = [np.zeros_like(kernel), np.zeros_like(bias)]
  mean = images.astype(np.float64).mean(0)
  step = jax.jit(lambda state, x, y: fit.train_step(recipe, state, x, y))
  for i in range(3):
    batch = slice(10 * i, 10 * i + 10)
    x = ((images[batch].astype(np.float64) - mean) / 100).reshape(10, -1)
    # weight_decay(3.0) in nats for the data set, warmed up, per example.
    decay = 3.0 * 0.5 * (i + 1) / 44
    kernel, bias, velocity, nll = numpy_softmax_step(
        kernel, bias, velocity, x, labels[batch], decay, 0.3, 0.9)
    state, loss = step(state, images[batch], labels[batch])
    np.testing.assert_allclose(float(loss), nll, rtol=FLOAT32)
  weights = recipe.regulariser.weights(state.params, state.method_state)['head']
  assert int(state.step) == 3
  # Three steps, each relative to entries of order one.
  np.testing.assert_allclose(weights['kernel'], kernel, rtol=0, atol=3 * FLOAT32)
  np.testing.assert_allclose(weights['bias'], bias, rtol=0, atol=3 * FLOAT32)


@pytest.fixture(scope='module')
def gated_run(tiny_recipe, tiny_data):
  """The recipe with gates and EMA, its compiled epoch, its start, and one epoch of it."""
  recipe = tiny_recipe(ema_decay=0.9)
  epoch = fit.jit_epoch(recipe)
  state = start(recipe, 3, tiny_data[0])
  return recipe, epoch, state, *epoch(state, *map(jnp.asarray, tiny_data))


def test_an_epoch_equals_its_steps(gated_run, tiny_data):
  recipe, _, state, after, losses = gated_run
  images, labels = tiny_data
  step = jax.jit(lambda state, x, y: fit.train_step(recipe, state, x, y))
  history, single = [], []
  for batch in np.asarray(fit.epoch_order(recipe, state, 44)):
    state, loss = step(state, images[batch], labels[batch])
    history.append(state.params)
    single.append(float(loss))
  # Adam divides by root mean squares, which can enlarge roundings of tiny gradients: hence 1e-5.
  assert_close(after, state, 1e-5)
  np.testing.assert_allclose(losses, single, rtol=1e-5)

  # Closed form: sum_i (1 - d) d^(k - i) p_i / (1 - d^k).
  factors = 0.1 * 0.9 ** np.arange(3, -1, -1)
  wanted = jax.tree.map(
      lambda *values: sum(f * np.asarray(v, np.float64)
                          for f, v in zip(factors, values, strict=True)) / (1 - 0.9**4), *history)
  assert_close(fit.evaluation_params(recipe, state), wanted, FLOAT32 / (1 - 0.9**4))


def test_without_ema_the_raw_params_are_deployed(tiny_recipe, tiny_data):
  recipe = tiny_recipe()
  state = start(recipe, 3, tiny_data[0])
  assert state.average is None and fit.evaluation_params(recipe, state) is state.params


def test_weight_gradients_for_a_method_that_ignores_them_change_nothing(gated_run, tiny_data):
  recipe, _, state, after, losses = gated_run
  asking = recipe._replace(regulariser=recipe.regulariser._replace(needs_weight_grads=True))
  other, other_losses = fit.jit_epoch(asking)(state, *map(jnp.asarray, tiny_data))
  assert_close(other, after, 1e-5)
  np.testing.assert_allclose(other_losses, losses, rtol=1e-5)


def test_weight_gradients_are_those_of_the_nll_alone(tiny_data):
  images, labels = tiny_data
  plain = plain_regulariser()

  def update(params, state, *, step, weight_grads=None, key=None):
    del step, key
    return params, {**state, 'seen': weight_grads}

  def init(key, weights):
    params, state = plain.init(key, weights)
    return params, {**state, 'seen': jax.tree.map(jnp.zeros_like, weights)}

  recording = plain._replace(init=init, update=update, needs_weight_grads=True)
  recipe = fit.Recipe(MLP(widths=(), classes=4), recording, optax.sgd(0.1), 44, 10)
  state = start(recipe, 0, images)
  weights = recording.weights(state.params, state.method_state)['head']
  after, _ = jax.jit(lambda *args: fit.train_step(recipe, *args))(state, images[:10], labels[:10])
  x = images[:10].astype(np.float64).reshape(10, -1) / 255
  kernel, bias = (np.asarray(weights[name], np.float64) for name in ('kernel', 'bias'))
  new_kernel, new_bias, _, _ = numpy_softmax_step(
      kernel, bias, [0 * kernel, 0 * bias], x, labels[:10], 0.0, 1.0, 0.0)
  seen = after.method_state['seen']['head']
  np.testing.assert_allclose(seen['kernel'], kernel - new_kernel, rtol=0, atol=FLOAT32)
  np.testing.assert_allclose(seen['bias'], bias - new_bias, rtol=0, atol=FLOAT32)


def test_a_population_equals_its_single_runs(gated_run, tiny_data):
  recipe, epoch, state, after, losses = gated_run
  data = tuple(map(jnp.asarray, tiny_data))
  second = start(recipe, 4, data[0])
  both = jax.tree.map(lambda *members: jnp.stack(members), state, second)
  population = jax.jit(jax.vmap(functools.partial(fit.train_epoch, recipe), (0, None, None)))
  states, all_losses = population(both, *data)
  first = jax.tree.map(lambda leaf: leaf[0], states)
  assert_close(first, after, 1e-5)
  np.testing.assert_allclose(all_losses[0], losses, rtol=1e-5)
  second, second_losses = epoch(second, *data)
  assert_close(jax.tree.map(lambda leaf: leaf[1], states), second, 1e-5)
  np.testing.assert_allclose(all_losses[1], second_losses, rtol=1e-5)
  assert not np.allclose(all_losses[0], all_losses[1])


def test_a_schedule_in_state_equals_the_schedule_at_the_step(tiny_recipe, tiny_data):
  schedule = optax.linear_schedule(1.0, 3.0, 7)
  recipe = tiny_recipe(
      model=MLP(widths=(), classes=4), optimiser=optax.sgd(0.1),
      regulariser=sparsejax.partition(decay=('.*kernel', sparsejax.weight_decay(schedule))))
  state = start(recipe, 0, tiny_data[0])
  assert float(state.method_state['decay']['strength']) == 1.0
  epoch = fit.jit_epoch(recipe)
  for k in (4, 8):                     # past the end of the schedule as well
    state, _ = epoch(state, *map(jnp.asarray, tiny_data))
    np.testing.assert_allclose(state.method_state['decay']['strength'], schedule(k), rtol=1e-7)


# --- models with state and noise of their own -----------------------------------------------------


def test_batch_norm_trains_and_its_statistics_follow_the_batches(tiny_data):
  images, labels = map(jnp.asarray, tiny_data)
  recipe = fit.Recipe(
      ConvNet(widths=(3,), classes=4, pool_after=(0,), momentum=0.5),
      sparsejax.partition(gates=('head/kernel', sparsejax.l0_hard_concrete(0.01))),
      optax.adam(2e-2), 44, 44, train_kwargs={'train': True}, eval_kwargs={'train': False})
  state = start(recipe, 0, images)
  weights = recipe.regulariser.weights(state.params, state.method_state)
  _, wanted = recipe.model.apply({'params': weights, **state.collections},
                                 recipe.preprocess(images), train=True,
                                 mutable=['batch_stats'])
  epoch = fit.jit_epoch(recipe)
  state, first = epoch(state, images, labels)                  # one step, on all images
  # The gates lie behind the norm, so the statistics are those of plain weights.
  assert_close(state.collections, wanted, 1e-5)

  losses = [float(first[0])]
  for _ in range(60):
    state, loss = epoch(state, images, labels)
    losses.append(float(loss.mean()))
  assert all(np.all(np.isfinite(leaf)) for leaf in leaves(state.collections))
  assert np.mean(losses[-3:]) < 0.6 * losses[0]


class Dropping(nn.Module):
  """A stock model with dropout."""

  @nn.compact
  def __call__(self, x, train: bool = False):
    x = nn.relu(nn.Dense(16, name='hidden')(x.reshape(x.shape[0], -1)))
    return nn.Dense(4, name='head')(nn.Dropout(0.5, deterministic=not train)(x))


def test_dropout_trains_with_new_noise_each_step_and_none_in_evaluation(tiny_data):
  images, labels = map(jnp.asarray, tiny_data)
  recipe = fit.Recipe(Dropping(), plain_regulariser(), optax.set_to_zero(), 44, 11,
                      train_kwargs={'train': True}, eval_kwargs={'train': False})
  state = start(recipe, 0, images)
  assert set(flatten(state.params)) == {'free/hidden/bias', 'free/head/bias',
                                        'kernels/hidden/kernel', 'kernels/head/kernel'}
  step = jax.jit(lambda state: fit.train_step(recipe, state, images[:11], labels[:11]))
  state, first = step(state)
  again, second = step(state)
  assert float(first) != float(second)                            # nothing else has changed
  assert float(step(state)[1]) == float(second) and int(again.step) == 2

  trained = recipe._replace(optimiser=optax.adam(2e-2))
  state = start(trained, 0, images)
  epoch = fit.jit_epoch(trained)
  losses = []
  for _ in range(15):
    state, loss = epoch(state, images, labels)
    losses.append(float(loss.mean()))
  assert np.mean(losses[-3:]) < 0.6 * losses[0]


def test_the_loss_of_a_text_is_the_mean_over_its_tokens():
  rng = np.random.default_rng(3)
  logits = rng.standard_normal((2, 5, 4)).astype(np.float32)
  labels = rng.integers(0, 4, (2, 5)).astype(np.int32)
  wide = logits.astype(np.float64)
  log_p = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
  wanted = [-np.mean([log_p[n, t, labels[n, t]] for t in range(5)]) for n in range(2)]
  np.testing.assert_allclose(fit.token_cross_entropy(logits, labels), wanted, rtol=FLOAT32)
  with pytest.raises(AssertionError):
    fit.token_cross_entropy(logits[:, 0], labels[:, 0])
  tokens = fit.as_tokens(jnp.asarray([[0, 255]], jnp.uint8))
  assert tokens.dtype == jnp.int32 and tokens.tolist() == [[0, 255]]
