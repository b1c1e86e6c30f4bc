"""Scores of a regression's predictive distribution: a mixture of Gaussians, one for each draw.

A draw s of the weights and of the noise predicts N(mean_s(x), sd_s^2) at x; the predictive
distribution is the average of the draws. All is taken from the mixture itself, nothing is sampled.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from sparsejax.statistics.intervals import require_level


class RegressionScores(NamedTuple):
  """Scores on n test examples.

  Attributes:
    rmse: of the predictive mean, in the unit of the targets.
    log_likelihood: mean log density of the targets, nats per example, density per that unit.
    coverage: fraction of targets inside the central predictive interval.
    coverage_low, coverage_high: 95 % interval (Clopper and Pearson) of that fraction on other
      test examples: n is small.
  """
  rmse: float
  log_likelihood: float
  coverage: float
  coverage_low: float
  coverage_high: float


def mixture_scores(means: ArrayLike, sds: ArrayLike, targets: ArrayLike,
                   level: float = 0.9) -> RegressionScores:
  """Scores the mixture (1/S) sum_s N(means[s], sds[s]^2) of each example.

  A target is covered where the mixture's distribution function at it lies between (1 - level) / 2
  and (1 + level) / 2: the central interval, without looking for its ends.

  Args:
    means: (S, n), the function drawn. sds: (S,), positive, the noise drawn with it.
    targets: (n,). level: of the predictive intervals.
  Raises: ValueError for shapes that do not fit, numbers that are not finite, an sd that is not
    positive, or a level outside (0, 1).
  """
  means, sds, targets = (np.asarray(value, np.float64) for value in (means, sds, targets))
  if means.ndim != 2 or 0 in means.shape or sds.shape != means.shape[:1] or (
      targets.shape != means.shape[1:]):
    raise ValueError(f'means have shape {means.shape}, sds {sds.shape}, targets {targets.shape}; '
                     'expected (draws, n), (draws,), (n,), none of them 0')
  if not (np.isfinite(means).all() and np.isfinite(sds).all() and np.isfinite(targets).all()):
    raise ValueError('means, sds or targets are not finite; the sampler or training has diverged')
  if not (sds > 0).all():
    raise ValueError(f'sds must be positive; the smallest is {sds.min()}')
  tail = (1 - require_level(level)) / 2
  density = special.logsumexp(stats.norm.logpdf(targets, means, sds[:, None]), axis=0)
  below = stats.norm.cdf(targets, means, sds[:, None]).mean(axis=0)
  covered = (below >= tail) & (below <= 1 - tail)
  interval = stats.binomtest(int(covered.sum()), len(covered)).proportion_ci(0.95)
  return RegressionScores(
      float(np.sqrt(np.mean((means.mean(axis=0) - targets)**2))),
      float(density.mean() - np.log(len(sds))),
      float(covered.mean()), float(interval.low), float(interval.high))
