"""The frontier of a suite: train what is missing, choose on validation data, read the test set."""

from __future__ import annotations

import csv
import io
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from experiments.evidence import frontier_controls, frontier_report, pool
from experiments.evidence.jobs import default_workers
from experiments.evidence.point import POINT_FILE, Point, read_point, wrong_on_test
from experiments.evidence.results import FOLDER
from experiments.evidence.selection import (SIZES, Candidate, Chosen, candidates,
                                             choose_candidate)
from experiments.evidence.suite import BUDGETS, Method, Task, points, select
from sparsejax.codec import write_atomically
from sparsejax.statistics.intervals import mean_interval
from sparsejax.statistics.paired import seeds_difference

CSV_HEAD = ('task', 'method', 'measure', 'budget', 'chosen', 'seeds', 'validation_error_percent',
            'test_error_percent', 'low', 'high', 'difference_from_dense', 'difference_low',
            'difference_high', 'times_fewer_weights', 'times_fewer_bytes', 'epochs', 'device',
            'jax_version', 'commits', 'code_hash')


def frontier(suite: str, *, tasks: str = '', methods: str = '', run: bool = True, workers: int = 0,
             root: str = 'out/frontier', report: str = 'report', controls: bool = False,
             console: Console | None = None) -> bool:
  """Prints and writes the frontier; returns whether every point that was tried could be run.

  With `controls`, those of frontier_controls.py are trained too, of the tasks selected.

  Raises:
    ValueError: for an unknown suite, or names that leave nothing of it.
  """
  console = console or Console()
  folder = pathlib.Path(root)
  pairs = select(suite, tasks, methods)
  failed = _run_missing(pairs, folder, workers, console) if run else 0
  contents = {(task.name, method.name): [
      content for point in points(task, method)
      if (content := read_point(point, folder)) is not None] for task, method in pairs}
  chosen = choose_all(pairs, contents, folder)
  if not chosen:
    raise ValueError(f'{folder} holds no point of the suite {suite!r}; leave out --norun to train')
  out = folder / 'report' if suite == 'smoke' else pathlib.Path(report)
  table = folder / 'results.csv' if suite == 'smoke' else FOLDER / f'frontier_{suite}.csv'
  if tasks or methods:
    console.print(f'Of a part of the suite only, so {table} is left as it is')
  else:
    table.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(table, as_csv(chosen).encode())
  console.print(frontier_report.terminal(chosen))
  console.print(f'Report: {frontier_report.write(suite, chosen, contents, out)}')
  if controls:
    path = frontier_controls.write_controls(suite, pairs, chosen, folder, out, run, workers,
                                            console)
    console.print(f'Controls: {path}')
  return not failed


def choose_all(pairs: Sequence[tuple[Task, Method]],
               contents: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]],
               root: pathlib.Path) -> list[Chosen]:
  """Returns one entry per task, method, measure and budget; the dense network has budget 1."""
  chosen = []
  dense: dict[str, dict[int, float]] = {}
  for task, method in sorted(pairs, key=lambda pair: pair[1].name != 'dense'):
    found = candidates(contents[task.name, method.name])
    if not found:
      continue
    by_seed = {(point.seed, tuple(sorted(point.overrides.items()))): point
               for point in points(task, method)}
    budgets = (1,) if method.name == 'dense' else BUDGETS
    for measure in SIZES:
      for budget in budgets:
        # The file of a tiny dense network is longer than its plain arrays: no budget for dense.
        candidate = choose_candidate(found, measure, 0 if method.name == 'dense' else budget)
        errors: dict[int, float] = {}
        if candidate is not None:
          for seed, (_, index) in sorted(candidate.seeds.items()):
            point = by_seed[seed, candidate.overrides]
            errors[seed] = 100 * float(wrong_on_test(point, root, index).mean())
        if method.name == 'dense':
          dense[task.name] = errors
        chosen.append(Chosen(task.name, method.name, measure, budget, candidate,
                             np.array(list(errors.values())),
                             _difference(errors, dense.get(task.name, {}))))
  return chosen


def _difference(errors: Mapping[int, float],
                dense: Mapping[int, float]) -> tuple[float, float, float] | None:
  both = [seed for seed in errors if seed in dense]
  if len(both) < 2:
    return None
  found = seeds_difference([errors[seed] for seed in both], [dense[seed] for seed in both])
  return found.mean, found.low, found.high


def as_csv(chosen: Sequence[Chosen]) -> str:
  """Returns one row per task, method, measure and budget."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(CSV_HEAD)
  for entry in chosen:
    row: list[Any] = [entry.task, entry.method, entry.measure, entry.budget]
    if entry.candidate is None:
      writer.writerow([*row, 'nothing this small', *[''] * (len(CSV_HEAD) - 5)])
      continue
    contents = [content for _, (content, _) in sorted(entry.candidate.seeds.items())]
    low, high = mean_interval(entry.test_errors) if len(entry.test_errors) > 1 else ('', '')
    difference = entry.difference or ('', '', '')
    writer.writerow([_short(value) for value in (
        *row, described(entry.candidate), len(contents),
        entry.candidate.values('validation_error_percent').mean(), entry.test_errors.mean(), low,
        high, *difference, entry.candidate.ratio('weights'), entry.candidate.ratio('bytes'),
        contents[0]['epochs'], *(' '.join(sorted({content[key] for content in contents}))
                                 for key in ('device', 'jax_version', 'commit', 'code_hash')))])
  return text.getvalue()


def described(candidate: Candidate) -> str:
  """Returns what was chosen, in words: the fields of the config, and the number of deployment."""
  fields = [f'{name.removeprefix("regulariser.")}={value:.4g}'
            for name, value in candidate.overrides if name.startswith('regulariser.')]
  if candidate.deployed_at is not None:
    fields.append(f'deployed at {candidate.deployed_at:g}')
  return ', '.join(fields) or 'as it is'


def _short(value: Any) -> Any:
  return f'{value:.4f}' if isinstance(value, float) else value


def _run_missing(pairs: Sequence[tuple[Task, Method]], root: pathlib.Path, workers: int,
                 console: Console) -> int:
  """Runs what is missing, seed by seed over all methods; returns how many points failed."""
  tasks = list(dict.fromkeys(task.name for task, _ in pairs))
  order = {}
  for task, method in pairs:
    for point in points(task, method):
      folder = point.folder(root)
      if not (folder / POINT_FILE).exists():
        # Task by task and seed by seed: stopped early, all methods have the same seeds.
        order[folder] = (tasks.index(task.name), point.seed), point
  missing = [point for _, point in sorted(order.values(), key=lambda entry: entry[0])]
  if not missing:
    return 0
  workers = min(workers or default_workers(), len(missing))
  console.print(f'{len(missing)} points are missing; {workers} side by side, in {root}')
  start, done, failed = time.perf_counter(), 0, 0

  def report(point: Point, content: dict[str, Any] | None, error: str) -> None:
    nonlocal done, failed
    done += 1
    failed += content is None
    left = (time.perf_counter() - start) / done * (len(missing) - done)
    words = error or content and content['error'] or ', '.join(
        f'{network["validation_error_percent"]:.2f} % with {network["weights_kept"]:,} weights'
        for network in (content or {'networks': []})['networks'][:3])
    console.print(f'{done} of {len(missing)}: {point.config}, seed {point.seed}, '
                  f'{point.overrides}: {words}; about {left / 60:.0f} min to go')
  root.mkdir(parents=True, exist_ok=True)
  pool.run_points(missing, root, workers, report)
  return failed
