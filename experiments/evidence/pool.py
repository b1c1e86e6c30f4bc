"""The points of a frontier, side by side in processes that keep JAX and its compiled programs."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from experiments.evidence.jobs import cores
from experiments.evidence.point import Trainable, run_point

PROGRAMS_FOLDER = 'programs'      # compiled programs, which points of other seeds share


def run_points(points: Sequence[Trainable], root: pathlib.Path, workers: int,
               done: Callable[[Any, dict[str, Any] | None, str], None]) -> None:
  """Runs the points, `workers` at a time, and calls `done(point, content, error)` after each.

  `content` is that of point.json, or None where a process failed; `error` then says how. The other
  points are run all the same; a killed process ends the call with BrokenProcessPool, and the same
  call goes on with what is missing.
  """
  context = multiprocessing.get_context('spawn')
  slots = context.Queue()
  own = cores()
  for i in range(workers):
    slots.put(own[i::workers] or own)
  with concurrent.futures.ProcessPoolExecutor(
      min(workers, len(points)), mp_context=context, initializer=_begin,
      initargs=(slots, str(root / PROGRAMS_FOLDER))) as pool:
    waiting = {pool.submit(run_point, point, root): point for point in points}
    for future in concurrent.futures.as_completed(waiting):
      point = waiting[future]
      try:
        done(point, future.result(), '')
      except (ValueError, OSError) as error:
        done(point, None, str(error))


def _begin(slots: Any, programs: str) -> None:
  share = slots.get()
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, share)                # before JAX counts its threads
  jax.config.update('jax_compilation_cache_dir', programs)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)
