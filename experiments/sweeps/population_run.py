"""One program of a sweep: its members trained side by side, each with a folder of its own.

A folder of the sweep, populations/<name>, holds which members they are, in order, and while they
train the checkpoints of all of them. A member's own folder holds what a run by itself would have
left there; that of one that diverged holds diverged.json in place of a ledger.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from experiments import build, run, workdir
from experiments.data import load
from experiments.epochs import SAVE_MINUTES
from experiments.lock import held
from experiments.report.report import REPORT_FILE, write_report
from experiments.resume import CHECKPOINTS_FOLDER
from experiments.stopping import StopSignals
from experiments.sweeps.board import Board
from experiments.sweeps.diverged import DIVERGED_FILE, write_diverged
from experiments.sweeps.members import Member
from experiments.sweeps.numbers import numbers_of, stacked, with_numbers
from experiments.sweeps.shared_data import SharedData, own_images, shared_data
from sparsejax.codec.atomic import write_atomically
from sparsejax.training import fit, population
from sparsejax.training.checkpoint import Checkpoints, DamagedCheckpoint, first_sound
from sparsejax.training.each_member import gather, place_members, place_shared, place_states
from sparsejax.training.fit import Recipe, TrainState
from sparsejax.training.metrics import METRICS_FILE, MetricsLog, read_metrics

MEMBERS_FILE = 'members.json'
INDEX = 'member'        # a number that each member has, and no recipe reads


class Prepared(NamedTuple):
  """Members ready to be trained together; arrays have a first axis over them, see `population`."""

  members: list[Member]
  recipes: list[Recipe]
  build: population.Build
  numbers: Any
  data: SharedData


def prepare(members: Sequence[Member]) -> Prepared:
  """Returns the recipes and the data of members of one program."""
  configs = [member.config for member in members]
  data = shared_data(configs)
  recipes = [build.recipe(config, own_images(data, index)) for index, config in enumerate(configs)]
  each = [numbers_of(config, recipe) for config, recipe in zip(configs, recipes, strict=True)]
  steps = len(own_images(data, 0)) // recipes[0].batch_size

  def made(numbers):
    own = {name: value for name, value in numbers.items() if name != INDEX}
    return with_numbers(configs[0], recipes[0], steps, own)
  # There is always a number a member, so that a population knows its size.
  numbers = stacked(each) | {INDEX: jnp.arange(len(members))}
  return Prepared(list(members), recipes, made, numbers, data)


def starts(prepared: Prepared) -> list[TrainState]:
  """Returns the state of each member before its first step, the one it would have alone."""
  return [fit.start(recipe, jax.random.key(member.config.seed),
                    jnp.asarray(own_images(prepared.data, index)[:1]))
          for index, (member, recipe) in enumerate(zip(prepared.members, prepared.recipes,
                                                       strict=True))]


class Compiled(NamedTuple):
  """The program of an epoch, and the seconds it took to compile."""

  epoch: Any
  seconds: float


def members_at_once(members: Sequence[Member],
                    mesh: Mesh | None = None) -> tuple[population.Fitting, Compiled]:
  """Returns how many of a program's members fit into memory together, and the program of all."""
  clock = time.perf_counter()
  prepared = prepare(members)
  count = len(members)
  shared_seed = len({member.config.seed for member in members}) == 1
  one = jax.eval_shape(lambda key: fit.start(prepared.recipes[0], key, jnp.asarray(
      prepared.data.images[:1])), jax.random.key(0))
  states = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), one)
  states = states._replace(step=one.step, key=one.key if shared_seed else states.key)
  fitting, epoch = population.fitting(prepared.build, prepared.numbers, states,
                                      *_arrays(prepared.data), mesh=mesh)
  return fitting, Compiled(epoch, time.perf_counter() - clock)


def _arrays(data: SharedData) -> tuple[Any, Any, Any]:
  rows = None if data.rows is None else jnp.asarray(data.rows)
  return jnp.asarray(data.images), jnp.asarray(data.labels), rows


