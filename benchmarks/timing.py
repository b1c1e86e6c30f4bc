"""Timings that can be divided by each other: interleaved, paired by round, with intervals.

`sparsejax.ledger.timing` sums each function up by itself, which is what a ledger needs. A ratio
needs more: the two times of one round, taken within a second of each other, share the state of the
machine, so that their quotient is far steadier than either. Hence the raw samples here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

MIN_ROUNDS = 6        # the range of 5 samples covers the median with only 93.75 %
PAUSE_SECONDS = 0.01  # a pool of threads goes on spinning for some milliseconds after its work


class Estimate(NamedTuple):
  """A median with its two-sided 95 % interval."""

  median: float
  low: float
  high: float


def interleaved(functions: Mapping[Any, Callable[[], None]], rounds: int, warmup: int = 1,
                pause: float = PAUSE_SECONDS, least: float = 0.0) -> dict[Any, np.ndarray]:
  """Times every function once a round, starting each round with the next one.

  Args:
    functions: name -> function that returns when its work is done.
    rounds: timed calls of each. warmup: calls of each before, compilation among them.
    pause: seconds before each timed call. Who is asleep wakes up at a cost of some 0.2 ms, so 0 for
      what is short, unless another pool of threads takes part.
    least: milliseconds that a sample lasts at least: what is shorter is called several times in it.
  Returns: {name: milliseconds of each round, (rounds,)}; index r of all names is one round.
  Raises:
    ValueError: for no function, too few rounds for an interval, or no warm-up.
  """
  if not functions:
    raise ValueError('there is no function to time')
  if rounds < MIN_ROUNDS or warmup < 1:
    raise ValueError(f'rounds={rounds}, warmup={warmup}: a 95 % interval of a median takes '
                     f'{MIN_ROUNDS} rounds, and the first call compiles')
  names = list(functions)
  for name in names:
    for _ in range(warmup):
      functions[name]()
  repeats = {name: _repeats(functions[name], least) for name in names}
  milliseconds = {name: np.zeros(rounds) for name in names}
  for turn in range(rounds):
    shift = turn % len(names)
    for name in names[shift:] + names[:shift]:
      time.sleep(pause)
      milliseconds[name][turn] = _milliseconds(functions[name], repeats[name])
  return milliseconds


def _repeats(function: Callable[[], None], least: float) -> int:
  return max(1, math.ceil(least / _milliseconds(function, 1))) if least else 1


def _milliseconds(function: Callable[[], None], repeats: int) -> float:
  """Returns the mean of so many calls one after the other."""
  start = time.perf_counter_ns()
  for _ in range(repeats):
    function()
  return (time.perf_counter_ns() - start) / 1e6 / repeats


def estimate(samples: np.ndarray) -> Estimate:
  """Returns the median with the interval between two order statistics, whatever the distribution.

  With n samples the median lies between the k-th smallest and the k-th largest with probability
  1 - 2 P(Bin(n, 1/2) < k); k is the largest for which that is at least 95 %.
  """
  ordered = np.sort(np.asarray(samples, float))
  if len(ordered) < MIN_ROUNDS:
    raise ValueError(f'{len(ordered)} samples bound no median with 95 %; take {MIN_ROUNDS}')
  k = int(stats.binom.ppf(0.025, len(ordered), 0.5))
  return Estimate(float(np.median(ordered)), float(ordered[k - 1]), float(ordered[-k]))


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> Estimate:
  """Returns the median of the quotients round by round; both from one call of `interleaved`."""
  return estimate(np.asarray(numerator) / np.asarray(denominator))
