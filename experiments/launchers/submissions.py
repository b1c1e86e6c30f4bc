"""What a sweep has given to SLURM: slurm/<number> in its folder, one for each job array.

Such a folder holds tasks.json (the members of each task, written before the job is submitted, for
a task may start at once), job.json (the id SLURM gave it), the script that was submitted, and the
logs. All of it is text: a task is a command line, and no pickle is written or read.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from sparsejax.codec.atomic import write_atomically

SUBMISSIONS_FOLDER, TASKS_FILE, JOB_FILE = 'slurm', 'tasks.json', 'job.json'
TAIL_BYTES = 16_384


class Submission(NamedTuple):
  """One job array.

  Attributes:
    job: its id, '' if SLURM never took it. tasks: the names of the members of each.
  """

  folder: pathlib.Path
  job: str
  tasks: list[list[str]]

  def task_id(self, task: int) -> str:
    """Returns the id that SLURM has for a task."""
    return f'{self.job}_{task}'

  def log(self, task: int) -> pathlib.Path:
    """Returns where a task writes what it prints; submitit names files so."""
    return self.folder / f'{self.task_id(task)}_0_log.out'


def begin(sweep: pathlib.Path, tasks: Sequence[Sequence[str]]) -> Submission:
  """Makes the folder of the next job array of a sweep, whose folder this process holds."""
  root = sweep / SUBMISSIONS_FOLDER
  number = max(_numbers(root), default=-1) + 1
  folder = root / f'{number}'
  folder.mkdir(parents=True)
  found = Submission(folder, '', [list(names) for names in tasks])
  write_atomically(folder / TASKS_FILE, (json.dumps({'tasks': found.tasks}) + '\n').encode())
  return found


def taken(submission: Submission, job: str) -> Submission:
  """Writes down the id that SLURM gave to a job array."""
  write_atomically(submission.folder / JOB_FILE, (json.dumps({'job': job}) + '\n').encode())
  return submission._replace(job=job)


def recorded(sweep: pathlib.Path) -> list[Submission]:
  """Returns all job arrays of a sweep, oldest first."""
  root = sweep / SUBMISSIONS_FOLDER
  return [read(root / f'{number}') for number in _numbers(root)]


def read(folder: pathlib.Path) -> Submission:
  """Returns the job array of a folder.

  Raises:
    ValueError: if there is none, or a file of it is damaged.
  """
  if not (folder / TASKS_FILE).exists():
    raise ValueError(f'{folder} holds no job array (no {TASKS_FILE}); a task is started by SLURM, '
                     'with the command that --launcher=slurm gave it')
  path = folder / TASKS_FILE
  try:
    tasks = [[str(name) for name in names] for names in json.loads(path.read_bytes())['tasks']]
    path, job = folder / JOB_FILE, ''
    if path.exists():
      job = str(json.loads(path.read_bytes())['job'])
      if not re.fullmatch('[0-9]+', job):
        raise ValueError(f'{job!r} is no id of a job')
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f'{path} is damaged: {type(error).__name__}: {error}; restore it from a copy, '
                     f'or remove {folder} once its jobs have ended') from error
  return Submission(folder, job, tasks)


def _numbers(root: pathlib.Path) -> list[int]:
  paths = root.iterdir() if root.exists() else ()
  return sorted(int(path.name) for path in paths if path.name.isdecimal())


def last_lines(log: pathlib.Path, count: int = 10) -> list[str]:
  """Returns the end of a log, without what a terminal would obey; nothing of a missing one."""
  if not log.exists():
    return []
  with log.open('rb') as file:
    size = file.seek(0, 2)
    file.seek(max(0, size - TAIL_BYTES))
    text = file.read().decode(errors='replace')
  lines = [''.join(letter if letter.isprintable() else ' ' for letter in line).rstrip()
           for line in text.splitlines()]
  return [line for line in lines if line][-count:]