def record_population(root: pathlib.Path, members: Sequence[Member]) -> pathlib.Path:
  """Makes the folder of a population, which says who its members are; returns it."""
  root.mkdir(parents=True, exist_ok=True)
  for number in itertools.count():
    folder = root / f'{number}'
    with contextlib.suppress(FileExistsError):      # tasks of a job array look for one too
      folder.mkdir()
      break
  names = [member.name for member in members]
  write_atomically(folder / MEMBERS_FILE, (json.dumps({'members': names}) + '\n').encode())
  return folder


def recorded_names(folder: pathlib.Path) -> list[str]:
  """Returns the members of a population, none if it was cut off before it began."""
  path = folder / MEMBERS_FILE
  if not path.exists():
    return []
  try:
    return [str(name) for name in json.loads(path.read_bytes())['members']]
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f'{path} is damaged: {error}; restore it from a copy, or remove {folder} to '
                     'train its members again') from error


def run_population(members: Sequence[Member], root: pathlib.Path, folder: pathlib.Path,
                   config_name: str, board: Board, stop: StopSignals,
                   compiled: Compiled | None = None, save_minutes: float = SAVE_MINUTES,
                   mesh: Mesh | None = None) -> None:
  """Trains the members to the end, or goes on where they stopped, and measures each.

  Args:
    root: has a folder for each member. folder: of the population.
    board: is told what is new.
    stop: may ask to stop, which happens after the epoch or the measurement that runs.
    compiled: the program of an epoch, if the caller has it.
    save_minutes: states are kept at the end of an epoch after so many minutes at the latest.
    mesh: devices to share the members out to; what is kept does not depend on them.

  Raises:
    Stopped: if `stop` was asked to.
  """
  folders = [root / member.name for member in members]
  prepared = prepare(members)
  with contextlib.ExitStack() as locks:
    for member, own in zip(members, folders, strict=True):
      workdir.check(own, member.config)
      locks.enter_context(held(own, board.line))
      workdir.claim(own, member.config)
    with stop.waiting():
      checkpoints = Checkpoints(folder / CHECKPOINTS_FOLDER)
      try:
        states = _train(prepared, folders, checkpoints, board, stop, compiled, save_minutes, mesh)
      finally:
        checkpoints.close()
    _finish_all(prepared, states, folders, config_name, board, mesh)
  if (folder / CHECKPOINTS_FOLDER).exists():         # not where all diverged at once
    shutil.rmtree(folder / CHECKPOINTS_FOLDER)


def _finish_all(prepared: Prepared, states: TrainState, folders: Sequence[pathlib.Path],
                config_name: str, board: Board, mesh: Mesh | None) -> None:
  """Measures the members that have not been, and writes what a run by itself leaves."""
  for index, (member, own) in enumerate(zip(prepared.members, folders, strict=True)):
    if (own / DIVERGED_FILE).exists():
      continue
    if not (own / run.LEDGER_FILE).exists():
      board.show(member.name, {'state': 'measuring'})
      _finish(member, prepared.recipes[index], population.member(states, index), own, config_name,
              {} if mesh is None else {'mesh': f'members:{mesh.size}', 'mesh_processes': 1})
    elif not (own / REPORT_FILE).exists():
      write_report(own)
    board.show(member.name, {'state': 'done'})


