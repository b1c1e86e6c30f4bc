"""A sweep from its members to its front: what is new is planned, what stopped goes on.

The folder of a sweep holds sweep.json (which members there are), a folder for each member, and
populations/ (which members were trained together, and their states while they are). The same
command goes on where it stopped; one with more members adds them.
"""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
from rich.console import Console

from experiments import run, workdir
from experiments.epochs import SAVE_MINUTES
from experiments.lock import InUse, held
from experiments.mesh import ONE, Devices, require_shares
from experiments.report.report import REPORT_FILE
from experiments.stopping import StopSignals
from experiments.sweeps import pareto, status
from experiments.sweeps.board import Board
from experiments.sweeps.diverged import DIVERGED_FILE, write_diverged
from experiments.sweeps.grouping import programs, runs_alone
from experiments.sweeps.members import (Member, base_config, plan, read_record,
                                        recorded_members, write_record)
from experiments.sweeps.population_run import (members_at_once, quiet, record_population,
                                               recorded_names, run_population)
from sparsejax.training.loop import NonFiniteLoss

POPULATIONS_FOLDER = 'populations'


def sweep(config: ml_collections.ConfigDict, overrides: Sequence[Mapping[str, Any]],
          folder: str | pathlib.Path, config_name: str, console: Console | None = None, *,
          at_once: int = 0, stop: StopSignals | None = None,
          save_minutes: float = SAVE_MINUTES, devices: Devices = ONE) -> list[pareto.Entry]:
  """Runs the members of a sweep and writes its table and its front; returns how each stands.

  Args:
    config: what every member starts from. overrides: of each member.
    at_once: members of a program trained together; 0 for as many as memory holds.
    stop, save_minutes: as for `run.run`.
    devices: of this process. Members that are trained together are shared out to them; of one that
      trains by itself each batch is.

  Raises:
    ValueError: for overrides that do not fit the config, a folder of another sweep or in use, a
      batch that the devices cannot share alike.
    Stopped: if `stop` was asked to.
  """
  console, stop, folder = console or Console(), stop or StopSignals(), pathlib.Path(folder)
  with taken(config, overrides, folder, config_name, console,
             check=lambda work: _require_shares(work, at_once, devices)) as work:
    _run(work, folder, config_name, console, stop, save_minutes, at_once, devices)
    return conclude(folder, console)


def _require_shares(work: Work, at_once: int, devices: Devices) -> None:
  """Raises ValueError for a member that trains by itself on batches the devices cannot share."""
  if devices.mesh is None:
    return
  for group in work.groups:
    for member in group if by_itself(group, at_once) else ():
      try:
        require_shares(devices.mesh.size, member.config.batch_size)
      except ValueError as error:
        raise ValueError(f'member {member.name} trains by itself: {error}') from error


class Work(NamedTuple):
  """What is to be done for a sweep.

  Attributes:
    members: that were asked for. everyone: all that the sweep has.
    unfinished: {folder of a population that stopped: its members, in their order}.
    groups: the other members that have not ended, by the program they share.
  """

  members: list[Member]
  everyone: list[Member]
  unfinished: dict[pathlib.Path, list[str]]
  groups: list[list[Member]]


@contextlib.contextmanager
def taken(config: ml_collections.ConfigDict, overrides: Sequence[Mapping[str, Any]],
          folder: pathlib.Path, config_name: str, console: Console,
          busy: Callable[[], frozenset[str]] = frozenset,
          check: Callable[[Work], None] | None = None) -> Iterator[Work]:
  """Takes the folder for this process, records the members, and says what is to be done.

  Args:
    busy: tells the members that others see to; they are no part of the work.
    check: may refuse the work by a ValueError.

  Raises:
    ValueError: as `sweep`; a mistake leaves the folder as it was.
  """
  if folder.exists() and (folder / workdir.CONFIG_FILE).exists():
    raise ValueError(f'workdir {folder} holds a single run ({workdir.CONFIG_FILE}); give the sweep '
                     'a folder of its own')
  folder.mkdir(parents=True, exist_ok=True)
  with held(folder, console.print):
    base = base_config(config)
    members, everyone = plan(folder, base, overrides)
    for member in members:
      workdir.check_config(folder / member.name, member.config)
    work = _work(folder, members, everyone, busy())
    if check is not None:
      check(work)
    # Not before here: a mistake in the sweep must not make the folder that of the mistake.
    write_record(folder, config_name, base, everyone)
    yield work


def _work(folder: pathlib.Path, members: list[Member], everyone: list[Member],
          busy: frozenset[str] = frozenset()) -> Work:
  old = {path: names for path, names in _unfinished(folder, everyone).items()
         if not busy.intersection(names)}
  begun = busy.union(*old.values())
  waiting = [member for member in members
             if member.name not in begun and not ended(folder / member.name)]
  return Work(members, everyone, old, programs(waiting))


def run_program(folder: pathlib.Path, names: Sequence[str], console: Console, *, at_once: int = 0,
                stop: StopSignals | None = None, save_minutes: float = SAVE_MINUTES,
                devices: Devices = ONE) -> None:
  """Trains these members of a recorded sweep, while other processes see to the others.

  Whoever ends last writes the table and the front of the sweep. The arguments are those of `sweep`.

  Raises:
    ValueError: for a folder that holds no such sweep, or members in use.
    Stopped: if `stop` was asked to.
  """
  everyone = {member.name: member for member in recorded_members(folder)}
  unknown = [name for name in names if name not in everyone]
  if unknown:
    raise ValueError(f'the sweep in {folder} has no members {", ".join(unknown)}; run the command '
                     'that began it again')
  work = _work(folder, [everyone[name] for name in names], list(everyone.values()))
  own = {path: found for path, found in work.unfinished.items() if set(found) & set(names)}
  _run(work._replace(unfinished=own), folder, name_of_config(folder), console,
       stop or StopSignals(), save_minutes, at_once, devices)
  if all(ended(folder / name) for name in everyone):
    try:
      with held(folder, console.print):
        conclude(folder, console)
    except InUse as error:
      console.print(f'the front is not written here: {error}', soft_wrap=True, highlight=False)


