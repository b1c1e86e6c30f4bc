"""Intervals against Monte Carlo coverage, SciPy, and numbers worked by hand."""
import math

import numpy as np
import pytest
from scipy import stats

from sparsejax.statistics import joint_level, mean_interval, prediction_interval

TRIALS = 4000


def coverage(interval, target_of, n, level):
  """Fraction of trials whose target lies in the interval of n normal values, mean 3, sd 2."""
  rng = np.random.default_rng(n)
  inside = 0
  for _ in range(TRIALS):
    low, high = interval(rng.normal(3, 2, n), level)
    inside += low <= target_of(rng) <= high
  return inside / TRIALS


@pytest.mark.parametrize('n, level', [(2, 0.95), (3, 0.975), (10, 0.8)])
def test_a_new_run_falls_into_the_prediction_interval_as_often_as_promised(n, level):
  seen = coverage(prediction_interval, lambda rng: rng.normal(3, 2), n, level)
  assert abs(seen - level) < 4 * math.sqrt(level * (1 - level) / TRIALS)


@pytest.mark.parametrize('n, level', [(2, 0.95), (10, 0.8)])
def test_the_mean_falls_into_the_mean_interval_as_often_as_promised(n, level):
  seen = coverage(mean_interval, lambda rng: 3.0, n, level)
  assert abs(seen - level) < 4 * math.sqrt(level * (1 - level) / TRIALS)


def test_a_new_run_is_missed_by_the_mean_interval():
  """With 50 runs the mean interval holds a new run in 22 % of cases: 2 Phi(1.96 / sqrt(50)) - 1."""
  seen = coverage(mean_interval, lambda rng: rng.normal(3, 2), 50, 0.95)
  assert seen < 0.3


def test_three_values_by_hand():
  # mean 2, s = 1, t_{2, 0.975} = 4.302653; sqrt(4 / 3) = 1.154701
  low, high = prediction_interval([1, 2, 3])
  assert high - 2 == pytest.approx(4.302653 * 1.154701, rel=1e-6)
  assert 2 - low == pytest.approx(4.302653 * 1.154701, rel=1e-6)


def test_the_mean_interval_is_scipys():
  values = np.random.default_rng(0).normal(size=7)
  expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
  np.testing.assert_allclose(mean_interval(values, 0.9), expected, rtol=1e-12)


def test_the_prediction_interval_does_not_shrink_below_the_spread():
  values = np.random.default_rng(0).normal(size=2000)
  low, high = prediction_interval(values)
  # s is within 5 / sqrt(2 * 2000) of 1, and t has its normal limit to 0.1 %.
  assert (high - low) / 2 == pytest.approx(1.96, rel=0.1)


def test_a_pair_is_jointly_inside_as_often_as_promised():
  """Two independent scores, each at joint_level: the product (1 - a/2)^2 is the coverage."""
  each = joint_level(0.9, 2)
  assert each == pytest.approx(0.95)
  rng = np.random.default_rng(0)
  inside = 0
  for _ in range(TRIALS):
    runs = rng.normal(size=(2, 5))
    inside += all(low <= rng.normal() <= high
                  for low, high in (prediction_interval(run, each) for run in runs))
  joint = 0.95**2
  assert joint > 0.9
  assert abs(inside / TRIALS - joint) < 4 * math.sqrt(joint * (1 - joint) / TRIALS)
  assert joint_level(0.95, 1) == pytest.approx(0.95)


@pytest.mark.parametrize('interval', [prediction_interval, mean_interval])
def test_mistakes_are_named(interval):
  with pytest.raises(ValueError, match=r'shape \(1,\).*at least two.*add seeds'):
    interval([1.0])
  with pytest.raises(ValueError, match=r'shape \(2, 2\)'):
    interval(np.ones((2, 2)))
  with pytest.raises(ValueError, match='nan.*not finite'):
    interval([1.0, np.nan])
  for level in (0.0, 1.0, 95):
    with pytest.raises(ValueError, match=f'level={level}.*0.95 is 95 %'):
      interval([1.0, 2.0], level)


def test_parts_below_one_are_refused():
  with pytest.raises(ValueError, match='parts=0'):
    joint_level(0.95, 0)
