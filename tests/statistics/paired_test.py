"""Paired comparisons against enumeration, SciPy's bootstrap and Monte Carlo."""
import itertools
import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from sparsejax.statistics import (difference_interval, mcnemar, non_inferior, paired,
                                  seeds_difference)


def wrong(only_a, only_b, both, neither):
  """Two bool arrays with these counts of each kind of example."""
  a = np.repeat([True, False, True, False], [only_a, only_b, both, neither])
  b = np.repeat([False, True, True, False], [only_a, only_b, both, neither])
  return a, b


def enumerated(k, n):
  """Exact and mid-p over all 2^n ways in which n discordant examples can fall."""
  distance = abs(2 * k - n)
  sums = [abs(2 * sum(way) - n) for way in itertools.product((0, 1), repeat=n)]
  more, same = (sum(op(s, distance) for s in sums) / 2**n for op in (int.__gt__, int.__eq__))
  return more + same, more + same / 2


@pytest.mark.parametrize('only_a, only_b', [(0, 1), (1, 1), (2, 9), (5, 5), (0, 8), (7, 4)])
def test_mcnemar_is_the_enumeration_of_all_ways(only_a, only_b):
  a, b = wrong(only_a, only_b, 3, 50)
  result = mcnemar(~a, ~b)
  exact, mid = enumerated(only_a, only_a + only_b)
  assert (result.only_a_wrong, result.only_b_wrong) == (only_a, only_b)
  assert result.p_value == pytest.approx(exact, rel=1e-12)
  assert result.mid_p == pytest.approx(mid, rel=1e-12)
  mirrored = mcnemar(~b, ~a)
  assert mirrored.p_value == pytest.approx(result.p_value, rel=1e-12)
  assert mirrored.mid_p == pytest.approx(result.mid_p, rel=1e-12)


def test_without_discordant_examples_nothing_is_shown():
  a, b = wrong(0, 0, 4, 6)
  assert mcnemar(~a, ~b) == (0, 0, 1.0, 1.0)
  assert difference_interval(a, b, seed=0) == (0, 0, 0)


def test_under_the_null_the_p_values_keep_their_level():
  rng = np.random.default_rng(0)
  trials = 2000
  results = []
  for _ in range(trials):
    a = rng.random(300) < 0.1
    results.append(mcnemar(a, rng.permutation(a)))
  exact = np.mean([result.p_value < 0.05 for result in results])
  mid = np.mean([result.mid_p < 0.05 for result in results])
  slack = 4 * math.sqrt(0.05 * 0.95 / trials)
  assert exact < 0.05 + slack
  assert exact <= mid < 0.05 + slack


def test_the_difference_interval_is_scipys_bootstrap():
  rng = np.random.default_rng(0)
  a, b = wrong(40, 15, 30, 915)
  order = rng.permutation(1000)
  ours = difference_interval(a, b, seed=1, resamples=20_000, level=0.9)
  theirs = stats.bootstrap(
      (a[order].astype(float), b[order].astype(float)), lambda x, y, axis: 100 * (
          x.mean(axis=axis) - y.mean(axis=axis)), paired=True, vectorized=True, n_resamples=4000,
      confidence_level=0.9, method='percentile', rng=rng, batch=200).confidence_interval
  assert ours.percent == pytest.approx(2.5)
  # The variance of a quantile is p (1 - p) / (m f^2); f is nearly the normal density there.
  sd = 100 * math.sqrt((0.055 - 0.025**2) / 1000)
  density = stats.norm.pdf(stats.norm.ppf(0.05)) / sd
  slack = 4 * math.sqrt(0.05 * 0.95 * (1 / 4000 + 1 / 20_000)) / density + 0.1  # a step is 0.1
  assert abs(ours.low - theirs.low) < slack and abs(ours.high - theirs.high) < slack
  # And the normal limit, within the same slack and its own skewness of order 1 / n.
  assert ours.high == pytest.approx(2.5 + stats.norm.ppf(0.95) * sd, abs=slack)


def test_the_difference_interval_repeats_with_its_seed():
  a, b = wrong(6, 3, 2, 200)
  first = difference_interval(a, b, seed=3)
  assert first == difference_interval(a, b, seed=3)
  flipped = difference_interval(b, a, seed=4)
  assert flipped.percent == -first.percent
  assert flipped.low == pytest.approx(-first.high, abs=0.5)       # one count is 100 / 211