def _train(prepared: Prepared, folders: Sequence[pathlib.Path], checkpoints: Checkpoints,
           board: Board, stop: StopSignals, compiled: Compiled | None,
           save_minutes: float, mesh: Mesh | None) -> TrainState:
  """Returns the states after the last epoch, on one device."""
  config, data = prepared.members[0].config, prepared.data
  names = [member.name for member in prepared.members]
  alive = [not (own / DIVERGED_FILE).exists() and not (own / run.LEDGER_FILE).exists()
           for own in folders]
  done, states = _resume(population.stack(starts(prepared)), folders, alive, checkpoints,
                         board.line)
  if done == config.epochs:
    return states
  states = place_states(mesh, states)
  logs = {index: MetricsLog(own, resume_after=done) for index, own in enumerate(folders)
          if alive[index]}
  summary = population.jit_summary(prepared.build, mesh)
  numbers_of_each = place_members(mesh, prepared.numbers)
  watched = (*place_shared(mesh, (jnp.asarray(data.watched_images),
                                  jnp.asarray(data.watched_labels))),
             None if data.watched_rows is None else
             place_members(mesh, jnp.asarray(data.watched_rows)))
  saved = time.perf_counter()
  clock = saved - (compiled.seconds if compiled else 0)
  images, labels, rows = _arrays(data)
  images, labels, rows = *place_shared(mesh, (images, labels)), place_members(mesh, rows)
  try:
    for epoch in population.run_epochs(
        prepared.build, numbers_of_each, states, images, labels, rows=rows, alive=alive,
        first=done + 1, last=config.epochs, epoch=compiled and compiled.epoch, mesh=mesh):
      states, last = epoch.states, epoch.number == config.epochs
      for index, error in epoch.diverged.items():
        logs.pop(index).close()
        _keep(folders[index], epoch.number - 1, error.last_good)
        write_diverged(folders[index], error)
        board.show(names[index], {'state': f'diverged in epoch {error.epoch}, step {error.step}'})
      seen = {}
      if last or epoch.number % config.evaluate_every == 0:
        seen = {data.names.get(name, name): np.asarray(value) for name, value in
                summary(numbers_of_each, states, *watched).items()}
      now = time.perf_counter()
      # A member's share of the time that all of them took.
      seconds, clock = (now - clock) / max(1, len(logs)), now
      for index, log in logs.items():
        numbers = {'train_nll_nats': float(epoch.nll[index]),
                   **{name: float(value[index]) for name, value in seen.items()},
                   'seconds': seconds}
        log.write(epoch.number, numbers)
        board.show(names[index], {'state': 'training', 'epoch': epoch.number, **numbers})
      if logs:
        board.epoch([names[index] for index in logs], epoch.number)
      if (last or stop.asked or epoch.number % config.checkpoint_every == 0
          or now - saved >= 60 * save_minutes):
        for log in logs.values():
          log.sync()
        checkpoints.save(epoch.number, gather(mesh, states))
        saved = time.perf_counter()
      if stop.asked:
        stop.stop(f'the states after epoch {epoch.number} of {config.epochs} are kept in '
                  f'{checkpoints.folder}')
    return gather(mesh, states)
  finally:
    for log in logs.values():
      log.close()


def _resume(states: TrainState, folders: Sequence[pathlib.Path], alive: Sequence[bool],
            checkpoints: Checkpoints, warn: Callable[[str], None]) -> tuple[int, TrainState]:
  """Returns the newest sound states of which all members have the metrics, and their epoch."""
  if not checkpoints.numbers():
    return 0, states

  def load_number(number):
    for own, living in zip(folders, alive, strict=True):
      epochs = [row['epoch'] for row in read_metrics(own / METRICS_FILE)
                if row['epoch'] <= number]
      if living and epochs != list(range(1, number + 1)):
        raise DamagedCheckpoint(f'checkpoint {checkpoints.folder / str(number)} cannot be used: '
                                f'{own / METRICS_FILE} has not the metrics of all epochs before it')
    return number, checkpoints.load(number, states)[0]

  return first_sound([(checkpoints.folder / str(number), functools.partial(load_number, number))
                      for number in reversed(checkpoints.numbers())], warn)


def _finish(member: Member, recipe: Recipe, state: TrainState, folder: pathlib.Path,
            config_name: str, trained_on: Mapping[str, Any]) -> None:
  """Writes what a run by itself leaves: its last state, files, ledger and report."""
  rows = read_metrics(folder / METRICS_FILE)
  _keep(folder, member.config.epochs, state)
  run.finish(member.config, config_name, recipe, state, load(member.config), folder,
             sum(row['seconds'] for row in rows), 'the last epoch; nothing was chosen', quiet(),
             trained_on)


def _keep(folder: pathlib.Path, epochs: int, state: TrainState) -> None:
  """Keeps the state of a member where a run by itself does."""
  checkpoints = Checkpoints(folder / CHECKPOINTS_FOLDER)
  try:
    checkpoints.save(epochs, state)
  finally:
    checkpoints.close()


def quiet() -> Console:
  """Returns a console that shows nothing; the table of the sweep does."""
  return Console(file=io.StringIO())
