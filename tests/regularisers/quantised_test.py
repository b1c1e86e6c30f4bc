"""Training with few bits: the papers' values and slopes, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.packed.codebook import Codebook
from sparsejax.packed.quantised import Quantised
from sparsejax.regularisers import quantised

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(6, 4)).astype(np.float32)
SLOPES = RNG.normal(size=(6, 4)).astype(np.float32)
WEIGHTS = {'dense': {'kernel': jnp.asarray(KERNEL)}}


def started(method):
  return method.init(jax.random.key(0), WEIGHTS)


def kernel_of(tree):
  return np.asarray(tree['dense']['kernel'])


def gradient(method, params, state, key=None):
  """Of the sum of SLOPES times the weights."""
  return jax.grad(lambda p: jnp.sum(SLOPES * method.weights(p, state, key)['dense']['kernel']))(
      params)


@pytest.mark.parametrize('method', [
    quantised.affine_weights(3, axis=-1), quantised.affine_weights(4, signed=False),
    quantised.uniform_weights(2), quantised.power_of_two_weights(3), quantised.ternary_weights(),
    quantised.binary_connect()])
def test_the_gradient_passes_straight_through(method):
  params, state = started(method)
  np.testing.assert_array_equal(kernel_of(gradient(method, params, state)), SLOPES)


def test_what_the_bound_clips_gets_no_gradient():
  method = quantised.uniform_weights(3, bound=0.8)
  params, state = started(method)
  inside = np.abs(KERNEL) <= 0.8
  assert inside.any() and not inside.all()
  np.testing.assert_array_equal(kernel_of(gradient(method, params, state)),
                                np.where(inside, SLOPES, 0))
  assert np.abs(kernel_of(method.weights(params, state))).max() <= np.float32(0.8)


@pytest.mark.parametrize('axis', [-1, None])
def test_binary_weights_have_the_papers_slope(axis):
  method = quantised.binary_weights(axis=axis)
  params, state = started(method)
  alpha = np.abs(KERNEL).mean(0 if axis else None)
  count = 6 if axis else 24
  np.testing.assert_allclose(kernel_of(method.weights(params, state)),
                             np.where(KERNEL >= 0, alpha, -alpha), rtol=1e-6)   # means of 24 terms
  wanted = SLOPES * (1 / count + alpha * (np.abs(KERNEL) <= 1))
  np.testing.assert_allclose(kernel_of(gradient(method, params, state)), wanted, rtol=1e-6)


def test_stochastic_signs_have_the_weight_as_their_mean():
  method = quantised.binary_connect(stochastic=True, bound=1.5)
  params, state = started(method)
  draws = 4000
  keys = jax.random.split(jax.random.key(1), draws)
  drawn = jax.vmap(lambda key: method.weights(params, state, key)['dense']['kernel'])(keys)
  assert set(np.unique(drawn)) == {-1.5, 1.5}
  mean = np.clip(KERNEL, -1.5, 1.5)
  error = np.sqrt((1.5**2 - mean**2) / draws)
  np.testing.assert_array_less(np.abs(np.asarray(drawn).mean(0) - mean), 5 * error + 1e-6)
  np.testing.assert_array_equal(kernel_of(gradient(method, params, state, keys[0])), SLOPES)


def test_stochastic_signs_are_deployed_as_signs_or_as_the_paper_tests_them():
  for deployed, wanted in (('sign', np.where(KERNEL >= 0, 1, -1)), ('real', KERNEL)):
    method = quantised.binary_connect(stochastic=True, deployed=deployed)
    np.testing.assert_array_equal(kernel_of(method.weights(*started(method))), wanted)
    dense = sparsejax.densify(sparsejax.finalise(method, *started(method)))
    np.testing.assert_array_equal(kernel_of(dense), wanted)


def test_real_weights_are_clipped_after_each_step():
  method = quantised.binary_connect(bound=0.5)
  params, state = started(method)
  params, _ = method.update(params, state, step=0)
  np.testing.assert_array_equal(kernel_of(params), np.clip(KERNEL, -0.5, 0.5))


def test_trained_ternary_scales_by_hand_and_by_finite_differences():
  method = quantised.trained_ternary_weights(0.3)
  params, state = started(method)
  limit = 0.3 * np.abs(KERNEL).max()
  above, below = limit < KERNEL, -limit > KERNEL
  scales = {'positive': KERNEL[above].mean(), 'negative': -KERNEL[below].mean()}
  for side, wanted in scales.items():
    found = kernel_of(params['scale'][side])
    assert found.shape == (1, 1)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)           # a mean of some ten terms
  scales = {side: kernel_of(params['scale'][side]).item() for side in scales}
  wanted = np.where(above, scales['positive'], np.where(below, -scales['negative'], 0))
  np.testing.assert_array_equal(kernel_of(method.weights(params, state)),
                                wanted.astype(np.float32))

  found = gradient(method, params, state)
  for side in scales:
    def total(change, side=side):
      scale = {**params['scale'], side: {'dense': {'kernel': params['scale'][side]['dense'][
          'kernel'] + change}}}
      drawn = method.weights({**params, 'scale': scale}, state)
      return np.sum(SLOPES.astype(np.float64) * kernel_of(drawn))
    # linear in the scale: differences over 0.5 are exact up to float32 rounding of 24 values
    np.testing.assert_allclose(kernel_of(found['scale'][side]).item(),
                               (total(0.25) - total(-0.25)) / 0.5, atol=24 * 4 * 2**-24)
  slope = np.where(above, scales['positive'], np.where(below, scales['negative'], 1))
  np.testing.assert_allclose(kernel_of(found['weight']), SLOPES * slope, rtol=1e-6)


def test_leaves_are_deployed_packed():
  kinds = {Quantised: [quantised.affine_weights(4), quantised.uniform_weights(4, axis=-1),
                       quantised.ternary_weights(), quantised.binary_weights(),
                       quantised.binary_connect()],
           Codebook: [quantised.power_of_two_weights(), quantised.trained_ternary_weights()]}
  for kind, methods in kinds.items():
    for method in methods:
      params, state = started(method)
      packed = sparsejax.finalise(method, params, state)['dense']['kernel']
      assert isinstance(packed, kind) and isinstance(packed.codes, np.ndarray)
      assert packed.codes.itemsize == 1
      np.testing.assert_array_equal(packed.to_dense(), kernel_of(method.weights(params, state)))


@pytest.mark.parametrize('method', [quantised.binary_weights(), quantised.affine_weights(4),
                                    quantised.trained_ternary_weights(0.3)])
def test_a_stack_is_deployed_with_the_scales_of_each_layer(method):
  stack = {'dense': {'kernel': jnp.stack([KERNEL, 3 * KERNEL[::-1]])}}
  both = sparsejax.stacked(method)
  params, state = both.init(jax.random.key(0), stack)
  packed = sparsejax.finalise(both, params, state)['dense']['kernel']
  assert packed.shape == (2, 6, 4)
  drawn = kernel_of(both.weights(params, state))
  np.testing.assert_allclose(packed.to_dense(), drawn, rtol=2**-21)    # vmapped and not
  np.testing.assert_allclose(drawn[1], 3 * drawn[0][::-1], rtol=1e-6)


def test_a_scheduled_threshold_moves():
  method = quantised.ternary_weights(optax.linear_schedule(0.0, 0.8, 4))
  params, state = started(method)
  before = np.mean(kernel_of(method.weights(params, state)) == 0)
  _, state = method.update(params, state, step=3)
  assert before == 0 and np.mean(kernel_of(method.weights(params, state)) == 0) > 0.2


def test_pruned_weights_stay_pruned_under_rounding():
  method = sparsejax.chain(quantised.affine_weights(4, axis=-1), sparsejax.magnitude_pruning(0.5))
  params, state = started(method)
  params, state = method.update(params, state, step=0)
  packed = sparsejax.finalise(method, params, state)['dense']['kernel']
  assert isinstance(packed, Quantised) and np.mean(np.asarray(packed.codes) == 0) >= 0.5


@pytest.mark.parametrize('call, message', [
    (lambda: quantised.affine_weights(1), 'bits=1'),
    (lambda: quantised.uniform_weights(3, bound=0.0), 'bound=0.0 must be positive'),
    (lambda: quantised.power_of_two_weights(9), 'bits=9'),
    (lambda: quantised.ternary_weights(1.0), 'threshold=1.0'),
    (lambda: quantised.binary_connect(bound=-1.0), 'bound=-1.0'),
    (lambda: quantised.binary_connect(deployed='real'), "deployed='real' with stochastic=False"),
])
def test_arguments_out_of_range_are_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
