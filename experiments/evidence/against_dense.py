"""Rows of a paper's table beside the dense network of the same table, seed by seed.

The dense network of one seed saw the same examples in the same order and is scored on the same
test images, so differences are paired: over the seeds by Student's t, and for each seed over the
test images by McNemar's test and a test of non-inferiority.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from experiments.evidence.comparison import Line
from experiments.evidence.results import Result
from experiments.evidence.sheet import ERROR_KEY
from experiments.report import tables
from sparsejax.statistics.paired import mcnemar, non_inferior, seeds_difference

DENSE = 'dense'
MARGIN_PERCENT = 0.2


class Paired(NamedTuple):
  """One row against dense: mean difference of error in points and its 95 % interval over seeds;
  McNemar's p-values, and for how many seeds the row is not inferior by MARGIN_PERCENT."""

  name: str
  seeds: int
  difference: float
  low: float
  high: float
  p_values: tuple[float, ...]
  not_inferior: int


def paired_with_dense(lines: Sequence[Line]) -> list[Paired]:
  """Returns the rows that have at least two seeds in common with the dense row of their network."""
  dense = {line.row.network: _by_seed(line) for line in lines
           if line.row.method == DENSE and line.budget == 'full'}
  found = []
  for line in lines:
    reference = dense.get(line.row.network, {})
    mine = _by_seed(line)
    both = sorted(mine.keys() & reference.keys())
    if line.row.method == DENSE or line.budget != 'full' or len(both) < 2:
      continue
    overall = seeds_difference([mine[seed].ledger[ERROR_KEY] for seed in both],
                               [reference[seed].ledger[ERROR_KEY] for seed in both])
    p_values, good = [], 0
    for seed in both:
      wrong, dense_wrong = mine[seed].wrong_examples(), reference[seed].wrong_examples()
      if wrong is not None and dense_wrong is not None:
        p_values.append(mcnemar(~wrong, ~dense_wrong).p_value)
        good += non_inferior(wrong, dense_wrong, MARGIN_PERCENT).holds
    found.append(Paired(line.row.name, len(both), overall.mean, overall.low, overall.high,
                        tuple(p_values), good))
  return found


def markdown(found: Sequence[Paired]) -> str:
  """Returns the table and what it says."""
  rows = [(pair.name, str(pair.seeds),
           f'{pair.difference:+.2f} [{pair.low:+.2f}, {pair.high:+.2f}]',
           ', '.join(f'{p:.2g}' for p in pair.p_values) or 'no saved logits',
           f'{pair.not_inferior} of {len(pair.p_values)}') for pair in found]
  head = ('row', 'seeds', 'error minus dense, points', 'McNemar p, each seed',
          f'not worse by {MARGIN_PERCENT} points, seeds')
  return '\n'.join([tables.table(head, rows, right=(1, 2, 3, 4)), '',
                    '- error minus dense: mean over the seeds with its 95 % interval (Student t, '
                    'paired by seed)',
                    '- not worse: the one-sided 95 % bound of the difference on the test images '
                    '(Tango 1998) is below the margin'])


def _by_seed(line: Line) -> dict[int, Result]:
  return {result.ledger['seed']: result for result in line.results}
