"""The verdicts on a published row, defined here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.evidence.sheet import ERROR_KEY, Figure, Row
from sparsejax.statistics.intervals import joint_level, prediction_interval

LEVEL = 0.95
SEEDS = 5                     # fewer give points and no interval
ERROR_LIMIT_POINTS = 0.3      # of half-width, and of what counts as near
SIZE_LIMIT = 0.25             # the same for sizes, relative
BITS_LIMIT = 0.02             # the same for bits per token
PERPLEXITY_LIMIT = 0.03       # the same for perplexities, relative; about as much as 0.04 bits

EXPLANATIONS = {
    'match': ('the published figures, of a single run, lie in our 95 % prediction interval '
              '(Student t over the seeds; error and size jointly, by Bonferroni)'),
    'better': 'where a published figure lies outside, ours is the better one',
    'near': (f'outside, yet our mean is within {ERROR_LIMIT_POINTS} points of error and '
             f'{100 * SIZE_LIMIT:.0f} % of size'),
    'miss': 'none of these',
    'inconclusive': (f"the interval's half-width exceeds {ERROR_LIMIT_POINTS} points of error or "
                     f'{100 * SIZE_LIMIT:.0f} % of size ({BITS_LIMIT} bits per token, '
                     f'{100 * PERPLEXITY_LIMIT:.0f} % of perplexity)'),
    'unverified, not scored': 'we read the published figure in no source that we trust',
    'too few seeds': f'fewer than {SEEDS}: the points are shown and no interval',
    'shorter recipe': "trained for fewer epochs than the paper's recipe: shown, not scored",
    'stale': 'obtained with another version of the code: shown, not scored',
    'not run': 'no result',
}


class Verdict(NamedTuple):
  """What is said of a row.

  Attributes:
    name: a key of EXPLANATIONS. intervals: {ledger key: (low, high)}, of all seeds, at the level
      of the joint statement.
  """

  name: str
  intervals: Mapping[str, tuple[float, float]]


def verdict(row: Row, values: Mapping[str, Sequence[float]]) -> Verdict:
  """Returns the verdict on a row that was run by the paper's recipe with the current code.

  Args:
    row: published figures.
    values: {ledger key: one value per seed} for each figure of the row.
  """
  figures = [figure for figure in (row.error, row.size) if figure]
  count = len(values[figures[0].ledger_key])
  if count == 0:
    return Verdict('not run', {})
  if count < SEEDS:
    return Verdict('too few seeds' if row.scored else 'unverified, not scored', {})
  level = joint_level(LEVEL, len(row.scored) or len(figures))
  intervals = {figure.ledger_key: prediction_interval(values[figure.ledger_key], level)
               for figure in figures}
  if not row.scored:
    return Verdict('unverified, not scored', intervals)
  means = {key: float(np.mean(values[key])) for key in intervals}
  return Verdict(_name(row.scored, means, intervals), intervals)


def _name(figures: Sequence[Figure], means: Mapping[str, float],
          intervals: Mapping[str, tuple[float, float]]) -> str:
  wide, outside, worse, far = [], [], [], []
  for figure in figures:
    low, high = intervals[figure.ledger_key]
    mean = means[figure.ledger_key]
    wide.append((high - low) / 2 > _limit(figure, abs(mean)))
    below, above = figure.value < low, figure.value > high
    outside.append(below or above)
    worse.append(below if figure.smaller_is_better else above)
    far.append(abs(mean - figure.value) > _limit(figure, figure.value))
  if any(wide):
    return 'inconclusive'
  if not any(outside):
    return 'match'
  if not any(worse):
    return 'better'
  return 'miss' if any(far) else 'near'


def _limit(figure: Figure, value: float) -> float:
  """Returns what is near to a value of this figure, in its unit."""
  absolute = {ERROR_KEY: ERROR_LIMIT_POINTS, 'test_bits_per_token': BITS_LIMIT}
  relative = {'test_perplexity': PERPLEXITY_LIMIT}
  key = figure.ledger_key
  return absolute[key] if key in absolute else relative.get(key, SIZE_LIMIT) * value
