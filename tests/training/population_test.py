"""Members of a population against the same runs alone."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.models.convnet import ConvNet
from sparsejax.models.lenet import MLP
from sparsejax.models.recurrent import RecurrentLanguageModel
from sparsejax.training import evaluate, fit, loop, population

# What is asked for. Rounding alone is some 1e-7 a step; Adam divides by small second moments.
RELATIVE = 1e-5


def assert_alike(found, wanted):
  """Compares each array of a state relative to its own largest entry; counts and keys exactly."""
  pairs = zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True)
  for (path, one), other in pairs:
    if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
      one, other = jax.random.key_data(one), jax.random.key_data(other)
    assert (one.dtype, one.shape) == (other.dtype, other.shape), path
    if not jnp.issubdtype(one.dtype, jnp.floating):
      np.testing.assert_array_equal(one, other, str(path))
      continue
    # Below, an array holds rounding errors alone, such as the bias before a batch-norm.
    scale = max(1e-4, float(np.max(np.abs(other), initial=0)))
    np.testing.assert_allclose(one, other, rtol=0, atol=RELATIVE * scale, err_msg=str(path))


def started(recipe, seeds, images):
  start = jax.jit(lambda key: fit.start(recipe, key, images[:1]))
  return [start(jax.random.key(seed)) for seed in seeds]


def partition(method, pattern='.*kernel'):
  return sparsejax.partition(rule=(pattern, method))


def strengths_of_l0(recipe, images):
  def build(strength):
    return recipe(ema_decay=0.9, regulariser=partition(
        sparsejax.l0_hard_concrete(strength, drop_rate=0.3)))
  weak, = started(build(0.01), [0], images)
  strong = weak._replace(method_state={'rule': {**weak.method_state['rule'],
                                                'strength': jnp.float32(3)}})
  return [build(0.01), build(3)], [weak, strong], lambda number: build(0.01), jnp.zeros(2), None


def seeds_of_variational_dropout(recipe, images):
  made = recipe(regulariser=partition(sparsejax.sparse_variational_dropout()))
  rng = np.random.default_rng(0)
  rows = jnp.asarray(np.stack([np.sort(rng.choice(44, 40, replace=False)) for _ in range(2)]))
  return [made] * 2, started(made, [0, 5], images), lambda number: made, jnp.zeros(2), rows


def learning_rates_of_group_lasso(recipe, images):
  def build(rate):
    return recipe(regulariser=partition(sparsejax.group_lasso(0.4, axis=-2)),
                  optimiser=optax.adam(rate))
  rates = [1e-3, 1e-1]
  return ([build(rate) for rate in rates], started(build(0.1), [0], images) * 2, build,
          jnp.asarray(rates), None)


def seeds_and_rates_with_batch_norm(recipe, images):
  # No Adam: it makes whole steps of the rounding errors of a gradient that is 0.
  def build(rate):
    gates = partition(sparsejax.l0_hard_concrete(0.1, drop_rate=0.3), 'head/kernel')
    return recipe(model=ConvNet(widths=(2,), classes=4, pool_after=()), regulariser=gates,
                  train_kwargs={'train': True}, eval_kwargs={'train': False},
                  optimiser=optax.sgd(rate))
  rates = [1e-2, 1e-3]
  return ([build(rate) for rate in rates], started(build(0.1), [0, 1], images), build,
          jnp.asarray(rates), None)


def all_at_once(recipe, images):
  """Gates, an average, and members that differ in seed, examples, strength and learning rate."""
  def build(numbers, strength=0.01):
    return recipe(ema_decay=0.9, optimiser=optax.adam(numbers['rate']), regulariser=partition(
        sparsejax.l0_hard_concrete(strength, drop_rate=0.3)))
  rates = [1e-2, 1e-3]
  made = [build({'rate': rates[0]}), build({'rate': rates[1]}, 3.0)]
  one, two = started(made[0], [0, 5], images)
  two = two._replace(method_state={'rule': {**two.method_state['rule'],
                                            'strength': jnp.float32(3)}})
  rng = np.random.default_rng(0)
  rows = jnp.asarray(np.stack([np.sort(rng.choice(44, 40, replace=False)) for _ in range(2)]))
  return made, [one, two], build, {'rate': jnp.asarray(rates)}, rows


# The last four ask for one thing each, at a compilation or three each.
@pytest.mark.parametrize('case', [
    all_at_once,
    pytest.param(strengths_of_l0, marks=pytest.mark.slow),
    pytest.param(seeds_of_variational_dropout, marks=pytest.mark.slow),
    pytest.param(learning_rates_of_group_lasso, marks=pytest.mark.slow),
    pytest.param(seeds_and_rates_with_batch_norm, marks=pytest.mark.slow)])
def test_a_member_is_what_it_is_alone(case, tiny_data, tiny_recipe):
  images, labels = map(jnp.asarray, tiny_data)
  recipes, alone, build, numbers, rows = case(tiny_recipe, images)
  states = population.stack(alone)
  assert (states.key.ndim == 0) == bool(alone[0].key == alone[1].key)
  # Side by side as on accelerators, but for the slow cases; everything else here is in turn.
  together = population.jit_epoch(build, in_turn=case is not all_at_once)
  found, = population.run_epochs(build, numbers, states, images, labels, rows=rows, last=1,
                                 epoch=together)
  assert found.number == 1 and not found.diverged
  ran = recipes[0]
  epoch = fit.jit_epoch(ran)
  for index, (recipe, state) in enumerate(zip(recipes, alone, strict=True)):
    own = slice(None) if rows is None else rows[index]
    if recipe is not ran:
      epoch, ran = fit.jit_epoch(recipe), recipe
    after, nll = epoch(state, images[own], labels[own])
    assert_alike(population.member(found.states, index), after)
    np.testing.assert_allclose(found.nll[index], float(nll.mean()), rtol=RELATIVE)
  # The members are not all the same, or nothing was compared.
  one, two = (jax.tree.leaves(population.member(found.states, i).params)[0] for i in range(2))
  assert np.max(np.abs(one - two)) > 100 * RELATIVE * np.max(np.abs(one))


def test_a_summary_of_each_member_on_its_own_rows(tiny_data, tiny_recipe):
  images, labels = map(jnp.asarray, tiny_data)
  recipes, alone, build, numbers, rows = seeds_of_variational_dropout(tiny_recipe, images)
  found = population.jit_summary(build)(numbers, population.stack(alone), images, labels, rows)
  summary = evaluate.jit_summary(recipes[0])
  for index, state in enumerate(alone):
    wanted = summary(state, images[rows[index]], labels[rows[index]])
    assert set(found) == set(wanted) and 'error_percent' in wanted
    for name, value in wanted.items():
      np.testing.assert_allclose(found[name][index], value, rtol=RELATIVE, err_msg=name)


@pytest.mark.slow
def test_a_recurrent_state_is_handed_on_in_each_member():
  model = RecurrentLanguageModel(vocabulary=5, embedding=3, widths=(4,), carried=True)
  tokens = np.random.default_rng(0).integers(0, 5, (2, 4 * 3 + 1))
  windows = jnp.asarray(np.concatenate([tokens[:, i:i + 3] for i in range(0, 12, 3)]), jnp.uint8)
  labels = jnp.asarray(np.concatenate([tokens[:, i + 1:i + 4] for i in range(0, 12, 3)]), jnp.int32)
  recipes = [fit.Recipe(model, partition(sparsejax.weight_decay(strength)), optax.adam(1e-2),
                        num_terms=24, batch_size=2, preprocess=fit.as_tokens,
                        loss=fit.token_cross_entropy, sequential=True) for strength in (0.1, 5.0)]
  alone = [state for seed, recipe in enumerate(recipes)
           for state in started(recipe, [seed], windows)]
  found, = population.run_epochs(lambda numbers: recipes[0], jnp.zeros(2), population.stack(alone),
                                 windows, labels, last=1)
  for index, state in enumerate(alone):
    after, _ = fit.jit_epoch(recipes[index])(state, windows, labels)
    assert_alike(population.member(found.states, index), after)
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(after.collections['carry']))


def test_members_that_diverge_stay_as_they_were_and_the_others_go_on(tiny_data, tiny_recipe):
  images, labels = map(jnp.asarray, tiny_data)

  def build(bad_step):                    # 4 steps an epoch
    return tiny_recipe(regulariser=sparsejax.partition(), optimiser=optax.sgd(
        lambda step: jnp.where(step == bad_step, jnp.inf, jnp.float32(0.01))))
  numbers = jnp.asarray([99, 6, 1])
  first, = started(build(99), [0], images)
  epochs = list(population.run_epochs(build, numbers, population.stack([first] * 3), images, labels,
                                      last=3))
  assert [sorted(epoch.diverged) for epoch in epochs] == [[2], [1], []]
  np.testing.assert_array_equal(
      np.isnan([epoch.nll for epoch in epochs]),
      [[False, False, True], [False, True, True], [False, True, True]])
  with pytest.raises(loop.NonFiniteLoss) as caught:
    list(loop.run_epochs(build(6), first, images, labels, last=3))
  wanted, error = caught.value, epochs[1].diverged[1]
  assert str(error) == str(wanted)
  assert_alike(error.last_good, wanted.last_good)
  for index, number in ((2, 0), (1, 1)):
    error = epochs[number].diverged[index]
    assert (error.epoch, error.step) == (number + 1, int(numbers[index]) % 4)
    last = population.member(epochs[-1].states, index)
    for one, other in zip(jax.tree.leaves(last.params), jax.tree.leaves(error.last_good.params),
                          strict=True):
      np.testing.assert_array_equal(one, other)
  *_, alone = loop.run_epochs(build(99), first, images, labels, last=3)
  assert_alike(population.member(epochs[-1].states, 0), alone.state)


def plain(recipe, **changes):
  """A recipe that compiles in a moment."""
  return recipe(regulariser=sparsejax.partition(), **changes)


def test_nobody_alive_ends_the_run(tiny_data, tiny_recipe):
  images, labels = map(jnp.asarray, tiny_data)
  states = population.stack(started(plain(tiny_recipe), [0], images))
  recipe = plain(tiny_recipe)
  assert not list(population.run_epochs(lambda numbers: recipe, jnp.zeros(1), states, images,
                                        labels, alive=[False], last=2))


def test_stacking_and_picking_are_inverse(tiny_data, tiny_recipe):
  images = jnp.asarray(tiny_data[0])
  alone = started(plain(tiny_recipe), [3, 4, 5], images)
  states = population.stack(alone)
  assert population.size(states) == 3
  for index, state in enumerate(alone):
    jax.tree.map(np.testing.assert_array_equal, population.member(states, index)._replace(key=0),
                 state._replace(key=0))
    assert population.member(states, index).key == state.key
  two = population.member(states, np.array([2, 0]))
  assert population.size(two) == 2 and bool(population.member(two, 1).key == alone[0].key)


def test_states_that_do_not_belong_together_are_refused(tiny_data, tiny_recipe):
  images = jnp.asarray(tiny_data[0])
  state, = started(plain(tiny_recipe), [0], images)
  wider, = started(plain(tiny_recipe, model=MLP(widths=(6,), classes=4)), [0], images)
  with pytest.raises(ValueError, match=r'member 1 is not of the form of member 0: .*\(5,\)'):
    population.stack([state, wider])
  with pytest.raises(ValueError, match='member 1 is at step 4 and member 0 at 0'):
    population.stack([state, state._replace(step=jnp.int32(4))])
  with pytest.raises(ValueError, match='at least one state'):
    population.stack([])


def test_fewer_members_at_once_where_memory_is_short():
  # Eight take 100 bytes each and share 200.
  assert [population.that_fit(8, 1000, 200, free) for free in (None, 1000, 999, 600, 450, 1)] == [
      8, 8, 7, 4, 2, 1]
  assert population.memory_free() > 0


def test_the_memory_of_a_program_is_that_of_its_states_at_least(tiny_data, tiny_recipe):
  images, labels = map(jnp.asarray, tiny_data)
  recipe = tiny_recipe(regulariser=sparsejax.partition())
  states = population.stack(started(recipe, [0], images) * 8)
  found, compiled = population.fitting(lambda numbers: recipe, jnp.zeros(8), states, images, labels,
                                       bytes_free=2 ** 40)
  assert (found.members, found.bytes_free) == (8, 2 ** 40)
  # The states before and after the epoch.
  assert found.bytes_used >= 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(states.params))
  epoch = next(population.run_epochs(lambda numbers: recipe, jnp.zeros(8), states, images, labels,
                                     last=1, epoch=compiled))
  assert np.all(np.isfinite(epoch.nll))
