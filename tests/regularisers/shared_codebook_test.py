"""Codebooks under the trainer: gradients are sums over members, and zeros stay."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.paths import flatten
from sparsejax.post_training import codebook_tuning
from sparsejax.regularisers.shared_codebook import shared_codebook
from sparsejax.testing import check_regulariser, example_weights

CODES = {'layer': {'kernel': np.array([[0, 1, 2], [2, 2, 0]])}}
WEIGHTS = {'layer': {'kernel': jnp.array([[9.0, 1.0, 2.0], [3.0, 4.0, 9.0]])}}


def example_codes():
  """Five codes at random for each leaf of the example; code 3 has no member, 0 has some."""
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda w: np.array([0, 1, 2, 4, 5])[rng.integers(5, size=w.shape)],
                      example_weights(jax.random.key(7)))


def test_obeys_the_laws():
  check_regulariser(shared_codebook(example_codes()), oracle=lambda params, state: 0.0)


def test_starts_from_the_means_of_the_members():
  method = shared_codebook(CODES)
  params, state = method.init(jax.random.key(0), WEIGHTS)
  np.testing.assert_array_equal(params['codebook']['layer']['kernel'], [0, 1, 3])
  np.testing.assert_array_equal(method.weights(params, state)['layer']['kernel'],
                                [[0, 1, 3], [3, 3, 0]])


def test_gradient_is_the_sum_over_the_members():
  method = shared_codebook(example_codes())
  params, state = method.init(jax.random.key(0), example_weights(jax.random.key(7)))

  def loss(weights):
    return sum(jnp.sum(jnp.sin(3 * leaf + i)) for i, leaf in enumerate(jax.tree.leaves(weights)))
  got = flatten(jax.grad(lambda p: loss(method.weights(p, state)))(params)['codebook'])
  dense = flatten(jax.grad(loss)(method.weights(params, state)))
  for path, codes in flatten(state['codes']).items():
    terms = np.asarray(dense[path], np.float64)
    for k in range(6):
      members = terms[np.asarray(codes) == k] if k else terms[:0]
      # A sum of n float32 numbers, in any order, errs by n units in the last place of sum |term|.
      np.testing.assert_allclose(got[path][k], members.sum(), rtol=0,
                                 atol=members.size * 2.0**-23 * np.abs(members).sum())


def test_gradient_agrees_with_finite_differences():
  with jax.enable_x64(True):
    method = shared_codebook(CODES)
    weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), WEIGHTS)
    params, state = method.init(jax.random.key(0), weights)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)

    def loss(book):
      drawn = method.weights({'codebook': {'layer': {'kernel': book}}}, state)
      return float(jnp.sum(jnp.exp(0.3 * drawn['layer']['kernel']) ** 2))
    book = params['codebook']['layer']['kernel']
    got = jax.grad(lambda p: jnp.sum(jnp.exp(
        0.3 * method.weights(p, state)['layer']['kernel']) ** 2))(params)
    for k in range(3):
      step = 1e-6 * np.eye(3)[k]
      slope = (loss(book + step) - loss(book - step)) / 2e-6
      np.testing.assert_allclose(got['codebook']['layer']['kernel'][k], slope, rtol=1e-5, atol=1e-9)


def test_zeros_stay_under_momentum_and_decay():
  method = shared_codebook(CODES)
  params, state = method.init(jax.random.key(0), WEIGHTS)
  optimiser = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9))
  moments = optimiser.init(params)
  before = params
  for _ in range(10):
    grads = jax.grad(lambda p: method.weights(p, state)['layer']['kernel'].sum())(params)
    # as if a careless optimiser moved the pinned entry too
    grads['codebook']['layer']['kernel'] = grads['codebook']['layer']['kernel'].at[0].set(5.0)
    updates, moments = optimiser.update(grads, moments, params)
    params = optax.apply_updates(params, updates)
  drawn = method.weights(params, state)['layer']['kernel']
  assert np.all(np.asarray(drawn)[CODES['layer']['kernel'] == 0] == 0)
  assert np.all(params['codebook']['layer']['kernel'] != before['codebook']['layer']['kernel'])


def test_agrees_with_the_function_that_tunes_codebooks():
  values = {'layer': {'kernel': np.float32([[0, 1, -2], [-2, 1, 0]])}}
  codes, books = codebook_tuning.encode(values, ('layer/kernel',))
  method = shared_codebook(codes)
  params, state = method.init(jax.random.key(0), values)
  np.testing.assert_array_equal(params['codebook']['layer']['kernel'], books['layer/kernel'])
  np.testing.assert_array_equal(method.weights(params, state)['layer']['kernel'],
                                values['layer']['kernel'])


@pytest.mark.parametrize('codes, message', [
    ({'other': np.zeros((2, 3), int)}, 'layer/kernel has no codes; they are given for other'),
    ({'layer': {'kernel': np.zeros((3, 2), int)}}, r'of shape \(3, 2\)'),
    ({'layer': {'kernel': np.zeros((2, 3))}}, 'not float64'),
    ({'layer': {'kernel': np.full((2, 3), -1)}}, 'from -1 on'),
])
def test_refuses(codes, message):
  with pytest.raises(ValueError, match=message):
    shared_codebook(codes).init(jax.random.key(0), WEIGHTS)
