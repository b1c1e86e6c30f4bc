"""One task of a job array: the members of one program, and back into the queue at the time limit.

SIGTERM comes where SLURM takes the nodes away: the task keeps its states and ends; SLURM starts it
again where it was preempted or requeued, and not where it was cancelled. SIGUSR2 comes before the
time limit, after which SLURM would not: the task keeps its states and asks SLURM itself. In both
cases, and after SIGKILL or the loss of a node, the same command goes on from what was kept.
"""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Mapping

from rich.console import Console

from experiments.launchers import submissions
from experiments.launchers.queue import requeue
from experiments.mesh import ONE, Devices
from experiments.stopping import SIGNALS, Stopped, StopSignals

# A task whose measurement never fits into the time limit would go round for ever.
MOST_REQUEUES = 100


def signals() -> StopSignals:
  """Returns what listens in a task; srun may hand on a signal that SLURM has sent already."""
  return StopSignals((*SIGNALS, signal.SIGUSR2), again=False)


def members_of(sweep: pathlib.Path, program: str) -> list[str]:
  """Returns the names of the members of --program, such as 0.3: of job array 0, task 3.

  Raises:
    ValueError: if there is no such task.
  """
  number, _, task = program.partition('.')
  if not (number.isdecimal() and task.isdecimal()):
    raise ValueError(f'--program={program} is none: it reads <job array>.<task>, such as 0.3, and '
                     'is given by --launcher=slurm')
  found = submissions.read(sweep / submissions.SUBMISSIONS_FOLDER / str(int(number)))
  if int(task) >= len(found.tasks):
    raise ValueError(f'--program={program}: {found.folder} has {len(found.tasks)} tasks')
  return found.tasks[int(task)]


def run(sweep: pathlib.Path, program: str, stop: StopSignals, console: Console | None = None, *,
        at_once: int, save_minutes: float, devices: Devices = ONE,
        environment: Mapping[str, str] = os.environ) -> None:
  """Trains the members of one task to the end, or goes on where it stopped.

  Args:
    sweep: folder of the sweep. stop: listens, see `signals`.
    environment: what SLURM told the task.

  Raises:
    ValueError: as `runner.run_program`, and for a task that was put back too often.
    Stopped: if it was asked to, unless SLURM has been asked to start it again.
  """
  console = console or Console()
  try:
    from experiments.sweeps import runner
    runner.run_program(sweep, members_of(sweep, program), console, at_once=at_once, stop=stop,
                       save_minutes=save_minutes, devices=devices)
  except Stopped as stopped:
    job = environment.get('SLURM_ARRAY_JOB_ID')
    if stop.number != signal.SIGUSR2 or job is None:
      raise
    before = int(environment.get('SLURM_RESTART_COUNT', '0'))
    if before >= MOST_REQUEUES:
      raise ValueError(f'the time limit ended this task {before + 1} times; ask for a longer '
                       '--time and give the command of the sweep again') from stopped
    console.print(str(stopped), soft_wrap=True, highlight=False)
    requeue(f'{job}_{environment["SLURM_ARRAY_TASK_ID"]}')
