"""Reproducing a paper's table: run what is missing, keep the rows, write the report."""

from __future__ import annotations

import pathlib
import time

from rich.console import Console

from experiments.evidence import attest as attesting
from experiments.evidence import paper_table
from experiments.evidence import results as store
from experiments.evidence.code_hash import code_hash
from experiments.evidence.comparison import compare, missing_seeds
from experiments.evidence.jobs import Job, default_workers, run_jobs
from experiments.evidence.paper_report import write_paper_report
from experiments.evidence.sheet import read_sheet
from experiments.workdir import LEDGER_FILE


def reproduce(paper: str, *, budget: str = 'full', seeds: int = 5, networks: str = '',
              run: bool = True, attest: bool = False, workers: int = 0, root: str = 'out/reproduce',
              report: str = 'report', console: Console | None = None) -> bool:
  """Prints and writes the table of a paper; returns whether every run that was tried succeeded.

  Args:
    paper: key of the sheet. budget: 'full', 'small' or 'smoke'. seeds: 0 to seeds - 1.
    networks: only rows whose name contains this. run: whether to run what is missing.
    attest: whether to see first which stale results still hold, see attest.py.
    workers: runs side by side; 0 takes one per core, or one on an accelerator.
    root: folder of the run folders. report: folder of the report.

  Raises:
    ValueError: for an unknown paper, a damaged sheet or results that do not belong together.
  """
  console = console or Console()
  sheet = read_sheet(paper)
  folder = pathlib.Path(root)
  # Runs of seconds show that the machinery works; they are no results to keep beside real ones.
  path = (folder if budget == 'smoke' else store.FOLDER) / f'{paper}.jsonl'
  if attest:
    attesting.attest(path, console)
  lines = compare(sheet, store.read_results(path), budget, networks)
  if not lines:
    names = ', '.join(row.name for row in sheet.rows)
    raise ValueError(f'no row of {paper} contains {networks!r}; rows are {names}')
  jobs = [Job(line.row.configs[line.budget], seed) for line in lines if line.budget == budget
          for seed in missing_seeds(line, seeds)]
  ended = [job for job in jobs if (job.folder(folder) / LEDGER_FILE).exists()]
  if ended:
    store.add_results(path, [_result(job, folder) for job in ended])
  jobs = [job for job in jobs if job not in ended]
  failed = _run(jobs, folder, workers, path, console) if run and jobs else 0
  lines = compare(sheet, store.read_results(path), budget, networks)
  console.print(paper_table.terminal(sheet, lines), paper_table.legend(lines), sep='\n')
  out = pathlib.Path(report) if budget != 'smoke' else folder / 'report'
  console.print(f'Report: {write_paper_report(sheet, lines, out)}')
  return not failed


def _run(jobs: list[Job], root: pathlib.Path, workers: int, path: pathlib.Path,
         console: Console) -> int:
  """Runs the jobs, adds each result as it comes, and returns how many runs failed."""
  workers = workers or default_workers()
  console.print(f'{len(jobs)} runs are missing; {min(workers, len(jobs))} side by side, in {root}')
  failed = 0
  start = time.perf_counter()
  done = 0

  def report(job: Job, seconds: float, error: str | None) -> None:
    nonlocal failed, done
    done += 1
    if error is None:
      store.add_results(path, [_result(job, root)])
    else:
      failed += 1
    elapsed = time.perf_counter() - start
    console.print(f'{done} of {len(jobs)}: {job.config}, seed {job.seed}, {seconds:.0f} s'
                  + (f'; FAILED, {error}' if error else '')
                  + f'; about {elapsed / done * (len(jobs) - done):.0f} s to go')
  run_jobs(jobs, root, workers, report)
  return failed


def _result(job: Job, root: pathlib.Path) -> store.Result:
  return store.from_folder(job.folder(root), job.config, code_hash(job.built()))
