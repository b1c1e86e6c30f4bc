"""Two classifiers on the same test examples, and two methods on the same seeds.

Both networks see the same examples, so most of what makes one test set harder than another cancels
in the difference. Only the discordant examples count, those that one of the two gets right. With
b of them wrong for A alone and c wrong for B alone, of n, the difference of the errors is
(b - c) / n. A difference is always A - B, so it is positive where A is worse.

What such an interval says is about these two trained networks and other test examples; that another
training would differ too is seen with several seeds only (`seeds_difference`).
"""
from __future__ import annotations

import math
import sys
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from sparsejax.statistics.intervals import mean_interval, require_level


class McNemar(NamedTuple):
  """Discordant examples and the two-sided p-values of "both are equally often wrong".

  Attributes:
    only_a_wrong, only_b_wrong: counts of examples.
    p_value: exact, by the binomial; never above its nominal level, and conservative.
    mid_p: counts outcomes as extreme as this one by half; closer to the nominal level.
  """
  only_a_wrong: int
  only_b_wrong: int
  p_value: float
  mid_p: float


class Difference(NamedTuple):
  """Error of A minus error of B in percent points, with an interval."""
  percent: float
  low: float
  high: float


class NonInferiority(NamedTuple):
  """Whether A is worse than B by less than the margin, in percent points of error.

  Attributes:
    percent: error of A minus error of B. upper: its one-sided upper bound. margin_percent: given.
    p_value: one-sided, of "A is worse by the margin or more".
    holds: upper < margin_percent.
  """
  percent: float
  upper: float
  margin_percent: float
  p_value: float
  holds: bool


class SeedsDifference(NamedTuple):
  """Mean over seeds of A - B, its interval, and the p-value of "no difference"."""
  mean: float
  low: float
  high: float
  p_value: float


def mcnemar(a_correct: ArrayLike, b_correct: ArrayLike) -> McNemar:
  """McNemar's test, exact: under equal error rates only_a_wrong ~ Binomial(discordant, 1/2).

  The mid-p value is P(more extreme) + P(as extreme) / 2; without a discordant example both are 1.
  Source: Fagerland, Lydersen, Laake, 2013, BMC Medical Research Methodology 13:91.

  Args:
    a_correct, b_correct: (n,) bool, whether each classifier is right on each test example.
  Raises: ValueError for arrays that are not bool, or of different or empty shape.
  """
  a, b = _checked(a_correct, b_correct, 'correct')
  only_a, only_b = int(np.sum(~a & b)), int(np.sum(a & ~b))
  discordant = only_a + only_b
  if discordant == 0:
    return McNemar(0, 0, 1.0, 1.0)
  exact = float(stats.binomtest(only_a, discordant).pvalue)
  point = float(stats.binom.pmf(only_a, discordant, 0.5))
  # Two outcomes are as extreme as this one, one on each side; a tie is its own mirror image.
  as_extreme = point if only_a == only_b else 2 * point
  return McNemar(only_a, only_b, exact, exact - as_extreme / 2)


def difference_interval(a_wrong: ArrayLike, b_wrong: ArrayLike, seed: int, resamples: int = 10_000,
                        level: float = 0.95) -> Difference:
  """Paired bootstrap interval (percentiles) of the difference of the errors, in percent points.

  Drawing n examples with replacement changes the difference only through how many of each
  discordant kind are drawn, and these counts are multinomial: drawing them is the bootstrap itself,
  not an approximation of it. Where there is no discordant example the interval is [0, 0], as of
  any bootstrap: it knows of no other examples. `non_inferior` does not have this flaw.

  Args:
    a_wrong, b_wrong: (n,) bool, whether each classifier is wrong on each test example.
    seed: of NumPy's generator. resamples: number of bootstrap samples. level: in (0, 1).
  Raises: ValueError as `mcnemar`, or for a level or number of resamples out of range.
  """
  a, b = _checked(a_wrong, b_wrong, 'wrong')
  tail = (1 - require_level(level)) / 2
  if resamples < 1:
    raise ValueError(f'resamples={resamples}; draw at least one, 10,000 for a 95 % interval')
  n, only_a, only_b = len(a), int(np.sum(a & ~b)), int(np.sum(~a & b))
  cells = np.array([only_a, only_b, n - only_a - only_b])
  drawn = np.random.default_rng(seed).multinomial(n, cells / n, size=resamples)
  low, high = 100 / n * np.quantile(drawn[:, 0] - drawn[:, 1], [tail, 1 - tail])
  return Difference(100 * (only_a - only_b) / n, float(low), float(high))


