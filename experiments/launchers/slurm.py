"""A sweep as a job array of SLURM, written and submitted by submitit.

submitit usually pickles a function, has the task unpickle and call it, and to requeue it pickles
what the function's checkpoint() returns. Here the array runs a plain command line: what a program
needs to go on lies in the sweep's folder anyway, and a pickle in a shared folder is code for
whoever may write there. So submitit writes the script for sbatch and submits it: what we call is
the step of its executor below the pickling, which takes a command.
"""

from __future__ import annotations

import pathlib
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
from rich.console import Console

from experiments.launchers import submissions
from experiments.launchers.options import Options, parameters
from experiments.launchers.queue import ENDED, task_states
from experiments.launchers.submissions import Submission
from experiments.sweeps import runner

COMMANDS = ('sbatch', 'srun', 'squeue', 'scontrol')


def require() -> Any:
  """Returns the module submitit.

  Raises:
    ValueError: if it, or SLURM, is missing here; the message says how to get it.
  """
  try:
    import submitit
  except ImportError as error:
    raise ValueError("--launcher=slurm needs submitit, which is not installed; run pip install "
                     "'sparsejax[slurm]', or leave --launcher out") from error
  missing = [name for name in COMMANDS if shutil.which(name) is None]
  if missing:
    raise ValueError(f'--launcher=slurm needs SLURM, and this machine has no {", ".join(missing)}: '
                     'run the command on a login node of the cluster (Debian: apt-get install '
                     'slurm-client), or leave --launcher out')
  return submitit


def command_line(sweep: pathlib.Path, submission: Submission, flags: Sequence[str]) -> str:
  """Returns what each task of a job array runs, for the shell that knows its number."""
  words = [sys.executable, '-u', '-m', 'experiments.sweep', f'--workdir={sweep}', *flags]
  return f'{shlex.join(words)} --program={submission.folder.name}."$SLURM_ARRAY_TASK_ID"'


def submit(submission: Submission, command: str, options: Mapping[str, Any],
           submitit: Any) -> Submission:
  """Submits a job array; returns it with the id SLURM gave it.

  Raises:
    ValueError: if SLURM refuses it; the message is SLURM's.
  """
  from submitit.core import utils
  executor = submitit.SlurmExecutor(submission.folder)
  executor.update_parameters(job_name=f'sweep-{submission.folder.parent.parent.name}', **options)
  executor.parameters['map_count'] = len(submission.tasks)      # an array, of one task too
  try:
    job = executor._submit_command(command)
  except utils.FailedJobError as error:                         # of sbatch
    shutil.rmtree(submission.folder)
    raise ValueError(f'SLURM did not take the job: {str(error).strip()}') from error
  except utils.FailedSubmissionError as error:                  # its tasks may run all the same
    raise ValueError(f'SLURM did not tell the id of the job, see squeue: {error}') from error
  return submissions.taken(submission, str(job.job_id))


def launch(config: ml_collections.ConfigDict, overrides: Sequence[Mapping[str, Any]],
           folder: pathlib.Path, config_name: str, options: Options, flags: Sequence[str],
           console: Console | None = None) -> Submission | None:
  """Submits what a sweep has to do as a job array; returns it, None if nothing is to be done.

  Members that wait in the queue, or run, are left alone, so the same command may be given again:
  it submits what is new and what failed, and writes the front where all have ended.

  Args:
    config, overrides, config_name: as for `runner.sweep`. folder: of the sweep, seen by all nodes.
    flags: passed on to each task.

  Raises:
    ValueError: as `runner.sweep`; if submitit or SLURM is missing, or SLURM refuses the job.
  """
  console, folder = console or Console(), folder.absolute()
  submitit, asked = require(), parameters(options)
  if '%' in str(folder):
    raise ValueError(f'workdir {folder}: SLURM reads % in names of logs; choose one without')
  with runner.taken(config, overrides, folder, config_name, console, _busy(folder)) as work:
    tasks = [names for names in work.unfinished.values()]
    for group in work.groups:
      names = [member.name for member in group]
      tasks += [[name] for name in names] if runner.runs_alone(group[0].config) else [names]
    if not tasks:
      waiting = [member.name for member in work.members if not runner.ended(folder / member.name)]
      if waiting:
        console.print(f'{len(waiting)} members wait or run already; --status tells how they stand')
      else:
        runner.conclude(folder, console)
      return None
    begun = submissions.begin(folder, tasks)
    found = submit(begun, command_line(folder, begun, flags), asked, submitit)
  console.print(f'Job array {found.job}: {len(tasks)} tasks for {sum(map(len, tasks))} members; '
                f'logs in {found.folder}; --status tells how they stand', soft_wrap=True,
                highlight=False)
  return found


def _busy(folder: pathlib.Path) -> Callable[[], frozenset[str]]:
  """Returns a function that tells the members whose tasks wait in the queue or run."""
  def busy() -> frozenset[str]:
    names: set[str] = set()
    for found in submissions.recorded(folder):
      left = [task for task, members in enumerate(found.tasks)
              if not all(runner.ended(folder / name) for name in members)]
      states = task_states(found.job) if found.job and left else {}
      for task in left:
        if states.get(found.task_id(task), ENDED[0]) not in ENDED:
          names.update(found.tasks[task])
    return frozenset(names)
  return busy
