import time

import numpy as np
import pytest

from benchmarks import timing


def test_order_rotates_and_every_function_is_called_once_a_round():
  calls = []
  functions = {name: lambda name=name: calls.append(name) for name in 'abc'}
  samples = timing.interleaved(functions, rounds=6, warmup=2)
  assert calls[:6] == ['a', 'a', 'b', 'b', 'c', 'c']
  rounds = np.array(calls[6:]).reshape(6, 3)
  assert [''.join(row) for row in rounds] == ['abc', 'bca', 'cab'] * 2
  assert {name: times.shape for name, times in samples.items()} == dict.fromkeys('abc', (6,))


def test_interval_of_the_median_is_that_of_the_published_table():
  # Ranks of the distribution-free 95 % interval, Conover, Practical Nonparametric Statistics.
  for n, low, high in ((6, 1, 6), (9, 2, 8), (20, 6, 15), (25, 8, 18)):
    found = timing.estimate(np.random.default_rng(n).permutation(np.arange(1, n + 1)))
    assert found == ((n + 1) / 2, low, high)


def test_interval_covers_the_median_as_often_as_it_says():
  rng = np.random.default_rng(0)
  trials = 2000
  found = [timing.estimate(rng.exponential(size=21)) for _ in range(trials)]
  covered = np.mean([e.low <= np.log(2) <= e.high for e in found])
  # At least 95 %, and discrete ranks never give more than 98 % at n = 21.
  assert 0.95 - 5 * np.sqrt(0.05 * 0.95 / trials) < covered <= 1


def test_ratio_is_paired_by_round():
  machine = np.array([1.0, 5.0, 2.0, 9.0, 3.0, 7.0])  # how slow the machine was in each round
  assert timing.ratio(2 * machine, machine) == (2, 2, 2)


@pytest.mark.parametrize('rounds, warmup', [(5, 1), (6, 0)])
def test_too_few_rounds_for_an_interval_raise(rounds, warmup):
  with pytest.raises(ValueError, match='6 rounds'):
    timing.interleaved({'a': lambda: None}, rounds, warmup)
  with pytest.raises(ValueError, match='no function'):
    timing.interleaved({}, 6)
  with pytest.raises(ValueError, match='5 samples'):
    timing.estimate(np.ones(5))


def test_short_calls_are_repeated_until_a_sample_is_long_enough():
  calls = []

  def short():
    calls.append(0)
    time.sleep(0.0005)
  samples = timing.interleaved({'short': short}, 6, pause=0, least=5.0)
  # One call to warm up, one to see how long it takes, then at most ten in each of six samples.
  assert 2 + 6 * 2 <= len(calls) <= 2 + 6 * 10
  assert np.all(samples['short'] >= 0.5) and samples['short'].shape == (6,)
