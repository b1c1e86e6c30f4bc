"""Integer products and requantisation, bit for bit against NumPy's int64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.post_training import fixed_point

RNG = np.random.default_rng(0)
EDGES = np.array([-2**31, -2**31 + 1, -2**16, -1, 0, 1, 2**16 - 1, 2**31 - 1], np.int64)


def requantised(sums, multiplier, shift):
  """The definition, in 64 bits, which hold 2^62 + 2^61."""
  product = sums.astype(np.int64) * multiplier.astype(np.int64)
  return (product + (np.int64(1) << (shift.astype(np.int64) - 1))) >> shift


def test_requantisation_is_exact_at_every_shift():
  shifts = np.arange(30, 63, dtype=np.int32)
  multipliers = RNG.integers(1 << 30, 1 << 31, shifts.size).astype(np.int32)
  multipliers[0] = 1 << 30                     # a factor of 1, the only one with a shift of 30
  multipliers[3], multipliers[4] = 2**31 - 1, 1 << 30
  sums = np.concatenate([EDGES, RNG.integers(-2**31, 2**31, 200), RNG.integers(-500, 500, 50)])
  sums = np.repeat(sums.astype(np.int32)[:, None], shifts.size, axis=1)
  ours = jax.jit(fixed_point.requantise)(sums, multipliers, shifts)
  np.testing.assert_array_equal(ours, requantised(sums, multipliers, shifts))


def test_ties_go_up():
  multiplier, shift = fixed_point.fixed_point(np.array([0.5]))
  ours = fixed_point.requantise(jnp.array([[1], [-1], [3], [-3], [2]]), multiplier, shift)
  np.testing.assert_array_equal(ours[:, 0], [1, 0, 2, -1, 1])


def test_factors_are_held_to_31_bits():
  factors = np.concatenate([RNG.uniform(0, 1, 100), 2.0**-np.arange(0, 31), [1 - 2.0**-40, 1.0],
                            np.exp(RNG.uniform(-20, 0, 100))])
  multipliers, shifts = fixed_point.fixed_point(factors)
  held = multipliers.astype(np.float64) * 2.0**-shifts
  assert np.max(np.abs(held / factors - 1)) <= 2.0**-31
  assert multipliers.min() >= 1 << 30 and shifts.min() >= 30 and shifts.max() <= 62


def test_a_factor_too_small_for_a_half_gives_zero():
  multiplier, shift = fixed_point.fixed_point(np.array([2.0**-40]))
  sums = jnp.asarray(EDGES.astype(np.int32))[:, None]
  np.testing.assert_array_equal(fixed_point.requantise(sums, multiplier, shift), 0)


@pytest.mark.parametrize('factor', [0.0, 1.5, np.nan])
def test_a_factor_out_of_range_is_refused(factor):
  with pytest.raises(ValueError, match=r'must lie in \(0, 1\]'):
    fixed_point.fixed_point(np.array([factor]))


@pytest.mark.parametrize('kinds', [(np.uint8, np.uint8), (np.int8, np.int8), (np.uint8, np.int8)])
def test_the_expansion_by_zero_points_is_the_sum_itself(kinds):
  (low1, high1), (low2, high2) = ((np.iinfo(kind).min, np.iinfo(kind).max) for kind in kinds)
  q1 = RNG.integers(low1, high1 + 1, (3, 2, 50)).astype(kinds[0])
  q2 = RNG.integers(low2, high2 + 1, (50, 4)).astype(kinds[1])
  z1, z2 = 17, RNG.integers(low2, high2 + 1, 4).astype(np.int32)
  wanted = (q1.astype(np.int64) - z1) @ (q2.astype(np.int64) - z2)
  np.testing.assert_array_equal(fixed_point.integer_product(q1, q2, z1, z2), wanted)
