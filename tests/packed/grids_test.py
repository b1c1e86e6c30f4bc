"""Grids against their definitions: the nearest of the points written down, by brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.packed import grids
from sparsejax.post_training import int8

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(7, 5)).astype(np.float32) * np.array([1, 0.1, 3, 1, 1], np.float32)
WEIGHT[:, 4] = 0                                                       # a channel of zeros
WEIGHT[3, 0] = 0
ULP = 2.0**-23


def channels(axis):
  """Returns the parts of WEIGHT that share a scale."""
  return [WEIGHT] if axis is None else list(WEIGHT.T)


def nearest(values, points):
  return points[np.abs(values[..., None] - points).argmin(-1)]


GRIDS = {
    'affine': (lambda w, axis: grids.affine(w, 4, axis=axis),
               lambda w: np.abs(w).max() / 7 * np.arange(-7, 8)),
    'uniform': (lambda w, axis: grids.uniform(w, 3, axis=axis),
                lambda w: np.linspace(-1, 1, 8) * np.abs(w).max()),
    'uniform_clipped': (lambda w, axis: grids.uniform(w, 2, axis=axis, bound=1.0),
                        lambda w: np.linspace(-1, 1, 4)),
    'sign_scaled': (lambda w, axis: grids.sign(w, axis=axis, scale=0.5),
                    lambda w: np.array([-0.5, 0.5])),
}


@pytest.mark.parametrize('axis', [None, -1])
@pytest.mark.parametrize('name', GRIDS)
def test_every_weight_goes_to_the_nearest_point(name, axis):
  grid, points = GRIDS[name]
  packed = grid(jnp.asarray(WEIGHT), axis)
  dense = np.asarray(packed.to_dense())
  for ours, part in zip([dense] if axis is None else dense.T, channels(axis)):
    if not part.any():
      continue           # no scale is defined; see the test of zeros
    wanted = points(part.astype(np.float64))
    own = part.astype(np.float64)
    # A weight in the middle of two points may go to either, so distances are compared.
    tolerance = 2 * ULP * np.abs(wanted).max()
    distance = np.abs(own - nearest(own, wanted))
    np.testing.assert_allclose(np.abs(ours - own), distance, atol=tolerance)
    assert np.abs(ours[..., None] - wanted).min(-1).max() <= tolerance
  # Property: rounding what is rounded changes nothing.
  if name != 'uniform_clipped':
    np.testing.assert_allclose(grid(packed.to_dense(), axis).to_dense(), dense, rtol=2 * ULP)


@pytest.mark.parametrize('axis', [None, -1])
@pytest.mark.parametrize('bits', [2, 8])
def test_unsigned_affine_codes_hold_zero_exactly(bits, axis):
  packed = grids.affine(jnp.asarray(WEIGHT - 0.3 * (WEIGHT != 0)), bits, axis=axis, signed=False)
  values = WEIGHT - 0.3 * (WEIGHT != 0)
  dense = np.asarray(packed.to_dense())
  assert packed.codes.dtype == np.uint8 and np.all(dense[values == 0] == 0)
  step = np.asarray(packed.scale) * np.ones(5)
  # In the range half a step; rounding the zero point moved the range by up to half a step too.
  wrong, slack = np.abs(dense - values) / step, 2**bits * ULP
  zero = np.asarray(packed.zero_point) * np.ones(5)
  inside = (values >= -zero * step) & (values <= (2**bits - 1 - zero) * step)
  assert np.all(wrong[inside] <= 0.5 + slack) and np.all(wrong <= 1 + slack)
  levels = 2**bits - 1
  low, high = np.minimum(values.min(), 0), np.maximum(values.max(), 0)
  if axis is None:
    np.testing.assert_allclose(packed.scale, (high - low) / levels, rtol=4 * ULP)
    assert int(packed.zero_point) == round(-low / ((high - low) / levels))
  again = grids.affine(packed.to_dense(), bits, axis=axis, signed=False)
  if bits == 8:
    np.testing.assert_allclose(again.to_dense(), dense, rtol=4 * ULP, atol=1e-6)


def test_the_codes_of_the_baseline_are_the_same():
  baseline = int8.quantise({'kernel': WEIGHT})
  packed = grids.affine(jnp.asarray(WEIGHT), 8, axis=-1)
  np.testing.assert_array_equal(packed.codes, baseline['kernel//int8'])
  # XLA divides by a constant by multiplying with its reciprocal: a unit in the last place.
  np.testing.assert_allclose(packed.scale, baseline['kernel//scale'], rtol=2**-22)


@pytest.mark.parametrize('bits', [2, 3, 5])
def test_powers_of_two_are_the_nearest(bits):
  packed = grids.power_of_two(jnp.asarray(WEIGHT), bits)
  count = 2**(bits - 1) - 1
  largest = np.abs(WEIGHT).max()
  top = max(range(-9, 9), key=lambda e: (-abs(2.0**e - largest), e))
  powers = 2.0**np.arange(top - count + 1, top + 1)
  points = np.sort(np.concatenate([-powers, [0], powers]))
  np.testing.assert_array_equal(np.sort(packed.values), points)
  np.testing.assert_array_equal(packed.to_dense(), nearest(WEIGHT, points))
  assert packed.values[0] == 0 and packed.width == bits


def test_a_tie_between_powers_goes_to_the_larger():
  packed = grids.power_of_two(jnp.array([[1.0, 0.75, 0.7499, 0.25, -0.25, 0.2499]]), 3)
  np.testing.assert_array_equal(packed.to_dense(), [[1, 1, 0.5, 0.25, -0.25, 0.25]])
  packed = grids.power_of_two(jnp.array([[1.0, 0.125, -0.1249]]), 3)
  np.testing.assert_array_equal(packed.to_dense(), [[1, 0.25, 0]])


@pytest.mark.parametrize('axis', [None, -1])
def test_ternary_weights_by_hand_and_the_best_scale(axis):
  packed = grids.ternary(jnp.asarray(WEIGHT), axis=axis)
  dense = np.asarray(packed.to_dense())
  for ours, part in zip([dense] if axis is None else dense.T, channels(axis)):
    kept = np.abs(part) > 0.7 * np.abs(part).mean()
    scale = np.abs(part)[kept].mean() if kept.any() else 0.0
    wanted = np.where(kept, np.sign(part) * scale, 0)
    np.testing.assert_allclose(ours, wanted, rtol=4 * ULP)
    for other in (scale - 1e-3, scale + 1e-3):       # property: the best scale for these codes
      worse = np.square(part - np.where(kept, np.sign(part) * other, 0)).sum()
      assert worse >= np.square(part - wanted).sum()
  assert packed.codes.dtype == np.int8 and set(np.unique(packed.codes)) <= {-1, 0, 1}


def test_the_mean_magnitude_is_the_best_scale_of_signs():
  packed = grids.sign(jnp.asarray(WEIGHT), axis=-1)
  np.testing.assert_array_equal(packed.codes, np.where(WEIGHT >= 0, 1, -1))
  np.testing.assert_allclose(packed.scale, np.abs(WEIGHT).mean(0), rtol=4 * ULP)
  for column, scale in zip(WEIGHT.T.astype(np.float64), np.asarray(packed.scale, np.float64)):
    signs = np.where(column >= 0, 1, -1)
    for other in (scale - 1e-3, scale + 1e-3):
      assert np.square(column - other * signs).sum() > np.square(column - scale * signs).sum()


@pytest.mark.parametrize('grid', [
    grids.affine, lambda w: grids.affine(w, signed=False), lambda w: grids.uniform(w, 3),
    grids.power_of_two, grids.ternary, grids.sign])
def test_zeros_make_no_nan_and_the_dtype_stays(grid):
  for dtype in (jnp.float32, jnp.bfloat16):
    dense = grid(jnp.zeros((3, 2), dtype)).to_dense()
    assert dense.dtype == dtype and np.all(np.isfinite(np.asarray(dense, np.float32)))
  packed = jax.jit(grid)(jnp.asarray(WEIGHT))
  np.testing.assert_allclose(packed.to_dense(), grid(jnp.asarray(WEIGHT)).to_dense(), rtol=4 * ULP)


@pytest.mark.parametrize('call, message', [
    (lambda: grids.affine(WEIGHT, 1), 'bits=1 must be an integer between 2 and 16'),
    (lambda: grids.uniform(WEIGHT, 16), 'bits=16 must be an integer between 1 and 15'),
    (lambda: grids.power_of_two(WEIGHT, 8), 'between 2 and 7'),
    (lambda: grids.affine(WEIGHT, axis=1), 'axis=1 is no axis of a weight of shape'),
    (lambda: grids.affine(WEIGHT, axis=-3), 'axis=-3 is no axis'),
])
def test_what_is_no_grid_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
