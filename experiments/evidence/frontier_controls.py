"""Controls for networks of a frontier: of some methods, at some budgets, every seed."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from rich.console import Console

from experiments.evidence import control_report
from experiments.evidence.control_run import run_controls
from experiments.evidence.controls import ALL, Settings
from experiments.evidence.jobs import default_workers
from experiments.evidence.results import FOLDER
from experiments.evidence.selection import Chosen
from experiments.evidence.subject import Subject, of_point
from experiments.evidence.suite import Method, Task, points
from sparsejax.codec import write_atomically

METHODS = ('L0 gates', 'sparse VD', 'magnitude')
BUDGETS = (10, 30)
MEASURE = 'weights'


def write_controls(suite: str, pairs: Sequence[tuple[Task, Method]], chosen: Sequence[Chosen],
                   root: pathlib.Path, report: pathlib.Path, run: bool, workers: int,
                   console: Console) -> pathlib.Path:
  """Trains, prints and writes the controls of METHODS at BUDGETS; returns the report's path.

  The rows are also written to experiments/results/controls_<suite>.csv.

  Raises:
    ValueError: if nothing was chosen that controls could be for.
  """
  tested = subjects(pairs, chosen, root, console)
  if not tested:
    raise ValueError(f'no network of {", ".join(METHODS)} at {BUDGETS} times fewer {MEASURE} was '
                     'chosen, so there is nothing to control; train the frontier first')
  settings = Settings()
  outcomes = run_controls(tested, ALL, settings, root, workers or default_workers(), console, run)
  console.print(control_report.terminal(outcomes))
  if suite != 'smoke':
    write_atomically(FOLDER / f'controls_{suite}.csv', control_report.as_csv(outcomes).encode())
  return control_report.write(outcomes, settings, report / f'controls_{suite}.md',
                              f'Controls of the frontier of the suite "{suite}"')


def subjects(pairs: Sequence[tuple[Task, Method]], chosen: Sequence[Chosen], root: pathlib.Path,
             console: Console) -> list[Subject]:
  """Returns the networks under test, one per seed."""
  found = []
  by_name = {(task.name, method.name): (task, method) for task, method in pairs}
  for entry in chosen:
    if entry.method not in METHODS or entry.measure != MEASURE or entry.budget not in BUDGETS:
      continue
    name = f'{entry.task}, {entry.method}, {entry.budget:g}x'
    if entry.candidate is None:
      console.print(f'{name}: not reached, so no controls')
      continue
    for point in points(*by_name[entry.task, entry.method]):
      if (tuple(sorted(point.overrides.items())) == entry.candidate.overrides
          and point.seed in entry.candidate.seeds):
        content, index = entry.candidate.seeds[point.seed]
        found.append(of_point(name, point, root, dict(content), index))
  return found
