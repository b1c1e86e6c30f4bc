"""Milliseconds that can be compared: warmed up, interleaved, with quartiles."""
from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Threads(NamedTuple):
  """`number` threads, as `source` says."""
  number: int
  source: str


def interleaved_milliseconds(functions: dict[str, Callable[[], Any]], repeats: int,
                             warmup: int) -> dict[str, dict[str, float | int]]:
  """Times each function `repeats` times, all of them in turn in every round.

  Each round starts with the next function, so that a slow spell of the machine and the caches that
  one leaves to the next fall on all alike. A call ends when its results are ready.

  Args:
    functions: name -> function without arguments that returns a pytree of arrays.
    repeats: timed calls of each. warmup: calls of each before, compilation among them; at least 1.
  Returns: {name: {'median', 'lower_quartile', 'upper_quartile', 'repeats'}}, in milliseconds.
  Raises: ValueError if there is no function, or repeats or warmup is below 1.
  """
  if not functions:
    raise ValueError('functions is empty; pass at least one to time')
  if repeats < 1 or warmup < 1:
    raise ValueError(f'repeats={repeats}, warmup={warmup}; both must be at least 1, as the first '
                     'call compiles')
  names = list(functions)
  for _ in range(warmup):
    for name in names:
      jax.block_until_ready(functions[name]())
  milliseconds: dict[str, list[float]] = {name: [] for name in names}
  for repeat in range(repeats):
    shift = repeat % len(names)
    for name in names[shift:] + names[:shift]:
      start = time.perf_counter_ns()
      jax.block_until_ready(functions[name]())
      milliseconds[name].append((time.perf_counter_ns() - start) / 1e6)
  return {name: _summary(values) for name, values in milliseconds.items()}


def _summary(values: list[float]) -> dict[str, float | int]:
  lower, median, upper = np.quantile(values, [0.25, 0.5, 0.75])
  return {'median': float(median), 'lower_quartile': float(lower), 'upper_quartile': float(upper),
          'repeats': len(values)}


def thread_count() -> Threads:
  """Threads XLA:CPU can use: the cores this process may run on, else all cores of the machine."""
  if hasattr(os, 'sched_getaffinity'):
    return Threads(len(os.sched_getaffinity(0)), 'os.sched_getaffinity')
  return Threads(os.cpu_count() or 1, 'os.cpu_count')
