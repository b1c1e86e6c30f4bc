"""Runs of experiments.train, side by side in processes of their own, each on its own cores."""

from __future__ import annotations

import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import ml_collections

from experiments.evidence.code_hash import code_hash
from experiments.evidence.configs import CONFIGS, load_config
from experiments.workdir import config_hash

LOG_FILE = 'console.log'


class Job(NamedTuple):
  """One run: `config` is '<key>/<file>:<variant>'."""

  config: str
  seed: int

  def built(self) -> ml_collections.ConfigDict:
    """Returns the config of this run."""
    return load_config(self.config, seed=self.seed)

  def folder(self, root: pathlib.Path) -> pathlib.Path:
    """Returns the folder of the run: another config or other code gets another one."""
    config = self.built()
    name = self.config.replace(':', '_')
    return root / f'{name}_seed{self.seed}-{config_hash(config)[:8]}-{code_hash(config)[:8]}'

  def command(self, root: pathlib.Path) -> list[str]:
    """Returns the command of the run."""
    path, _, variant = self.config.partition(':')
    config = os.path.relpath(CONFIGS / f'{path}.py') + (f':{variant}' if variant else '')
    return [sys.executable, '-m', 'experiments.train', f'--config={config}',
            f'--config.seed={self.seed}', f'--workdir={self.folder(root)}']


def default_workers() -> int:
  """One process per core on a CPU, where two small networks side by side train about 1.5 times as
  fast as one after the other on both cores; one on an accelerator."""
  return len(cores()) if jax.default_backend() == 'cpu' else 1


def cores() -> list[int]:
  """The cores this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def run_jobs(jobs: Sequence[Job], root: pathlib.Path, workers: int,
             done: Callable[[Job, float, str | None], None]) -> None:
  """Runs the jobs, `workers` at a time, and calls `done(job, seconds, error)` after each.

  `error` is None, or the last lines of what a failed run printed; its folder keeps the whole in
  console.log, and its checkpoints, from which the same call goes on. The other jobs are run all
  the same.
  """
  waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
  for job in jobs:
    waiting.put(job)
  own = cores()
  lock = threading.Lock()

  def work(share):
    while True:
      try:
        job = waiting.get_nowait()
      except queue.Empty:
        return
      start = time.perf_counter()
      error = _run(job, root, share)
      with lock:
        done(job, time.perf_counter() - start, error)

  threads = [threading.Thread(target=work, args=(own[i::workers] or own,), daemon=True)
             for i in range(min(workers, len(jobs)))]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()


def _run(job: Job, root: pathlib.Path, share: list[int]) -> str | None:
  folder = job.folder(root)
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / LOG_FILE, 'ab') as log:
    process = subprocess.Popen(job.command(root), stdout=log, stderr=subprocess.STDOUT)
    if hasattr(os, 'sched_setaffinity'):
      os.sched_setaffinity(process.pid, share)      # before JAX counts its threads
    code = process.wait()
  if code == 0:
    return None
  lines = (folder / LOG_FILE).read_text(errors='replace').splitlines()
  return f'exit status {code}: ' + ' / '.join(lines[-3:])
