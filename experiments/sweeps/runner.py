"""A sweep from its members to its front: what is new is planned, what stopped goes on.

The folder of a sweep holds sweep.json (which members there are), a folder for each member, and
populations/ (which members were trained together, and their states while they are). The same
command goes on where it stopped; one with more members adds them.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from rich.console import Console

from experiments import run, workdir
from experiments.epochs import SAVE_MINUTES
from experiments.lock import held
from experiments.report.report import REPORT_FILE
from experiments.stopping import StopSignals
from experiments.sweeps import pareto, status
from experiments.sweeps.board import Board
from experiments.sweeps.diverged import DIVERGED_FILE, write_diverged
from experiments.sweeps.grouping import programs, runs_alone
from experiments.sweeps.members import Member, base_config, plan, write_record
from experiments.sweeps.population_run import (members_at_once, quiet, record_population,
                                               recorded_names, run_population)
from sparsejax.training.loop import NonFiniteLoss

POPULATIONS_FOLDER = 'populations'


def sweep(config: ml_collections.ConfigDict, overrides: Sequence[Mapping[str, Any]],
          folder: str | pathlib.Path, config_name: str, console: Console | None = None, *,
          at_once: int = 0, stop: StopSignals | None = None,
          save_minutes: float = SAVE_MINUTES) -> list[pareto.Entry]:
  """Runs the members of a sweep and writes its table and its front; returns how each stands.

  Args:
    config: what every member starts from. overrides: of each member.
    at_once: members of a program trained together; 0 for as many as memory holds.
    stop, save_minutes: as for `run.run`.

  Raises:
    ValueError: for overrides that do not fit the config, a folder of another sweep or in use.
    Stopped: if `stop` was asked to.
  """
  console, stop, folder = console or Console(), stop or StopSignals(), pathlib.Path(folder)
  if folder.exists() and (folder / workdir.CONFIG_FILE).exists():
    raise ValueError(f'workdir {folder} holds a single run ({workdir.CONFIG_FILE}); give the sweep '
                     'a folder of its own')
  folder.mkdir(parents=True, exist_ok=True)
  with held(folder, console.print):
    base = base_config(config)
    members, all_members = plan(folder, base, overrides)
    everyone = {member.name: member for member in all_members}
    for member in members:
      workdir.check_config(folder / member.name, member.config)
    old = _unfinished(folder, everyone)
    begun = {name for names in old.values() for name in names}
    waiting = [member for member in members
               if member.name not in begun and not _ended(folder / member.name)]
    groups = programs(waiting)
    # Not before here: a mistake in the sweep must not make the folder that of the mistake.
    write_record(folder, config_name, base, all_members)
    states = {name: status.state_of(folder, member).state for name, member in everyone.items()}
    with Board(console, all_members, states) as board:
      ended = sum(_ended(folder / member.name) for member in members)
      board.line(f'{len(members)} members, {ended} have ended')
      for population, names in old.items():
        board.line(f'going on with population {population.name}: {len(names)} members')
        run_population([everyone[name] for name in names], folder, population, config_name, board,
                       stop, save_minutes=save_minutes)
      _run_new(folder, groups, config_name, board, stop, save_minutes, at_once)
    found = pareto.entries(folder, all_members)
    paths = pareto.write(folder, found, config_name, base)
    console.print(status.table(folder, all_members), pareto.table(found), sep='\n')
    console.print(f'Files of this sweep: {", ".join(map(str, paths))}', soft_wrap=True)
    return found


def _ended(own: pathlib.Path) -> bool:
  """Returns whether nothing is left to do for the member of this folder."""
  whole = (own / run.LEDGER_FILE).exists() and (own / REPORT_FILE).exists()
  return whole or (own / DIVERGED_FILE).exists()


def _unfinished(folder: pathlib.Path,
                everyone: Mapping[str, Member]) -> dict[pathlib.Path, list[str]]:
  """Returns {folder of a population that stopped: its members, in their order}."""
  root = folder / POPULATIONS_FOLDER
  paths = [path for path in root.iterdir() if path.name.isdecimal()] if root.exists() else []
  found = {}
  for path in sorted(paths, key=lambda path: int(path.name)):
    names = recorded_names(path)
    unknown = [name for name in names if name not in everyone]
    if unknown:
      raise ValueError(f'{path} was of members that this sweep does not have: '
                       f'{", ".join(unknown)}; remove that folder')
    if not all(_ended(folder / name) for name in names):
      found[path] = names
  return found


def _run_new(folder: pathlib.Path, groups: Sequence[list[Member]], config_name: str, board: Board,
             stop: StopSignals, save_minutes: float, at_once: int) -> None:
  """Trains members of which nothing is there yet, program by program."""
  for number, group in enumerate(groups, 1):
    where = f'program {number} of {len(groups)}'
    if len(group) == 1 or at_once == 1 or runs_alone(group[0].config):
      for member in group:
        board.line(f'{where}: {member.name} by itself')
        _run_alone(member, folder, config_name, board, stop, save_minutes)
      continue
    together, compiled = min(at_once, len(group)), None
    if not at_once:
      fitting, compiled = members_at_once(group)
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
                     save_minutes=save_minutes)


def _run_alone(member: Member, folder: pathlib.Path, config_name: str, board: Board,
               stop: StopSignals, save_minutes: float) -> None:
  board.show(member.name, {'state': 'training by itself'})
  try:
    run.run(member.config, folder / member.name, config_name, quiet(), stop, save_minutes)
  except NonFiniteLoss as error:
    write_diverged(folder / member.name, error)
    board.show(member.name, {'state': f'diverged in epoch {error.epoch}, step {error.step}'})
    return
  board.show(member.name, {'state': 'done'})
