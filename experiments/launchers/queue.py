"""SLURM's queue: how the tasks of a job array stand there, and back into it."""

from __future__ import annotations

import shutil
import subprocess

# States of a job that is over. What else there is waits or runs.
ENDED = ('COMPLETED', 'FAILED', 'CANCELLED', 'TIMEOUT', 'OUT_OF_MEMORY', 'NODE_FAIL', 'BOOT_FAIL',
         'DEADLINE', 'PREEMPTED', 'REVOKED')
ACTIVE = ('RUNNING', 'COMPLETING', 'SUSPENDED', 'STOPPED', 'SIGNALING', 'STAGE_OUT')
SECONDS = 60


def task_states(job: str) -> dict[str, str]:
  """Returns {'7_0': 'PENDING', ...} of the tasks of a job array that SLURM still knows.

  A job that ended some minutes ago is not known any more.

  Raises:
    ValueError: if squeue is not here, or fails.
  """
  if shutil.which('squeue') is None:
    raise ValueError('this machine has no squeue: what waits in the queue is told on a login node '
                     'of the cluster alone')
  # Without --states=all a suspended job would seem to have ended.
  command = ['squeue', f'--jobs={job}', '--array', '--noheader', '--states=all', '--format=%i|%T']
  try:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
  except subprocess.TimeoutExpired as error:
    raise ValueError(f'squeue has not answered within {SECONDS} s; try again') from error
  if done.returncode:
    if 'Invalid job id' in done.stderr:
      return {}
    raise ValueError(f'squeue fails: {done.stderr.strip()}; try again')
  return dict(line.strip().split('|', 1) for line in done.stdout.splitlines() if '|' in line)


def requeue(job: str) -> None:
  """Puts a job back into the queue.

  Raises:
    ValueError: if SLURM does not.
  """
  done = subprocess.run(['scontrol', 'requeue', job], capture_output=True, text=True, check=False)
  if done.returncode:
    raise ValueError(f'job {job} could not be put back into the queue: {done.stderr.strip()}; give '
                     'the command of the sweep again')
