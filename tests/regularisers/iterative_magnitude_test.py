"""The staircase by hand, and the steps at which magnitude pruning takes its stairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax


def test_each_round_keeps_the_same_share():
  schedule = sparsejax.iterative_sparsity(0.875, rounds=3, begin=10, every=5)
  got = [float(schedule(step)) for step in (0, 9, 10, 14, 15, 19, 20, 24, 25, 1000)]
  # A half, a quarter, an eighth is left.
  wanted = [0, 0, 0.5, 0.5, 0.75, 0.75, 0.875, 0.875, 0.875, 0.875]
  np.testing.assert_allclose(got, wanted, rtol=1e-7)
  np.testing.assert_array_equal(jax.jit(jax.vmap(schedule))(jnp.array([9, 10, 15, 99])),
                                np.float32([0, 0.5, 0.75, 0.875]))


@pytest.mark.parametrize('begin, every', [(3, 4), (3, 2), (0, 1)])
def test_masks_change_where_a_round_starts(begin, every):
  method = sparsejax.magnitude_pruning(
      sparsejax.iterative_sparsity(0.75, rounds=2, begin=4, every=4), allocation='global',
      begin=begin, every=every)
  rng = np.random.default_rng(0)
  params = {'a': rng.normal(size=(4, 5)).astype(np.float32),
            'b': 3 * rng.normal(size=(4, 3)).astype(np.float32)}
  _, state = method.init(jax.random.key(0), params)
  update = jax.jit(method.update)
  kept = []
  for step in range(12):
    read = method.weights(params, state)       # what step `step` trains
    kept.append(sum(int((w != 0).sum()) for w in jax.tree.leaves(read)))
    params, state = update(params, state, step=jnp.int32(step))
    params = jax.tree.map(lambda w: w + 0.01, params)
  assert kept == [32] * 4 + [16] * 4 + [8] * 4


@pytest.mark.parametrize('numbers, message', [
    ((1.0, 3, 1, 1), r'final=1.0 must lie in \[0, 1\)'), ((0.5, 0, 1, 1), 'rounds=0'),
    ((0.5, 1, 0, 1), 'begin=0'), ((0.5, 1, 1, 0), 'every=0 must be at least 1')])
def test_numbers_that_mean_nothing_are_refused(numbers, message):
  with pytest.raises(ValueError, match=message):
    sparsejax.iterative_sparsity(*numbers)
