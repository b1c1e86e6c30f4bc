"""Codebooks: the round trip, the gradient as a sum over members, and pruned weights that stay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.paths import flatten
from sparsejax.post_training.codebook_tuning import codebook_gradient, decode, encode, tune

WEIGHTS = {
    'dense0': {'kernel': np.array([[0.5, 0.0, -0.25], [0.0, 0.5, 0.5]], np.float32),
               'bias': np.array([0.0, -0.25, 0.0], np.float32)},
    'head': {'kernel': np.array([[1.5], [0.0], [0.5]], np.float32)},
}


def test_round_trip_with_one_codebook():
  codes, codebooks = encode(WEIGHTS)
  np.testing.assert_array_equal(codebooks['.*'], [0.0, -0.25, 0.5, 1.5])
  np.testing.assert_array_equal(codes['dense0']['kernel'], [[2, 0, 1], [0, 2, 2]])
  for path, leaf in flatten(decode(codes, codebooks)).items():
    np.testing.assert_array_equal(leaf, flatten(WEIGHTS)[path])


def test_a_codebook_for_each_layer_and_leaves_without_one():
  codes, codebooks = encode(WEIGHTS, ('dense0/kernel', 'head/.*'))
  assert sorted(flatten(codes)) == ['dense0/kernel', 'head/kernel']
  np.testing.assert_array_equal(codebooks['head/.*'], [0.0, 0.5, 1.5])
  np.testing.assert_array_equal(decode(codes, codebooks)['head']['kernel'],
                                WEIGHTS['head']['kernel'])


def test_gradient_is_the_sum_over_members_by_hand_and_by_differentiation():
  codes, codebooks = encode(WEIGHTS)
  grads = {
      'dense0': {'kernel': jnp.array([[1.0, 10.0, 2.0], [20.0, 3.0, 4.0]]),
                 'bias': jnp.array([30.0, 5.0, 40.0])},
      'head': {'kernel': jnp.array([[6.0], [50.0], [7.0]])},
  }
  found = codebook_gradient(codes, grads, codebooks)['.*']
  np.testing.assert_array_equal(found, [0, 2 + 5, 1 + 3 + 4 + 7, 6])

  def inner(codebooks):
    weights = flatten(decode(codes, codebooks))
    return sum(jnp.vdot(weights[path], g) for path, g in flatten(grads).items())
  np.testing.assert_allclose(jax.grad(inner)(codebooks)['.*'][1:], found[1:], rtol=1e-6)


def test_tuning_finds_the_least_squares_codebook_and_keeps_zeros():
  codes, codebooks = encode(WEIGHTS)
  target = jax.tree.map(lambda w: w + 0.1 + 0.3 * w**2, WEIGHTS)

  def gradient(weights, batch):
    return jax.tree.map(lambda w, t: w - t + 0.0 * batch, weights, target)
  found = tune(codes, codebooks, gradient, [jnp.zeros(())] * 300, optax.sgd(0.05, momentum=0.9))
  flat_codes, flat_target = (
      np.concatenate([np.ravel(leaf) for _, leaf in sorted(flatten(tree).items())])
      for tree in (codes, target))
  wanted = [0.0, *(flat_target[flat_codes == k].mean() for k in (1, 2, 3))]
  np.testing.assert_allclose(found['.*'], wanted, rtol=1e-4, atol=1e-6)
  assert found['.*'][0] == 0


@pytest.mark.parametrize(('weights', 'patterns', 'words'), [
    (WEIGHTS, ('nothing',), "'nothing' matches no leaf"),
    (WEIGHTS, ('.*', 'head/.*'), 'head/kernel is matched by 2'),
    ({'a': np.array([np.nan], np.float32)}, ('.*',), 'not finite'),
])
def test_what_cannot_be_coded_is_named(weights, patterns, words):
  with pytest.raises(ValueError, match=words):
    encode(weights, patterns)
