"""The benchmark of checkpoints: its arithmetic, and that it times what a run does."""
import numpy as np
import pytest

from benchmarks import resume as benchmark
from benchmarks.timing import Estimate
from tests.experiments.run_test import small_config


def test_shares_are_of_the_time_of_a_run():
  times = {'epoch as one scan': np.full(6, 1000.0), 'epoch in pieces': np.full(6, 1010.0),
           'checkpoint': np.full(6, 100.0), 'resumption': np.full(6, 500.0)}
  found = benchmark.shares(times, epochs=100, checkpoint_every=20)
  assert {name: value.median for name, value in found.items()} == pytest.approx(
      {'pieces': 1.0, 'checkpoints': 0.5, 'one resumption': 0.5, 'all': 2.0})


@pytest.mark.parametrize('low, high, wanted', [(0, 2, 'met'), (1, 3, 'open'), (2.5, 3, 'missed')])
def test_verdicts(low, high, wanted):
  assert benchmark.verdict(Estimate(low, low, high), 2.0) == wanted


@pytest.mark.slow
def test_it_runs(tmp_path):
  rows = benchmark.rows_of(small_config(), 6, tmp_path)
  assert [row['of'] for row in rows] == [
      'epoch as one scan', 'epoch in pieces', 'checkpoint', 'resumption',
      'pieces', 'checkpoints', 'one resumption', 'all']
  assert rows[-1]['at_most'] == 2.0 and rows[-1]['verdict'] in ('met', 'open', 'missed')
  assert sorted(path.name for path in (tmp_path / 'checkpoints').iterdir()) == ['7', '8']
