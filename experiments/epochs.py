"""The epochs of one run, from its start or the newest state that was kept to its end."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable

import ml_collections
import numpy as np
from rich.console import Console

from experiments.data import Data
from experiments.mesh import ONE, Devices
from experiments.progress import Progress
from experiments.resume import Point, Stores, resume_point, stores
from experiments.silent import NoCheckpoints, NoLog
from experiments.stopping import StopSignals
from experiments.targets import Steering
from experiments.watchdogs import warnings
from sparsejax.training.checkpoint import Checkpoints
from sparsejax.training.evaluate import host_numbers, jit_summary
from sparsejax.training.fit import Recipe, TrainState
from sparsejax.training.loop import NonFiniteLoss, run_epochs
from sparsejax.training.metrics import MetricsLog
from sparsejax.training.pieces import Pieces

SAVE_MINUTES = 10.0


def train(config: ml_collections.ConfigDict, recipe: Recipe, state: TrainState, data: Data,
          folder: pathlib.Path, console: Console, stop: StopSignals | None = None,
          save_minutes: float = SAVE_MINUTES,
          devices: Devices = ONE) -> tuple[TrainState, float, str]:
  """Trains from `state`, or the newest one kept; returns (state, seconds, which epoch it is).

  The state is that after config.epochs epochs or, with config.early_stopping, the best on the
  validation set.

  Args:
    stop: what may ask the run to stop; within seconds it keeps its state and raises Stopped.
    save_minutes: the state is kept after so many minutes at the latest, inside an epoch too.
    devices: those of the recipe's mesh. The state is given and returned on one device; of several
      processes the first alone keeps anything, and is returned the best epoch.
  """
  stop = stop or StopSignals()

  def warn(message: str) -> None:
    console.print(f'warning: {message}', style='yellow', soft_wrap=True)

  kept = stores(folder, config.get('early_stopping'),
                Checkpoints if devices.first else NoCheckpoints)
  try:
    with stop.waiting():
      steps = len(data.images) // recipe.batch_size
      point = _agreed(devices, lambda: resume_point(folder, kept, state, steps, warn), state)
      if point.epochs or len(point.losses):
        inside = f' and {len(point.losses)} of {steps} steps' if len(point.losses) else ''
        console.print(f'Going on after epoch {point.epochs}{inside}, from {folder}')
      state, total = _epochs(config, recipe, data, folder, console, stop, save_minutes, kept,
                             point, devices, warn)
      stop.ask(*devices.largest(stop.number))
    if kept.best is None or not devices.first:
      return state, total, 'the last epoch; nothing was chosen'
    state, selected_by = kept.best.restore(state)
    return state, total, selected_by
  finally:
    kept.close()


def _agreed(devices: Devices, find: Callable[[], Point], start: TrainState) -> Point:
  """Returns the point that the first process finds, in every process."""
  if devices.processes == 1:
    return find()
  state = start

  def told():
    nonlocal state
    point = find()
    state = point.state
    return point.epochs, point.losses.tolist(), point.seconds, point.rows
  epochs, losses, seconds, rows = devices.agree(told)
  return Point(epochs, devices.agree_state(state), np.asarray(losses, np.float32), seconds, rows)


def _epochs(config: ml_collections.ConfigDict, recipe: Recipe, data: Data, folder: pathlib.Path,
            console: Console, stop: StopSignals, save_minutes: float, kept: Stores,
            point: Point, devices: Devices,
            warn: Callable[[str], None]) -> tuple[TrainState, float]:
  """Trains from `point` to the end; returns the last state and the seconds of all epochs."""
  state, best = devices.place_state(point.state), kept.best
  if best is not None:
    best.go_on_after(point.rows)
  last_epoch = point.epochs if best is not None and best.ended else config.epochs
  images, labels = devices.place(data.images), devices.place(data.labels)
  watched = devices.place(data.watched_images), devices.place(data.watched_labels)
  steps = len(data.images) // recipe.batch_size
  summary = jit_summary(recipe)
  total = sum(row['seconds'] for row in point.rows)
  now = time.perf_counter()
  current, clock, saved = point.epochs + 1, now - point.seconds, now
  log = MetricsLog(folder, resume_after=point.epochs) if devices.first else NoLog()
  rows, told = list(point.rows), set[str]()

  def asked_or_due() -> tuple[bool, bool]:
    """Whether the run is to stop, and whether to keep its state: the same in all processes."""
    overdue = time.perf_counter() - saved >= 60 * save_minutes
    number, due = devices.largest(stop.number, overdue)
    stop.ask(number)
    return number != 0, number != 0 or bool(due)

  def look(inside: TrainState, losses: np.ndarray) -> None:
    """Keeps the state inside an epoch if it is time to, or the run is to stop."""
    nonlocal saved
    asked, due = asked_or_due()
    if not due:
      return
    log.sync()
    kept.inside.save((current - 1) * steps + len(losses), devices.gather_state(inside),
                     {'losses': losses.tolist(), 'seconds': time.perf_counter() - clock})
    saved = time.perf_counter()
    if asked:
      stop.stop(f'the state after {len(losses)} of {steps} steps of epoch {current} is kept in '
                f'{kept.inside.folder}')

  steering = Steering(config, recipe, data) if config.get('target') else None

  def between(number: int, state: TrainState) -> TrainState:
    assert steering is not None
    return devices.place_state(steering.after(number, devices.gather_state(state)))

  pieces = Pieces(recipe, look, point.losses,
                  agree=lambda count: devices.largest(min(count, steps))[0])
  try:
    with Progress(console, point.epochs, config.epochs) as progress:
      for epoch in run_epochs(recipe, state, images, labels, first=current, last=last_epoch,
                              run_epoch=pieces, taken=len(point.losses),
                              between=between if steering else None):
        state = epoch.state
        numbers = {'train_nll_nats': epoch.nll}
        last = epoch.number == config.epochs
        if last or epoch.number % config.evaluate_every == 0:
          seen = host_numbers(summary(state, *watched))
          numbers |= {data.names.get(name, name): value for name, value in seen.items()}
        now = time.perf_counter()
        numbers['seconds'], clock, current = now - clock, now, epoch.number + 1
        total += numbers['seconds']
        log.write(epoch.number, numbers)
        progress.show(epoch.number, numbers)
        rows.append({'epoch': epoch.number, **numbers})
        if 'density' in numbers:
          for message in warnings(config, rows, state.params):
            if message not in told:
              warn(message)
            told.add(message)
        if best is not None:
          best.see(epoch.number, numbers['validation_nll_nats'], devices.gather_state(state))
          last = last or best.ended
        asked, due = asked_or_due()
        if last or due or epoch.number % config.checkpoint_every == 0:
          log.sync()
          kept.whole.save(epoch.number, devices.gather_state(state))
          saved = time.perf_counter()
        if asked:
          stop.stop(f'the state after epoch {epoch.number} of {config.epochs} is kept in '
                    f'{kept.whole.folder}')
        if last:
          break
    return devices.gather_state(state), total
  except NonFiniteLoss as error:
    last_good = devices.gather_state(error.last_good)
    # A run that began inside this epoch has kept that state already.
    began_inside = len(point.losses) and error.epoch == point.epochs + 1
    if not began_inside and kept.whole.latest_epoch() != error.epoch - 1:
      kept.whole.save(error.epoch - 1, last_good)
    raise
  finally:
    log.close()
