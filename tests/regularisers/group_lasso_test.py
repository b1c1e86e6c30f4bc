"""Group lasso: penalty and gradient in NumPy, groups at zero, what is deployed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.regularisers import group_lasso as module

RNG = np.random.default_rng(1)
W = {'conv': {'kernel': RNG.normal(size=(3, 3, 4, 6))},
     'dense': {'kernel': RNG.normal(size=(5, 3))}}
WEIGHTS = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), W)
AXES = {'conv/.*': -1, 'dense/.*': 0}


def groups(w, axis):
  """The slices of a NumPy array along an axis, one row each."""
  return np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1)


def penalty(tree, strength, axes):
  return strength * sum(np.sqrt(row.size) * np.linalg.norm(row)
                        for name, axis in axes.items()
                        for row in groups(tree[name]['kernel'], axis))


@pytest.mark.parametrize('axis', [-1, -2])
def test_group_squares(axis):
  for w in (W['conv']['kernel'], W['dense']['kernel']):
    wanted = (groups(w, axis) ** 2).sum(1)
    for same in (axis, axis + w.ndim):
      np.testing.assert_allclose(module.group_squares(jnp.asarray(w, jnp.float32), same), wanted,
                                 rtol=1e-6)


def test_penalty_and_gradient_against_finite_differences():
  method = sparsejax.group_lasso(0.3, axis=AXES)
  params, state = method.init(jax.random.key(0), WEIGHTS)
  value, grads = jax.jit(jax.value_and_grad(method.penalty))(params, state)
  axes = {'conv': -1, 'dense': 0}
  np.testing.assert_allclose(value, penalty(W, 0.3, axes), rtol=1e-6)
  h = 1e-5                # central differences in float64: error about h**2, far below float32's
  for name in W:
    for index in ((0,) * W[name]['kernel'].ndim, tuple(n - 1 for n in W[name]['kernel'].shape)):
      ends = []
      for sign in (1, -1):
        moved = jax.tree.map(np.copy, W)
        moved[name]['kernel'][index] += sign * h
        ends.append(penalty(moved, 0.3, axes))
      np.testing.assert_allclose(grads[name]['kernel'][index], (ends[0] - ends[1]) / (2 * h),
                                 rtol=1e-5)


def test_a_group_at_zero_has_no_gradient():
  method = sparsejax.group_lasso(0.3, axis=-2)
  weights = {'dense': {'kernel': WEIGHTS['dense']['kernel'].at[1].set(0.0)}}
  params, state = method.init(jax.random.key(0), weights)
  grads = jax.grad(method.penalty)(params, state)['dense']['kernel']
  np.testing.assert_array_equal(grads[1], 0.0)
  assert np.all(np.isfinite(grads)) and np.all(grads[0] != 0)


def test_whole_groups_below_the_threshold_are_deployed_as_zero():
  threshold = 0.25
  scale = np.array([1.0, 0.2, 0.3, 0.0, 0.24])         # the root mean square of each input's row
  rows = RNG.normal(size=(5, 3))
  rows *= scale[:, None] / np.sqrt((rows**2).mean(1, keepdims=True))
  method = sparsejax.group_lasso(0.3, axis=-2, threshold=threshold)
  weights = {'dense': {'kernel': jnp.asarray(rows, jnp.float32)}}
  params, state = method.init(jax.random.key(0), weights)
  deployed = np.asarray(method.weights(params, state)['dense']['kernel'])
  kept = scale >= threshold
  np.testing.assert_array_equal(deployed[~kept], 0.0)
  np.testing.assert_array_equal(deployed[kept], rows[kept].astype(np.float32))
  # Training sees them as they are: nothing is dead for good.
  drawn = method.weights(params, state, jax.random.key(0))
  np.testing.assert_array_equal(drawn['dense']['kernel'], rows.astype(np.float32))
  # The threshold is a number in the state: choose it after training.
  none = method.weights(params, {**state, 'threshold': jnp.float32(0.0)})['dense']['kernel']
  np.testing.assert_array_equal(none, rows.astype(np.float32))


def test_filters_of_a_convolution_are_deployed_as_zero():
  kernel = WEIGHTS['conv']['kernel'].at[..., 2].multiply(1e-5)
  method = sparsejax.group_lasso(0.3, axis=-1)
  deployed = method.weights(*method.init(jax.random.key(0), {'conv': {'kernel': kernel}}))
  zero = ~np.any(np.asarray(deployed['conv']['kernel']), axis=(0, 1, 2))
  np.testing.assert_array_equal(zero, [False, False, True, False, False, False])


def test_schedules_move_strength_and_threshold():
  method = sparsejax.group_lasso(optax.linear_schedule(0.0, 1.0, 10), axis=-2,
                                 threshold=optax.linear_schedule(1.0, 2.0, 10))
  params, state = method.init(jax.random.key(0), WEIGHTS)
  _, state = method.update(params, state, step=jnp.int32(4))
  np.testing.assert_allclose([state['strength'], state['threshold']], [0.5, 1.5], rtol=1e-6)


@pytest.mark.parametrize('numbers', [{'strength': -0.1}, {'strength': 0.1, 'threshold': -1.0}])
def test_negative_numbers_are_refused(numbers):
  with pytest.raises(ValueError, match='must be finite and not negative'):
    sparsejax.group_lasso(**numbers)


def test_an_axis_that_a_leaf_lacks_is_refused():
  with pytest.raises(ValueError, match='axis -3 does not exist on dense/kernel'):
    sparsejax.group_lasso(0.1, axis=-3).init(jax.random.key(0), {'dense': WEIGHTS['dense']})