def non_inferior(a_wrong: ArrayLike, b_wrong: ArrayLike, margin_percent: float = 0.2,
                 level: float = 0.95) -> NonInferiority:
  """Tests that the error of A is less than `margin_percent` points above that of B.

  That a difference is not significant does not show that two errors are alike; this does. The bound
  inverts Tango's score test for paired proportions, which holds its level at small counts, where
  a bootstrap does not (without discordant examples its bound is z^2 / (n + z^2), not 0).
  Source: Tango, 1998, Statistics in Medicine 17:891-908.

  Args:
    a_wrong, b_wrong: (n,) bool, whether each classifier is wrong on each test example.
    margin_percent: percent points, above 0 and below 100, chosen before the data are seen.
    level: of the one-sided bound, above 0.5.
  Raises: ValueError as `mcnemar`, or for a margin or level out of range.
  """
  a, b = _checked(a_wrong, b_wrong, 'wrong')
  if not 0 < margin_percent < 100:
    raise ValueError(f'margin_percent={margin_percent} must lie between 0 and 100 percent points, '
                     'as in 0.2')
  if not 0.5 < level < 1:
    raise ValueError(f'level={level} of an upper bound must lie between 0.5 and 1; 0.95 is 95 %')
  n, only_a, only_b = len(a), int(np.sum(a & ~b)), int(np.sum(~a & b))
  z = float(stats.norm.ppf(level))
  upper = 100 * _score_bound(only_a, only_b, n, z)
  p_value = float(stats.norm.cdf(score_statistic(only_a, only_b, n, margin_percent / 100)))
  return NonInferiority(100 * (only_a - only_b) / n, upper, margin_percent, p_value,
                        upper < margin_percent)


def seeds_difference(errors_a: ArrayLike, errors_b: ArrayLike,
                     level: float = 0.95) -> SeedsDifference:
  """Student's paired interval and test for scores of A and B with the same seeds.

  Unlike the tests on examples it covers the randomness of training. Where all differences are
  equal the interval is one point, and the p-value 0 (1 if that point is 0).

  Args:
    errors_a, errors_b: (seeds,) in one unit, paired by seed; at least two.
  Raises: ValueError for different shapes, or as `intervals.mean_interval`.
  """
  a, b = np.asarray(errors_a, np.float64), np.asarray(errors_b, np.float64)
  if a.shape != b.shape:
    raise ValueError(f'errors_a has shape {a.shape} and errors_b {b.shape}; give one score of each '
                     'for every seed')
  differences = a - b
  low, high = mean_interval(differences, level)
  mean = float(differences.mean())
  if low == high:
    return SeedsDifference(mean, low, high, float(mean == 0))
  return SeedsDifference(mean, low, high, float(stats.ttest_rel(a, b).pvalue))


def score_statistic(only_a: int, only_b: int, n: int, difference: float) -> float:
  """Tango's statistic: (only_a - only_b - n difference) over its standard deviation there.

  The variance is n (2 q + d (1 - d)), with q the maximum likelihood estimate of P(only B wrong)
  when P(only A wrong) = q + d, the larger root of 2 n q^2 + B q + C = 0.

  Args:
    only_a, only_b: discordant counts of n examples. difference: d, a fraction in (-1, 1), not
      0 where there is no discordant example.
  Returns: a number that falls as the difference grows, 0 at the observed one.
  """
  d = difference
  linear = -only_a - only_b + (2 * n - only_a + only_b) * d
  constant = -only_b * d * (1 - d)
  root = math.sqrt(max(linear**2 - 8 * n * constant, 0.0))
  # The second form of the root has no cancellation where the linear term is positive.
  q = (root - linear) / (4 * n) if linear <= 0 else -2 * constant / (linear + root)
  variance = max(n * (2 * q + d * (1 - d)), sys.float_info.min)    # 0 at the ends, but for rounding
  return (only_a - only_b - n * d) / math.sqrt(variance)


def _score_bound(only_a: int, only_b: int, n: int, z: float) -> float:
  """The largest difference whose score statistic is not below -z < 0, as a fraction."""
  if only_a == n:
    return 1.0
  end = 1 - 1e-12
  return float(optimize.brentq(lambda d: score_statistic(only_a, only_b, n, d) + z, -end, end,
                               xtol=1e-14))


def _checked(a: ArrayLike, b: ArrayLike, what: str) -> tuple[np.ndarray, np.ndarray]:
  a, b = np.asarray(a), np.asarray(b)
  for name, array in (('a', a), ('b', b)):
    if array.dtype != np.bool_:
      raise ValueError(f'{name}_{what} has dtype {array.dtype}; give bool, as in '
                       'logits.argmax(1) == labels')
  if a.shape != b.shape or a.ndim != 1 or not len(a):
    raise ValueError(f'a_{what} has shape {a.shape} and b_{what} {b.shape}; both must be (n,), the '
                     'same test examples in the same order, n >= 1')
  return a, b