def conclude(folder: pathlib.Path, console: Console) -> list[pareto.Entry]:
  """Writes and prints the table and the front of a recorded sweep; returns how members stand."""
  everyone, record = recorded_members(folder), read_record(folder)
  assert record is not None
  found = pareto.entries(folder, everyone)
  paths = pareto.write(folder, found, record.config_name, record.base)
  console.print(status.table(folder, everyone), pareto.table(found), sep='\n')
  console.print(f'Files of this sweep: {", ".join(map(str, paths))}', soft_wrap=True)
  return found


def name_of_config(folder: pathlib.Path) -> str:
  """Returns the name of the config that a recorded sweep starts from."""
  record = read_record(folder)
  assert record is not None
  return record.config_name


def _run(work: Work, folder: pathlib.Path, config_name: str, console: Console, stop: StopSignals,
         save_minutes: float, at_once: int, devices: Devices) -> None:
  """Trains what is to be trained: populations that stopped, then program by program."""
  everyone = {member.name: member for member in work.everyone}
  states = {name: status.state_of(folder, member).state for name, member in everyone.items()}
  with Board(console, work.everyone, states) as board:
    over = sum(ended(folder / member.name) for member in work.members)
    board.line(f'{len(work.members)} members, {over} have ended')
    for population, names in work.unfinished.items():
      board.line(f'going on with population {population.name}: {len(names)} members')
      run_population([everyone[name] for name in names], folder, population, config_name, board,
                     stop, save_minutes=save_minutes, mesh=devices.mesh)
    _run_new(folder, work.groups, config_name, board, stop, save_minutes, at_once, devices)


def ended(own: pathlib.Path) -> bool:
  """Returns whether nothing is left to do for the member of this folder."""
  whole = (own / run.LEDGER_FILE).exists() and (own / REPORT_FILE).exists()
  return whole or (own / DIVERGED_FILE).exists()


def _unfinished(folder: pathlib.Path,
                everyone: Sequence[Member]) -> dict[pathlib.Path, list[str]]:
  """Returns {folder of a population that stopped: its members, in their order}."""
  root, known = folder / POPULATIONS_FOLDER, {member.name for member in everyone}
  paths = [path for path in root.iterdir() if path.name.isdecimal()] if root.exists() else []
  found = {}
  for path in sorted(paths, key=lambda path: int(path.name)):
    names = recorded_names(path)
    unknown = [name for name in names if name not in known]
    if unknown:
      raise ValueError(f'{path} was of members that this sweep does not have: '
                       f'{", ".join(unknown)}; remove that folder')
    if not all(ended(folder / name) for name in names):
      found[path] = names
  return found


def _run_new(folder: pathlib.Path, groups: Sequence[list[Member]], config_name: str, board: Board,
             stop: StopSignals, save_minutes: float, at_once: int, devices: Devices) -> None:
  """Trains members of which nothing is there yet, program by program."""
  for number, group in enumerate(groups, 1):
    where = f'program {number} of {len(groups)}'
    if by_itself(group, at_once):
      for member in group:
        board.line(f'{where}: {member.name} by itself')
        _run_alone(member, folder, config_name, board, stop, save_minutes, devices)
      continue
    together, compiled = min(at_once, len(group)), None
    if not at_once:
      fitting, compiled = members_at_once(group, devices.mesh)
      together = fitting.members
      if together < len(group):
        board.line(f'{where}: {len(group)} members would take {fitting.bytes_used:,} of '
                   f'{fitting.bytes_free or 0:,} bytes')
    # Chunks of nearly the same size, for a last one that is small wastes a compilation.
    chunks = math.ceil(len(group) / together)
    size = math.ceil(len(group) / chunks)
    for start in range(0, len(group), size):
      chunk = group[start:start + size]
      board.line(f'{where}: {len(chunk)} members together, {start + len(chunk)} of {len(group)}')
      population = record_population(folder / POPULATIONS_FOLDER, chunk)
      run_population(chunk, folder, population, config_name, board, stop,
                     compiled=compiled if len(chunk) == len(group) else None,
                     save_minutes=save_minutes, mesh=devices.mesh)


def by_itself(group: Sequence[Member], at_once: int) -> bool:
  """Returns whether the members of a program are trained one by one, each as a run of its own."""
  return len(group) == 1 or at_once == 1 or runs_alone(group[0].config)


def _run_alone(member: Member, folder: pathlib.Path, config_name: str, board: Board,
               stop: StopSignals, save_minutes: float, devices: Devices) -> None:
  board.show(member.name, {'state': 'training by itself'})
  try:
    run.run(member.config, folder / member.name, config_name, quiet(), stop, save_minutes, devices)
  except NonFiniteLoss as error:
    write_diverged(folder / member.name, error)
    board.show(member.name, {'state': f'diverged in epoch {error.epoch}, step {error.step}'})
    return
  board.show(member.name, {'state': 'done'})
