"""Magnitude pruning: thresholds against NumPy's partition, exact counts, patterns by loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.paths import flatten, map_leaves
from sparsejax.regularisers import magnitude

KEY = jax.random.key(0)
RNG = np.random.default_rng(2)
W = {'dense': {'kernel': RNG.normal(size=(16, 12)).astype(np.float32)},
     'conv': {'kernel': RNG.normal(size=(3, 3, 4, 6)).astype(np.float32) / 3},
     'head': {'kernel': RNG.normal(size=(12, 4)).astype(np.float32) * 2}}
WEIGHTS = jax.tree.map(jnp.asarray, W)


@functools.cache
def pruned(sparsity, granularity='weight', allocation='uniform'):
  """The masks of W after one update, as NumPy arrays by path."""
  method = sparsejax.magnitude_pruning(sparsity, granularity=granularity, allocation=allocation)
  params, state = method.init(KEY, WEIGHTS)
  _, state = jax.jit(method.update)(params, state, step=jnp.int32(0))
  return {path: np.asarray(mask) for path, mask in flatten(state['mask']).items()}


def structures(w, granularity):
  """The structures of a NumPy array as a list of index tuples, written as loops."""
  spatial = list(np.ndindex(w.shape[:-2]))
  rows, columns = range(w.shape[-2]), range(w.shape[-1])
  if granularity == 'weight':
    return [[(*s, i, j)] for s in spatial for i in rows for j in columns]
  if granularity == 'row':
    return [[(*s, i, j) for s in spatial for j in columns] for i in rows]
  if granularity == 'column':
    return [[(*s, i, j) for s in spatial for i in rows] for j in columns]
  high, wide = granularity
  return [[(*s, i + di, j + dj) for di in range(high) for dj in range(wide)]
          for s in spatial for i in rows[::high] for j in columns[::wide]]


def rms(w, structure):
  return np.sqrt(np.mean([float(w[index]) ** 2 for index in structure]))


# --- the threshold --------------------------------------------------------------------------------


THRESHOLD = jax.jit(magnitude.kth_threshold)
ONES = {'w': 1.0}


@pytest.mark.parametrize('size', [1, 2, 7, 100, 1001])
def test_threshold_is_the_order_statistic(size):
  scores = np.abs(RNG.normal(size=size)).astype(np.float32) * 10.0 ** RNG.integers(-8, 8, size)
  scores = scores.astype(np.float32)
  for fraction in (0.1, 0.5, 0.9, 1 - 2.0**-24, 1.0):
    k = round(fraction * size)
    got = THRESHOLD({'w': jnp.asarray(scores)}, ONES, jnp.float32(fraction))
    assert got == (np.partition(scores, k - 1)[k - 1] if k else -1.0)


def test_fraction_zero_removes_nothing_not_even_zeros():
  assert THRESHOLD({'w': jnp.array([0.0, 0.0, 1.0])}, ONES, jnp.float32(0.0)) == -1.0


def test_zeros_go_first_and_ties_go_together():
  scores = {'w': jnp.array([0.0, 3.0, 1.0, 0.0, 1.0, 1.0, 2.0, 0.0])}
  for k, wanted in enumerate([-1.0, 0, 0, 0, 1, 1, 1, 2, 3]):
    assert THRESHOLD(scores, ONES, jnp.float32(k / 8)) == wanted


def test_products_that_round_up_do_not_remove_one_more():
  # 0.9 in float32 is a little above 0.9, and 0.7 below.
  for size in (10, 1000, 100_000):
    scores = np.arange(1, size + 1, dtype=np.float32)
    for fraction in (0.7, 0.9):
      got = THRESHOLD({'w': jnp.asarray(scores)}, ONES, jnp.float32(fraction))
      assert got == round(fraction * size)


def test_threshold_over_leaves_weighs_structures_by_their_size():
  scores = {'a': np.abs(RNG.normal(size=40)).astype(np.float32),
            'b': np.abs(RNG.normal(size=15)).astype(np.float32)}
  sizes = {'a': 3.0, 'b': 8.0}
  every = np.concatenate([np.repeat(scores[name], int(sizes[name])) for name in scores])
  for fraction in (0.01, 0.3, 0.5, 0.99, 1.0):
    k = round(fraction * every.size)
    got = THRESHOLD(jax.tree.map(jnp.asarray, scores), sizes, jnp.float32(fraction))
    assert got == np.partition(every, k - 1)[k - 1]


# --- how many, and which --------------------------------------------------------------------------


@pytest.mark.parametrize('granularity', ['weight', 'row', 'column', (2, 2)])
def test_uniform_removes_the_smallest_structures_of_each_leaf(granularity):
  for path, mask in pruned(0.5, granularity).items():
    w = flatten(W)[path]
    found = structures(w, granularity)
    order = sorted(found, key=lambda structure: rms(w, structure))
    wanted = np.ones(w.shape, bool)
    for structure in order[:round(0.5 * len(found))]:
      for index in structure:
        wanted[index] = False
    np.testing.assert_array_equal(mask, wanted, err_msg=path)


def test_uniform_counts_are_exact_in_each_leaf():
  for sparsity in (0.1, 0.9):
    for path, mask in pruned(sparsity).items():
      assert mask.size - mask.sum() == round(sparsity * mask.size), path


def test_global_counts_are_exact_over_all_leaves():
  masks = pruned(0.8, allocation='global')
  total = sum(mask.size for mask in masks.values())
  assert sum(mask.size - mask.sum() for mask in masks.values()) == round(0.8 * total)
  # One threshold: the largest weight removed is below the smallest kept.
  removed = max(np.abs(w[~masks[path]]).max() for path, w in flatten(W).items())
  kept = min(np.abs(w[masks[path]]).min() for path, w in flatten(W).items())
  assert removed < kept
  assert masks['conv/kernel'].mean() < masks['head/kernel'].mean()


@pytest.mark.parametrize('granularity', ['row', (2, 2)])
def test_global_structures_compete_by_root_mean_square(granularity):
  masks = pruned(0.6, granularity, 'global')
  every = sorted(((rms(w, structure), path, structure) for path, w in flatten(W).items()
                  for structure in structures(w, granularity)), key=lambda entry: entry[0])
  wanted = {path: np.ones(w.shape, bool) for path, w in flatten(W).items()}
  budget = 0.6 * sum(w.size for w in flatten(W).values())
  gone = 0
  for _, path, structure in every:
    if gone >= round(budget):
      break
    gone += len(structure)
    for index in structure:
      wanted[path][index] = False
  for path, mask in masks.items():
    np.testing.assert_array_equal(mask, wanted[path], err_msg=path)


def water_filling(shapes, density):
  """min(1, e * sum(shape) / prod(shape)), with e by bisection so that the budget is met."""
  raw = np.array([sum(shape) / np.prod(shape) for shape in shapes])
  sizes = np.array([np.prod(shape) for shape in shapes])
  low, high = 0.0, 1 / raw.min()
  for _ in range(200):
    middle = (low + high) / 2
    below = (np.minimum(1, middle * raw) * sizes).sum() < density * sizes.sum()
    low, high = (middle, high) if below else (low, middle)
  return np.minimum(1, high * raw)


@pytest.mark.parametrize('shapes', [
    [(784, 300), (300, 100), (100, 10)],                             # LeNet-300-100
    [(5, 5, 1, 20), (5, 5, 20, 50), (800, 500), (500, 10)],          # LeNet-5-Caffe
    [(3, 3, 3, 16), (1, 1, 16, 64), (1, 1, 64, 64), (64, 10), (4,)]])
def test_erk_densities_meet_the_budget_of_the_published_rule(shapes):
  named = {str(i): shape for i, shape in enumerate(shapes)}
  solve = jax.jit(lambda density: magnitude.erdos_renyi_kernel_densities(named, density))
  for density in (0.01, 0.1, 0.5, 0.9):
    got = np.array(list(solve(jnp.float32(density)).values()))
    np.testing.assert_allclose(got, water_filling(shapes, density), rtol=1e-5)


def test_erk_counts_are_exact_in_each_leaf():
  masks = pruned(0.8, allocation='erk')
  densities = water_filling([w.shape for w in flatten(W).values()], 0.2)
  for path, density in zip(flatten(W), densities):
    assert masks[path].sum() == masks[path].size - round((1 - density) * masks[path].size)


@pytest.mark.parametrize('allocation', ['uniform', 'erk'])
def test_one_structure_of_each_leaf_stays(allocation):
  for path, mask in pruned(0.99, 'column', allocation).items():
    columns = mask.reshape(-1, mask.shape[-1])
    assert columns.all(0).sum() == columns.any(0).sum() == 1, path


@pytest.mark.parametrize('n, m', [(2, 4), (1, 2), (1, 4)])
def test_n_of_m_keeps_the_n_largest_of_m_inputs(n, m):
  for path, mask in pruned(1 - n / m, f'{n}:{m}').items():
    w = np.abs(flatten(W)[path])
    for s in np.ndindex(w.shape[:-2]):
      for j in range(w.shape[-1]):
        for i in range(0, w.shape[-2], m):
          column = w[s][i:i + m, j]
          kept = mask[s][i:i + m, j]
          assert kept.sum() == n and column[kept].min() > column[~kept].max(), path


def test_n_of_m_keeps_n_of_equal_weights():
  mask = np.asarray(magnitude.keep_n_of_m(jnp.ones((8, 3)), 2, 4))
  np.testing.assert_array_equal(mask.reshape(2, 4, 3).sum(1), 2)


def test_bfloat16_weights_are_counted_as_exactly():
  # Distinct in bfloat16: 8 bits of mantissa give 128 values per octave.
  values = RNG.permutation(np.concatenate([2.0**e * (1 + np.arange(96) / 128) for e in (-3, 4)]))
  weights = {'w': jnp.asarray(values.reshape(12, 16), jnp.bfloat16)}
  method = sparsejax.magnitude_pruning(0.25)
  params, state = method.init(KEY, weights)
  _, state = jax.jit(method.update)(params, state, step=jnp.int32(0))
  assert method.weights(params, state)['w'].dtype == jnp.bfloat16
  removed = values[~np.asarray(state['mask']['w']).reshape(-1)]
  np.testing.assert_array_equal(np.sort(removed), np.sort(values)[:48])


# --- when -----------------------------------------------------------------------------------------


def test_cubic_schedule_by_hand():
  schedule = sparsejax.cubic_sparsity(0.9, begin=10, end=30, initial=0.1)
  # 0.9 - 0.8 (1 - t)^3 at t = 0, 1/4, 1/2, 3/4, 1
  wanted = [0.1, 0.1, 0.5625, 0.8, 0.8875, 0.9, 0.9]
  got = [float(schedule(step)) for step in (0, 10, 15, 20, 25, 30, 99)]
  np.testing.assert_allclose(got, wanted, rtol=1e-6)
  for bad in ({'final': 1.0, 'begin': 0, 'end': 1}, {'final': 0.5, 'begin': 5, 'end': 5},
              {'final': 0.5, 'begin': 0, 'end': 9, 'initial': 0.6}):
    with pytest.raises(ValueError, match='sparsities must obey|must come before'):
      sparsejax.cubic_sparsity(**bad)


def test_gradual_pruning_follows_the_schedule_and_never_grows_back():
  schedule = sparsejax.cubic_sparsity(0.9, begin=0, end=12)
  method = sparsejax.magnitude_pruning(schedule, begin=2, every=3, allocation='global')
  params, state = method.init(KEY, WEIGHTS)
  update = jax.jit(method.update)
  total = sum(w.size for w in flatten(W).values())
  before, zeros = state['mask'], 0
  for step in range(16):
    # The weights move between the updates, so that other ones are small.
    params = map_leaves(lambda path, w: w + 0.1 * RNG.normal(size=w.shape).astype(np.float32),
                        params)
    params, state = update(params, state, step=jnp.int32(step))
    np.testing.assert_allclose(state['sparsity'], schedule(step + 1), rtol=1e-6)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(state['mask'])):
      assert not np.any(np.asarray(new) & ~np.asarray(old))
    if step >= 2 and (step - 2) % 3 == 0:
      zeros = round(float(np.float32(schedule(step + 1))) * total)
    before = state['mask']
    assert sum(int((~mask).sum()) for mask in jax.tree.leaves(before)) == zeros
  assert zeros == round(0.9 * total)


@pytest.mark.parametrize('options', [
    {'sparsity': 0.7}, {'sparsity': 0.7, 'allocation': 'global', 'granularity': (2, 2)},
    {'sparsity': 0.7, 'allocation': 'erk'}, {'sparsity': 0.5, 'granularity': '2:4'}])
def test_one_shot_prunes_at_begin_and_only_once(options):
  method = sparsejax.magnitude_pruning(begin=2, every=1, **options)
  params, state = method.init(KEY, WEIGHTS)
  update = jax.jit(method.update)
  for step in (0, 1):
    params, state = update(params, state, step=jnp.int32(step))
    assert all(mask.all() for mask in jax.tree.leaves(state['mask']))
  params, state = update(params, state, step=jnp.int32(2))
  first = state['mask']
  assert not all(mask.all() for mask in jax.tree.leaves(first))
  for step in (3, 4):
    # Other weights are the smallest by now, under the mask too.
    params = map_leaves(lambda path, w: w + RNG.normal(size=w.shape).astype(np.float32), params)
    params, state = update(params, state, step=jnp.int32(step))
    for old, new in zip(jax.tree.leaves(first), jax.tree.leaves(state['mask'])):
      np.testing.assert_array_equal(old, new)


def test_masked_weights_stay_zero_under_adamw_and_in_an_average():
  method = sparsejax.magnitude_pruning(0.6)
  optimiser = optax.adamw(0.1, weight_decay=0.1)
  params, state = method.init(KEY, WEIGHTS)
  average = params

  @jax.jit
  def step(params, state, moments, average, i):
    def loss(params):
      return sum(jnp.square(w - 1).sum() for w in jax.tree.leaves(method.weights(params, state)))
    updates, moments = optimiser.update(jax.grad(loss)(params), moments, params)
    params = optax.apply_updates(params, updates)
    params, state = method.update(params, state, step=i)
    average = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, average, params)
    return params, state, moments, average
  carry = (params, state, optimiser.init(params), average)
  for i in range(5):
    carry = step(*carry, jnp.int32(i))
  params, state, _, average = carry
  moved = 0.0
  for tree in (params, average):
    for path, w in flatten(method.weights(tree, state)).items():
      mask = np.asarray(flatten(state['mask'])[path])
      np.testing.assert_array_equal(np.asarray(w)[~mask], 0.0)
      assert np.all(np.asarray(w)[mask] != 0)
      moved += np.abs(np.asarray(flatten(tree)[path])[~mask]).sum()
  assert moved > 0       # momentum did move what lies under the mask


def test_a_population_has_a_sparsity_each():
  method = sparsejax.magnitude_pruning(0.5)
  params, state = method.init(KEY, WEIGHTS)
  many = {'mask': jax.tree.map(lambda m: jnp.stack([m] * 3), state['mask']),
          'sparsity': jnp.array([0.0, 0.25, 0.75])}
  update = jax.jit(jax.vmap(lambda state: method.update(params, state, step=jnp.int32(0))[1]))
  masks = flatten(update(many)['mask'])
  for path, mask in masks.items():
    size = mask[0].size
    np.testing.assert_array_equal((~mask).reshape(3, -1).sum(1),
                                  [round(s * size) for s in (0.0, 0.25, 0.75)], err_msg=path)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('options, text', [
    ({'granularity': (5, 2)}, r'block \(5, 2\) does not divide the last two axes of \w+/kernel \('),
    ({'granularity': '1:3', 'sparsity': 2 / 3}, r"3 of '1:3' does not divide axis -2 of \w+/k"),
])
def test_what_does_not_divide_names_the_leaf(options, text):
  with pytest.raises(ValueError, match=text):
    sparsejax.magnitude_pruning(**{'sparsity': 0.5, **options}).init(KEY, WEIGHTS)


def test_a_vector_has_no_rows():
  method = sparsejax.magnitude_pruning(0.5, granularity='row')
  with pytest.raises(ValueError, match=r"needs two axes, but dense/bias is \(3,\)"):
    method.init(KEY, {'dense': {'bias': jnp.ones(3)}})


@pytest.mark.parametrize('options, text', [
    ({'sparsity': 1.0}, r'sparsity=1.0 must lie in \[0, 1\)'),
    ({'sparsity': np.float32(-0.5)}, 'must lie in'),
    ({'sparsity': jnp.array([0.5, 1.5])}, 'must lie in'),
    ({'allocation': 'layer'}, "allocation='layer' is not"),
    ({'granularity': 'block'}, "granularity='block' is not"),
    ({'granularity': '4:2'}, 'must keep 0 < n < m'),
    ({'granularity': (0, 2)}, 'positive sizes'),
    ({'granularity': '2:4', 'sparsity': 0.75}, "'2:4' means sparsity 0.5, not 0.75"),
    ({'granularity': '2:4', 'sparsity': sparsejax.cubic_sparsity(0.5, 0, 9)},
     "'2:4' means sparsity 0.5, not a schedule"),
    ({'every': 0}, 'every=0 must be'), ({'begin': -1}, 'begin=-1')])
def test_options_that_mean_nothing_are_refused(options, text):
  with pytest.raises(ValueError, match=text):
    sparsejax.magnitude_pruning(**{'sparsity': 0.5, **options})
