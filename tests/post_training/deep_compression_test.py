"""The steps of Deep Compression, by hand-worked cases and NumPy."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.post_training.deep_compression import (compression_rate, kept_fraction,
                                                      retraining_dropout, share, threshold_mask)
from sparsejax.regularisers.shared_codebook import shared_codebook


def sparse(seed, shape, density):
  rng = np.random.default_rng(seed)
  return (rng.normal(size=shape) * (rng.random(shape) < density)).astype(np.float32)


def test_rate_of_the_papers_figure():
  assert compression_rate(16, 4, 32) == 3.2


def test_dropout_of_half_the_connections():
  np.testing.assert_allclose(retraining_dropout(0.5, 1000, 500), 0.354, atol=5e-4)
  assert retraining_dropout(0.5, 10, 10) == 0.5
  assert retraining_dropout(0.5, 10, 0) == 0


def test_threshold_is_in_standard_deviations():
  weight = np.array([[-3.0, 1.0], [-1.0, 3.0]])        # standard deviation sqrt(5) = 2.236
  np.testing.assert_array_equal(threshold_mask(weight, 1.0), [[True, False], [False, True]])
  np.testing.assert_array_equal(threshold_mask(weight, 0.4), np.ones((2, 2), bool))
  assert kept_fraction(weight, 1.0) == 0.5
  assert not threshold_mask(np.zeros(4), 0.0).any(), 'what is zero is never kept'


def test_threshold_keeps_the_normal_tail():
  weight = np.random.default_rng(0).normal(size=100_000)
  wanted = 0.08                                       # P(|z| > 1.750686)
  deviation = np.sqrt(wanted * (1 - wanted) / 1e5)
  # The sample's own deviation errs by a factor 1 + N(0, 1 / 2n), less than the count does.
  assert abs(kept_fraction(weight, 1.750686) - wanted) < 5 * deviation


def test_share_clusters_each_layer_and_keeps_zeros():
  tree = {'a': {'kernel': sparse(0, (12, 8), 0.5), 'bias': np.float32([1, 2, 3])},
          'b': {'kernel': sparse(1, (6, 5), 0.6)}}
  shared = share(tree, {'a/kernel': 3, 'b/kernel': 2})
  np.testing.assert_array_equal(shared.weights['a']['bias'], tree['a']['bias'])
  assert 'bias' not in shared.codes['a']
  for name, bits in (('a', 3), ('b', 2)):
    before, codes = tree[name]['kernel'], shared.codes[name]['kernel']
    np.testing.assert_array_equal(codes == 0, before == 0)
    assert codes.max() <= 2**bits - 1
    np.testing.assert_array_equal(np.unique(codes[codes > 0]), np.arange(1, codes.max() + 1))
    for code in range(1, codes.max() + 1):
      members = before[codes == code].astype(np.float64)
      np.testing.assert_array_equal(shared.weights[name]['kernel'][codes == code],
                                    np.float32(members.mean()))
    np.testing.assert_allclose(
        shared.wcss[f'{name}/kernel'],
        np.square(before - shared.weights[name]['kernel'].astype(np.float64)).sum(), rtol=1e-5)


def test_share_of_a_layer_without_weights():
  shared = share({'a': np.zeros((3, 2), np.float32)}, {'a': 4})
  np.testing.assert_array_equal(shared.weights['a'], np.zeros((3, 2)))
  np.testing.assert_array_equal(shared.codes['a'], np.zeros((3, 2)))


@pytest.mark.parametrize('initialisation', ['linear', 'density', 'random'])
def test_enough_clusters_share_without_loss(initialisation):
  tree = {'a': sparse(2, (5, 5), 0.7)}
  tree['a'].flat[:3] = 1.5, 1.5, -2.5
  shared = share(tree, {'a': 10}, initialisation, rng=np.random.default_rng(0))
  if initialisation == 'random':     # 25 weights, 1.5 among them twice: each is drawn
    np.testing.assert_array_equal(shared.weights['a'], tree['a'])
  else:
    spread = np.ptp(tree['a']) / 1022
    assert np.abs(shared.weights['a'] - tree['a']).max() <= spread


def test_codes_train_in_shared_codebook():
  tree = {'a': {'kernel': jnp.asarray(sparse(3, (6, 4), 0.5))}}
  shared = share(tree, {'.*': 2})
  method = sparsejax.partition(all=('.*', shared_codebook(shared.codes)))
  params, state = method.init(jax.random.key(0), tree)
  # The float64 mean of k-means against the float32 mean at the start of training
  np.testing.assert_allclose(method.weights(params, state)['a']['kernel'],
                             shared.weights['a']['kernel'], rtol=24 * 2.0**-23)


def test_masks_hold_under_momentum_and_decay_over_rounds():
  decayed = sparsejax.chain(
      sparsejax.magnitude_pruning(sparsejax.iterative_sparsity(0.75, 2, 2, 3), begin=1, every=1),
      sparsejax.weight_decay(1.0))
  weights = {'a': jnp.asarray(np.random.default_rng(4).normal(size=(8, 8)).astype(np.float32))}
  params, state = decayed.init(jax.random.key(0), weights)
  optimiser = optax.sgd(0.05, momentum=0.9)
  moments = optimiser.init(params)
  gone = np.zeros((8, 8), bool)
  for step in range(12):
    grads = jax.grad(lambda p: jnp.sum(jnp.sin(decayed.weights(p, state)['a']))
                     + decayed.penalty(p, state))(params)
    updates, moments = optimiser.update(grads, moments, params)
    params = optax.apply_updates(params, updates)
    params, state = decayed.update(params, state, step=step)
    now = np.asarray(decayed.weights(params, state)['a'])
    assert np.all(now[gone] == 0)
    gone |= now == 0
  assert gone.sum() == 48


@pytest.mark.parametrize('call, message', [
    (lambda: share({'a': np.ones((2, 2))}, {'a': 0}), r"bits\['a'\]=0"),
    (lambda: share({'a': np.ones((2, 2))}, {'b': 3}), "'b' matches no leaf; leaves are a"),
    (lambda: share({'a': np.ones((2, 2))}, {'a': 3, '.*': 4}), 'a is matched by two'),
    (lambda: share({'a': np.full((2, 2), np.inf)}, {'a': 3}), 'not finite'),
    (lambda: threshold_mask(np.ones(3), -1.0), 'quality=-1.0'),
    (lambda: retraining_dropout(0.5, 3, 4), 'kept=4'),
])
def test_refuses(call, message):
  with pytest.raises(ValueError, match=message):
    call()
