"""Rows beside dense, by numbers worked out with SciPy and by hand."""
import base64

import numpy as np
import pytest
from scipy import stats

from experiments.evidence.against_dense import markdown, paired_with_dense
from experiments.evidence.comparison import Line
from experiments.evidence.results import Result
from experiments.evidence.sheet import Figure, Row
from experiments.evidence.verdict import Verdict

ERROR = Figure(1.0, 'test_error_percent', True)


def line(ledger_of, method, wrong_by_seed, network='Net', budget='full'):
  results = []
  for seed, wrong in wrong_by_seed.items():
    wrong = np.asarray(wrong, bool)
    bits = base64.b64encode(np.packbits(wrong).tobytes()).decode()
    sheet = ledger_of(seed=seed, test_error_percent=100 * float(wrong.mean()))
    results.append(Result(f'A17/{method}', 'c0', sheet, f'{wrong.size}:{bits}'))
  return Line(Row(network, method, {}, ERROR, None), budget, tuple(results),
              Verdict('not run', {}), '')


def with_wrong(*indices):
  wrong = np.zeros(1003, bool)
  wrong[list(indices)] = True
  return wrong


def test_seeds_are_paired_and_examples_too(ledger_of):
  dense = line(ledger_of, 'dense', {0: with_wrong(1), 1: with_wrong(1, 2), 5: with_wrong()})
  mine = line(ledger_of, 'gates', {1: with_wrong(3, 4, 5, 6, 7, 8, 9, 1), 0: with_wrong(1)})
  found, = paired_with_dense([mine, dense])
  assert found.name == 'Net, gates' and found.seeds == 2
  errors = 100 / 1003 * np.array([1 - 1, 8 - 2])
  low, high = stats.t.interval(0.95, 1, errors.mean(), stats.sem(errors))
  assert found.difference == pytest.approx(errors.mean())
  assert (found.low, found.high) == pytest.approx((low, high))
  # Seed 0: no example differs. Seed 1: seven are wrong here alone, one there alone.
  assert found.p_values == pytest.approx((1.0, stats.binomtest(1, 8).pvalue))
  # Without any difference the bound is z^2 / (n + z^2) = 0.27 %, above the margin of 0.2.
  assert found.not_inferior == 0
  assert '0 of 2' in markdown([found]) and 'Net, gates' in markdown([found])


def test_what_has_no_dense_row_of_its_network_or_one_seed_is_left_out(ledger_of):
  dense = line(ledger_of, 'dense', {0: with_wrong(), 1: with_wrong(1)})
  other = line(ledger_of, 'gates', {0: with_wrong(), 1: with_wrong()}, network='Other')
  single = line(ledger_of, 'gates', {0: with_wrong()})
  short = line(ledger_of, 'gates', {0: with_wrong(), 1: with_wrong()}, budget='small')
  assert paired_with_dense([dense, other, single, short]) == []
