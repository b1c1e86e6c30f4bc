"""Straight-through magnitude: what is kept against NumPy, the gradient, and no memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.paths import flatten

KEY = jax.random.key(0)
RNG = np.random.default_rng(3)
WEIGHTS = {'dense': {'kernel': RNG.normal(size=(8, 10)).astype(np.float32)},
           'head': {'kernel': RNG.normal(size=(10, 4)).astype(np.float32) * 2}}


def deployed(sparsity, weights=WEIGHTS, **options):
  method = sparsejax.straight_through_magnitude(sparsity, **options)
  params, state = method.init(KEY, weights)
  return {path: np.asarray(leaf)
          for path, leaf in flatten(jax.jit(method.weights)(params, state)).items()}


def test_the_largest_weights_of_all_leaves_are_kept_as_they_are():
  flat = flatten(WEIGHTS)
  threshold = np.sort(np.abs(np.concatenate([w.reshape(-1) for w in flat.values()])))[95]
  for path, leaf in deployed(0.8).items():              # 96 of 120 go
    np.testing.assert_array_equal(leaf, np.where(np.abs(flat[path]) > threshold, flat[path], 0))


@pytest.mark.parametrize('allocation, kept', [
    ('uniform', {'dense/kernel': 20, 'head/kernel': 10}),
    # 30 weights shared out as 8 + 10 to 10 + 4.
    ('erk', {'dense/kernel': round(30 * 18 / 32), 'head/kernel': round(30 * 14 / 32)})])
def test_leaves_share_the_sparsity(allocation, kept):
  for path, leaf in deployed(0.75, allocation=allocation).items():
    w = flatten(WEIGHTS)[path]
    threshold = np.sort(np.abs(w).reshape(-1))[-kept[path]]
    np.testing.assert_array_equal(leaf, np.where(np.abs(w) >= threshold, w, 0))


def test_whole_rows_go_by_their_root_mean_square():
  rows = {path: np.sqrt(np.mean(w.astype(np.float64)**2, axis=1))
          for path, w in flatten(WEIGHTS).items()}
  for path, leaf in deployed(0.5, granularity='row', allocation='uniform').items():
    w = flatten(WEIGHTS)[path]
    kept = rows[path] > np.median(rows[path])
    np.testing.assert_array_equal(leaf, np.where(kept[:, None], w, 0))


def test_one_structure_of_each_leaf_stays():
  for leaf in deployed(0.99, granularity=(2, 2), allocation='uniform').values():
    assert (leaf != 0).sum() == 4


def test_the_gradient_passes_to_all_weights():
  method = sparsejax.straight_through_magnitude(0.8)
  params, state = method.init(KEY, WEIGHTS)
  slopes = jax.tree.map(lambda w: RNG.normal(size=w.shape).astype(np.float32), WEIGHTS)

  @jax.jit
  @jax.grad
  def gradient(params):
    drawn = method.weights(params, state, KEY)
    return sum(jax.tree.leaves(jax.tree.map(lambda w, s: (w * s).sum(), drawn, slopes)))
  jax.tree.map(np.testing.assert_array_equal, gradient(params), slopes)


def test_there_is_no_memory():
  method = sparsejax.straight_through_magnitude(0.5)
  _, state = method.init(KEY, {'w': jnp.ones((2, 2))})
  drawn = jax.jit(method.weights)
  for values, kept in (([[1, 2], [3, 4]], [[0, 0], [3, 4]]), ([[9, 8], [3, 4]], [[9, 8], [0, 0]])):
    params, state = method.update({'w': jnp.float32(values)}, state, step=0)
    np.testing.assert_array_equal(drawn(params, state)['w'], kept)


def test_the_sparsity_follows_its_schedule():
  method = sparsejax.straight_through_magnitude(sparsejax.cubic_sparsity(0.5, 0, 4))
  params, state = method.init(KEY, WEIGHTS)
  zeros, drawn = [], jax.jit(method.weights)
  for step in range(5):
    zeros.append(sum(int((w == 0).sum()) for w in jax.tree.leaves(drawn(params, state))))
    params, state = method.update(params, state, step=step)
  assert zeros == [round(0.5 * (1 - (1 - t)**3) * 120) for t in (0, 0.25, 0.5, 0.75, 1)]


def test_bfloat16_is_masked_exactly():
  values = jnp.asarray(RNG.normal(size=(6, 7)) * 10.0 ** RNG.integers(-6, 6, (6, 7)), jnp.bfloat16)
  got = deployed(0.5, {'w': values})['w']
  assert got.dtype == jnp.bfloat16
  np.testing.assert_array_equal(got[got != 0], np.asarray(values)[got != 0])


@pytest.mark.parametrize('options, message', [
    ({'sparsity': 1.0}, r'sparsity=1.0 must lie in \[0, 1\)'),
    ({'allocation': 'layer'}, "allocation='layer' is not"),
    ({'granularity': '2:4'}, "granularity='2:4' is not 'weight'"),
    ({'granularity': (0, 2)}, 'positive sizes'),
    ({'granularity': (3, 2)}, r'block \(3, 2\) does not divide the last two axes of dense/kernel'),
    ({'granularity': 'row', 'weights': {'bias': np.ones(3)}}, r'needs two axes, but bias is \(3,')])
def test_options_that_mean_nothing_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    deployed(**{'sparsity': 0.5, **options})
