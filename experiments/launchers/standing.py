"""How the members of a sweep stand whose tasks SLURM runs: their files, and the queue."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from experiments.launchers import submissions
from experiments.launchers.queue import ACTIVE, ENDED, task_states
from experiments.sweeps import status
from experiments.sweeps.members import Member
from experiments.sweeps.status import Status


class Task(NamedTuple):
  """A task of a job array: its id, its log, its members, and what the queue says of it or ''."""

  job: str
  log: pathlib.Path
  members: list[str]
  state: str


def tasks(folder: pathlib.Path, names: Sequence[str]) -> list[Task]:
  """Returns the newest task of each member in `names` that was given to SLURM.

  Raises:
    ValueError: if the queue cannot be asked.
  """
  wanted, found = set(names), []
  for submission in reversed(submissions.recorded(folder)):
    here = wanted.intersection(name for members in submission.tasks for name in members)
    if not submission.job or not here:
      continue
    states = task_states(submission.job)
    for number, members in enumerate(submission.tasks):
      own = [name for name in members if name in here]
      if own:
        job = submission.task_id(number)
        found.append(Task(job, submission.log(number), own, states.get(job, '')))
    wanted -= here
  return found


def standing(before: Status, task: Task) -> Status:
  """Returns how a member stands: what its files say, unless the queue knows more."""
  if before.state in (status.DONE, status.DIVERGED):
    return before
  if task.state in ACTIVE:
    return before._replace(state=status.RUNNING, note=f'job {task.job}')
  if task.state and task.state not in ENDED:
    return before._replace(state=status.QUEUED, note=f'job {task.job}, {task.state.lower()}')
  if before.state == status.RUNNING:                # by a process that SLURM knows nothing of
    return before
  return before._replace(state=status.FAILED, note=f'job {task.job} has ended'
                         + (f', {task.state.lower()}' if task.state else ''))


def show(folder: pathlib.Path, members: Sequence[Member], console: Console) -> None:
  """Prints how the members of a sweep stand, and how the logs of failed tasks end."""
  found = {member.name: status.state_of(folder, member) for member in members}
  open_ones = [name for name, one in found.items()
               if one.state not in (status.DONE, status.DIVERGED)]
  failed, lines = [], []
  try:
    for task in tasks(folder, open_ones):
      for name in task.members:
        found[name] = standing(found[name], task)
      if any(found[name].state == status.FAILED for name in task.members):
        failed.append(task)
  except ValueError as error:
    lines.append(f'only what the files say: {error}')
  console.print(status.table_of(folder, members, found))
  for line in (*lines, *(line for task in failed for line in _ending(task))):
    console.print(Text(line), soft_wrap=True)


def _ending(task: Task) -> Iterator[str]:
  yield f'{task.log} ends:'
  for line in submissions.last_lines(task.log) or ['(it is not there, or empty)']:
    yield f'  {line}'
