"""How the members of a sweep stand, by reading their folders alone."""

from __future__ import annotations

import fcntl
import os
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.table import Table

from experiments.lock import LOCK_FILE
from experiments.sweeps.diverged import read_diverged
from experiments.sweeps.members import Member
from experiments.workdir import LEDGER_FILE
from sparsejax.training.metrics import METRICS_FILE, read_metrics

DONE, DIVERGED, RUNNING, INTERRUPTED, MISSING = (
    'done', 'diverged', 'running', 'interrupted', 'missing')
QUEUED, FAILED = 'queued', 'failed'          # on a cluster alone, see launchers/standing.py


class Status(NamedTuple):
  """`state` is one of those above; `epoch` the last whole one; `error` the last measured, %."""

  state: str
  epoch: int
  error: float | None
  note: str = ''


def state_of(folder: pathlib.Path, member: Member) -> Status:
  """Returns how a member of the sweep in `folder` stands."""
  own = folder / member.name
  rows = read_metrics(own / METRICS_FILE)
  epoch = int(rows[-1]['epoch']) if rows else 0
  errors = [row[name] for row in rows for name in row if name.endswith('_error_percent')]
  error = errors[-1] if errors else None
  diverged = read_diverged(own)
  if (own / LEDGER_FILE).exists():
    return Status(DONE, epoch, error)
  if diverged is not None:
    return Status(DIVERGED, epoch, error, f'epoch {diverged["epoch"]}, step {diverged["step"]}: '
                  f'{diverged["leaf"]}')
  if is_held(own):
    return Status(RUNNING, epoch, error)
  return Status(INTERRUPTED if rows else MISSING, epoch, error)


def is_held(folder: pathlib.Path) -> bool:
  """Returns whether a process holds the folder, without holding it."""
  try:
    file = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
  except OSError:
    return False
  try:
    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return False
  except OSError:               # held, or a file system without locks: the file is what there is
    return True
  finally:
    os.close(file)


def table(folder: pathlib.Path, members: Sequence[Member]) -> Table:
  """Returns a row for each member, and how many there are of each state, by their folders."""
  return table_of(folder, members, {member.name: state_of(folder, member) for member in members})


def table_of(folder: pathlib.Path, members: Sequence[Member],
             states: Mapping[str, Status]) -> Table:
  """Returns the table of members that stand as `states` has it by name."""
  shown = Table(title=f'Sweep in {folder}', title_justify='left')
  for name, justify in (('member', 'left'), ('state', 'left'), ('epoch', 'right'),
                        ('error, %', 'right'), ('note', 'left')):
    shown.add_column(name, justify=justify, no_wrap=name == 'member')  # type: ignore[arg-type]
  counts: Counter[str] = Counter()
  for member in members:
    found = states[member.name]
    counts[found.state] += 1
    shown.add_row(member.name, found.state, f'{found.epoch}/{member.config.epochs}',
                  '' if found.error is None else f'{found.error:.2f}', found.note)
  order = (DONE, RUNNING, QUEUED, INTERRUPTED, MISSING, DIVERGED, FAILED)
  shown.caption = ', '.join(f'{counts[state]} {state}' for state in order if counts[state])
  return shown
