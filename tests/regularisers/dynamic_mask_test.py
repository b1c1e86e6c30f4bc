"""What SET and RigL share: selection by rank, exact exchanges, timing, zeros under the mask."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.paths import flatten
from sparsejax.regularisers.dynamic_mask import exchange, largest

RNG = np.random.default_rng(4)
WEIGHTS = {'dense': {'kernel': RNG.normal(size=(12, 10)).astype(np.float32)},
           'conv': {'kernel': RNG.normal(size=(3, 3, 2, 4)).astype(np.float32)}}
METHODS = {
    'set': lambda **options: sparsejax.sparse_evolutionary_training(0.3, **options),
    'rigl': lambda **options: sparsejax.rigl(0.3, **{'end': 1000, **options}),
}
EXCHANGE = jax.jit(exchange, static_argnums=4)


@pytest.mark.parametrize('count', [0, 1, 3, 4, 6])
def test_of_equal_scores_the_first_are_taken(count):
  scores = np.float32([[1, 2, 0], [2, 1, 2]])
  # Sorted by score, then place: 1, 3, 5 (score 2), 0, 4 (score 1), 2.
  wanted = np.isin(np.arange(6), [1, 3, 5, 0, 4, 2][:count]).reshape(2, 3)
  np.testing.assert_array_equal(jax.jit(largest)(scores, count), wanted)


@pytest.mark.parametrize('may_return', [True, False])
def test_an_exchange_by_hand(may_return):
  live = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
  magnitudes = np.float32([0.5, 0.1, 3.0, 0.2, 9, 9, 9, 9])
  growth = np.float32([9, 5, 9, 0, 1, 4, 4, 2])
  got = EXCHANGE(live, magnitudes, growth, 0.5, may_return)
  # 1 and 3 go. Then 1 has the largest score of all places that are free, and 5 is the first of the
  # two best among those dead before; without a return both 5 and 6 grow.
  kept = [0, 2, 1, 5] if may_return else [0, 2, 5, 6]
  np.testing.assert_array_equal(np.flatnonzero(got), sorted(kept))


@pytest.mark.parametrize('may_return', [True, False])
@pytest.mark.parametrize('alive', [0, 1, 19, 28, 30])
def test_ties_and_full_leaves_change_no_count(alive, may_return):
  live = np.arange(30) < alive
  same = np.ones(30, np.float32)
  for fraction in (0.0, 0.3, 0.9):
    got = np.asarray(EXCHANGE(live, same, same, fraction, may_return))
    assert got.sum() == alive
    if not may_return:
      assert (got & ~live).sum() == min(round(fraction * alive), 30 - alive)


@pytest.mark.parametrize('name', METHODS)
def test_counts_hold_and_masks_move_at_the_updates_alone(name):
  method = METHODS[name](every=3, end=9)
  params, state = method.init(jax.random.key(0), WEIGHTS)
  optimiser = optax.adamw(0.05, weight_decay=0.1)

  @jax.jit
  def step(params, state, moments, i):
    key = jax.random.fold_in(jax.random.key(1), i)

    def loss(weights):
      return sum(jnp.square(w - jnp.roll(w, 1) - 1).sum() for w in jax.tree.leaves(weights))
    drawn, pull_back = jax.vjp(lambda p: method.weights(p, state, key), params)
    grads = jax.grad(loss)(drawn)
    updates, moments = optimiser.update(pull_back(grads)[0], moments, params)
    moved = optax.apply_updates(params, updates)
    return (*method.update(moved, state, step=i, weight_grads=grads, key=key), moments, moved)

  moments = optimiser.init(params)
  counts = {path: int(mask.sum()) for path, mask in flatten(state['mask']).items()}
  changed = []
  for i in range(12):
    before = flatten(state['mask'])
    params, state, moments, moved = step(params, state, moments, jnp.int32(i))
    masks, values = flatten(state['mask']), flatten(params)
    for path, mask in masks.items():
      mask, old = np.asarray(mask), np.asarray(before[path])
      assert mask.sum() == counts[path]
      np.testing.assert_array_equal(np.asarray(values[path])[~(mask & old)], 0.0)
      np.testing.assert_array_equal(np.asarray(values[path])[mask & old],
                                    np.asarray(flatten(moved)[path])[mask & old])
    if any(np.any(masks[path] != before[path]) for path in masks):
      changed.append(i)
  assert changed == [2, 5]        # after 3 and 6 steps; the 9th is the end


@pytest.mark.parametrize('name', METHODS)
def test_a_chain_moves_masks_or_is_refused_by_name(name):
  method = METHODS[name](every=1)
  weights = {'dense': WEIGHTS['dense']}
  key = jax.random.key(0)

  @functools.partial(jax.jit, static_argnums=0)
  def updated(both):
    params, state = both.init(key, weights)
    grads = jax.tree.map(jnp.ones_like, weights)
    return state, both.update(params, state, step=0, weight_grads=grads, key=key)[1]
  for both, part in ((sparsejax.chain(method, sparsejax.l1(0.1)), 'a'),
                     (sparsejax.chain(sparsejax.l1(0.1), method), 'b')):
    assert both.needs_weight_grads == (name == 'rigl')
    before, after = updated(both)
    assert np.any(before[part]['mask']['dense']['kernel'] != after[part]['mask']['dense']['kernel'])
  with pytest.raises(ValueError, match='a.update changes dense/kernel, which b transforms'):
    updated(sparsejax.chain(method, sparsejax.static_mask(0.5)))


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize('options, message', [
    ({'every': 0}, 'every=0 and end='), ({'every': 1, 'end': 0}, 'end=0 must be at least 1'),
    ({'every': 1, 'fraction': 1.0}, r'fraction=1.0 must lie in \[0, 1\)'),
    ({'every': 1, 'allocation': 'global'}, "allocation='global' is not")])
def test_options_that_mean_nothing_are_refused(name, options, message):
  with pytest.raises(ValueError, match=message):
    METHODS[name](**options)
