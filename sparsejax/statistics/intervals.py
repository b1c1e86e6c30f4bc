"""Intervals for scores of independent runs, which are taken to be normal.

Two questions need two intervals. Where is the mean of the method? `mean_interval`, which shrinks as
runs are added. Where would one more run fall? `prediction_interval`, which does not shrink below
the spread of the runs. Published figures are mostly single runs with one unknown seed, so whether
a published figure agrees with ours is the second question: inside the prediction interval it
cannot be told from one more of our runs. The mean interval would reject nearly every published
figure once there are enough seeds, also our own next one.
"""
from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


class Interval(NamedTuple):
  """[low, high], in the unit of the values."""
  low: float
  high: float


def prediction_interval(values: ArrayLike, level: float = 0.95) -> Interval:
  """Where one new single run of the same distribution falls with probability `level`.

  mean +- t_{n-1} s sqrt(1 + 1/n): the new run has the variance s^2 of its own, and the mean that
  it is compared with is itself uncertain by s^2 / n. Exact for normal values.
  Source: Hahn, Meeker, Escobar, Statistical Intervals, 2nd ed., 2017, chapter 4.

  Args:
    values: (n,) scores of independent runs, n >= 2.
    level: coverage in (0, 1).
  Raises: ValueError for fewer than two values (one run says nothing of its spread), values that
    are not finite, or a level outside (0, 1).
  """
  mean, sd, n = _moments(values)
  return _around(mean, _t(level, n) * sd * math.sqrt(1 + 1 / n))


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
  """Student's interval of the expected score, mean +- t_{n-1} s / sqrt(n).

  Arguments and errors as in `prediction_interval`.
  """
  mean, sd, n = _moments(values)
  return _around(mean, _t(level, n) * sd / math.sqrt(n))


def joint_level(level: float, parts: int) -> float:
  """The level of each of `parts` intervals such that all hold together with at least `level`.

  Bonferroni, 1 - (1 - level) / parts: it holds whatever the dependence between the parts. A
  published pair (error, size) is inside at 95 % where each is inside at joint_level(0.95, 2).

  Raises: ValueError for a level outside (0, 1) or parts below 1.
  """
  if parts < 1:
    raise ValueError(f'parts={parts} intervals cannot hold together; give at least 1')
  return 1 - (1 - require_level(level)) / parts


def require_level(level: float) -> float:
  """Returns the level; raises ValueError unless it lies in (0, 1)."""
  if not 0 < level < 1:
    raise ValueError(f'level={level} must lie strictly between 0 and 1; 0.95 is 95 %')
  return level


def _moments(values: ArrayLike) -> tuple[float, float, int]:
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or len(values) < 2:
    raise ValueError(f'values have shape {values.shape}; an interval needs at least two '
                     'independent runs, (n,) with n >= 2: add seeds')
  if not np.isfinite(values).all():
    raise ValueError(f'values {values} are not finite; leave out runs that have diverged, and say '
                     'so')
  return float(values.mean()), float(values.std(ddof=1)), len(values)


def _t(level: float, n: int) -> float:
  return float(stats.t.ppf((1 + require_level(level)) / 2, n - 1))


def _around(mean: float, half: float) -> Interval:
  return Interval(mean - half, mean + half)