@pytest.mark.parametrize('counts', [(3, 8, 40), (8, 3, 40), (0, 5, 60), (5, 0, 60), (0, 0, 30)])
@pytest.mark.parametrize('difference', [-0.3, -0.02, 0.01, 0.2, 0.7])
def test_the_score_statistic_has_the_constrained_likelihoods_variance(counts, difference):
  """q by numerical maximisation over the allowed interval, instead of the quadratic's root."""
  only_a, only_b, n = counts

  def negative(q):
    return -sum(special.xlogy(k, p) for k, p in (
                    (only_a, q + difference), (only_b, q),
                    (n - only_a - only_b, 1 - 2 * q - difference)))
  low, high = max(0.0, -difference), (1 - difference) / 2
  q = optimize.minimize_scalar(negative, bounds=(low + 1e-13, high - 1e-13), method='bounded',
                               options={'xatol': 1e-12}).x
  expected = (only_a - only_b - n * difference) / math.sqrt(
      n * (2 * q + difference * (1 - difference)))
  found = paired.score_statistic(only_a, only_b, n, difference)
  # The minimum of a function is known to the root of its rounding.
  assert found == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_without_discordant_examples_the_bound_is_known():
  a, b = wrong(0, 0, 10, 990)
  z = stats.norm.ppf(0.95)
  result = non_inferior(a, b, margin_percent=0.2)
  assert result.upper == pytest.approx(100 * z**2 / (1000 + z**2), rel=1e-9)
  assert not result.holds and result.p_value > 0.05
  assert non_inferior(a, b, margin_percent=0.3).holds


def test_bound_and_p_value_agree():
  a, b = wrong(30, 25, 100, 9845)
  upper = non_inferior(a, b).upper
  assert upper > 0.05
  at = non_inferior(a, b, margin_percent=upper * (1 + 1e-9))
  assert at.holds and at.p_value == pytest.approx(0.05, rel=1e-6)
  assert not non_inferior(a, b, margin_percent=upper * (1 - 1e-9)).holds
  assert non_inferior(a, b, level=0.99).upper > upper


@pytest.mark.parametrize('counts', [(0, 20), (20, 0), (10, 10)])
def test_the_bound_stays_in_range_at_the_ends(counts):
  a, b = wrong(*counts, 0, 0)
  result = non_inferior(a, b)
  assert 100 * (counts[0] - counts[1]) / 20 <= result.upper <= 100


def test_the_bound_covers_the_true_difference_as_often_as_promised():
  """1 % discordant of 1,000 examples, where a Wald bound is already off."""
  rng = np.random.default_rng(0)
  trials, n, pa, pb = 2000, 1000, 0.006, 0.004
  z = stats.norm.ppf(0.95)
  draws = rng.multinomial(n, [pa, pb, 1 - pa - pb], size=trials)
  # The truth is below the bound just where the statistic at the truth is above -z.
  covered = np.mean([paired.score_statistic(x, y, n, pa - pb) > -z for x, y, _ in draws])
  # Coverage of a discrete statistic moves by its steps: a point mass here is at most 0.1.
  assert 0.95 - 0.025 < covered < 0.95 + 0.025


def test_seeds_are_compared_in_pairs():
  rng = np.random.default_rng(0)
  a = rng.normal(2, 1, 6)
  b = a + rng.normal(0.1, 0.01, 6)
  result = seeds_difference(a, b)
  theirs = stats.ttest_rel(a, b)
  assert result.p_value == pytest.approx(theirs.pvalue, rel=1e-12)
  np.testing.assert_allclose(result[1:3], theirs.confidence_interval(), rtol=1e-9)
  assert result.high < 0 and stats.ttest_ind(a, b).pvalue > 0.5
  assert seeds_difference([1, 2, 3], [1, 2, 3]) == (0, 0, 0, 1)
  assert seeds_difference([2, 3], [1, 2]) == (1, 1, 1, 0)


def test_mistakes_are_named():
  a, b = wrong(1, 1, 1, 1)
  with pytest.raises(ValueError, match='a_correct has dtype int64; give bool'):
    mcnemar(a.astype(int), b)
  with pytest.raises(ValueError, match=r'\(4,\) and b_wrong \(3,\).*same order'):
    difference_interval(a, b[:3], seed=0)
  with pytest.raises(ValueError, match='n >= 1'):
    non_inferior(a[:0], b[:0])
  with pytest.raises(ValueError, match='resamples=0'):
    difference_interval(a, b, seed=0, resamples=0)
  for margin in (0, 100):
    with pytest.raises(ValueError, match=f'margin_percent={margin}'):
      non_inferior(a, b, margin_percent=margin)
  with pytest.raises(ValueError, match='level=0.3'):
    non_inferior(a, b, level=0.3)
  with pytest.raises(ValueError, match='one score of each for every seed'):
    seeds_difference([1, 2], [1, 2, 3])
  with pytest.raises(ValueError, match='add seeds'):
    seeds_difference([1], [2])
