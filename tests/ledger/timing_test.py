"""Timing: order, counts, quartiles of a clock that the test holds."""
import os

import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import ledger
from sparsejax.ledger import timing


def test_calls_are_warmed_up_and_interleaved_with_a_rotating_start():
  calls = []
  functions = {name: lambda name=name: calls.append(name) for name in 'abc'}
  result = ledger.interleaved_milliseconds(functions, repeats=4, warmup=2)
  assert ''.join(calls) == 'abcabc' + 'abc' + 'bca' + 'cab' + 'abc'
  assert all(summary['repeats'] == 4 for summary in result.values())


def test_median_and_quartiles_of_a_known_clock(monkeypatch):
  clock = {'now': 0}
  costs = {'slow': iter([99, 5, 1, 4, 2, 3]), 'fast': iter([99, 1, 1, 1, 1, 1])}

  def advance(name):
    clock['now'] += next(costs[name]) * 1_000_000
    return jnp.zeros(1)

  monkeypatch.setattr(timing.time, 'perf_counter_ns', lambda: clock['now'])
  result = ledger.interleaved_milliseconds(
      {name: lambda name=name: advance(name) for name in costs}, repeats=5, warmup=1)
  assert result['slow'] == {'median': 3.0, 'lower_quartile': 2.0, 'upper_quartile': 4.0,
                            'repeats': 5}
  assert result['fast']['median'] == 1.0


def test_a_call_ends_when_its_result_is_ready(monkeypatch):
  waited = []
  monkeypatch.setattr(timing.jax, 'block_until_ready', waited.append)
  ledger.interleaved_milliseconds({'a': lambda: 'result'}, repeats=2, warmup=1)
  assert waited == ['result'] * 3


@pytest.mark.parametrize('kwargs', [{'repeats': 0, 'warmup': 1}, {'repeats': 1, 'warmup': 0}])
def test_bad_counts_are_refused(kwargs):
  with pytest.raises(ValueError, match='at least 1'):
    ledger.interleaved_milliseconds({'a': lambda: None}, **kwargs)
  with pytest.raises(ValueError, match='functions is empty'):
    ledger.interleaved_milliseconds({}, repeats=1, warmup=1)


def test_thread_count_follows_affinity_and_says_so(monkeypatch):
  monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {0, 2, 5}, raising=False)
  assert ledger.thread_count() == (3, 'os.sched_getaffinity')
  monkeypatch.delattr(os, 'sched_getaffinity')
  monkeypatch.setattr(os, 'cpu_count', lambda: 7)
  assert ledger.thread_count() == (7, 'os.cpu_count')


def test_milliseconds_are_milliseconds():
  def busy():
    return np.linalg.norm(np.ones(1000))
  assert 0 < ledger.interleaved_milliseconds({'a': busy}, repeats=3, warmup=1)['a']['median'] < 1000
