"""The epochs of one run, from its start or the newest state that was kept to its end."""

from __future__ import annotations

import pathlib
import time

import jax.numpy as jnp
import ml_collections
import numpy as np
from rich.console import Console

from experiments.data import Data
from experiments.progress import Progress
from experiments.resume import Point, Stores, resume_point, stores
from experiments.stopping import StopSignals
from sparsejax.training.evaluate import host_numbers, jit_summary
from sparsejax.training.fit import Recipe, TrainState
from sparsejax.training.loop import NonFiniteLoss, run_epochs
from sparsejax.training.metrics import MetricsLog
from sparsejax.training.pieces import Pieces

SAVE_MINUTES = 10.0


def train(config: ml_collections.ConfigDict, recipe: Recipe, state: TrainState, data: Data,
          folder: pathlib.Path, console: Console, stop: StopSignals | None = None,
          save_minutes: float = SAVE_MINUTES) -> tuple[TrainState, float, str]:
  """Trains from `state`, or the newest one kept; returns (state, seconds, which epoch it is).

  The state is that after config.epochs epochs or, with config.early_stopping, the best on the
  validation set.

  Args:
    stop: what may ask the run to stop; within seconds it keeps its state and raises Stopped.
    save_minutes: the state is kept after so many minutes at the latest, inside an epoch too.
  """
  stop = stop or StopSignals()

  def warn(message: str) -> None:
    console.print(f'warning: {message}', style='yellow', soft_wrap=True)

  kept = stores(folder, config.get('early_stopping'))
  try:
    with stop.waiting():
      steps = len(data.images) // recipe.batch_size
      point = resume_point(folder, kept, state, steps, warn)
      if point.epochs or len(point.losses):
        inside = f' and {len(point.losses)} of {steps} steps' if len(point.losses) else ''
        console.print(f'Going on after epoch {point.epochs}{inside}, from {folder}')
      state, total = _epochs(config, recipe, data, folder, console, stop, save_minutes, kept, point)
    if kept.best is None:
      return state, total, 'the last epoch; nothing was chosen'
    state, selected_by = kept.best.restore(state)
    return state, total, selected_by
  finally:
    kept.close()


def _epochs(config: ml_collections.ConfigDict, recipe: Recipe, data: Data, folder: pathlib.Path,
            console: Console, stop: StopSignals, save_minutes: float, kept: Stores,
            point: Point) -> tuple[TrainState, float]:
  """Trains from `point` to the end; returns the last state and the seconds of all epochs."""
  state, best = point.state, kept.best
  if best is not None:
    best.go_on_after(point.rows)
  last_epoch = point.epochs if best is not None and best.ended else config.epochs
  images, labels = jnp.asarray(data.images), jnp.asarray(data.labels)
  watched = jnp.asarray(data.watched_images), jnp.asarray(data.watched_labels)
  steps = len(data.images) // recipe.batch_size
  summary = jit_summary(recipe)
  total = sum(row['seconds'] for row in point.rows)
  now = time.perf_counter()
  current, clock, saved = point.epochs + 1, now - point.seconds, now
  log = MetricsLog(folder, resume_after=point.epochs)

  def look(inside: TrainState, losses: np.ndarray) -> None:
    """Keeps the state inside an epoch if it is time to, or the run is to stop."""
    nonlocal saved
    now = time.perf_counter()
    if not stop.asked and now - saved < 60 * save_minutes:
      return
    log.sync()
    kept.inside.save((current - 1) * steps + len(losses), inside,
                     {'losses': losses.tolist(), 'seconds': now - clock})
    saved = time.perf_counter()
    if stop.asked:
      stop.stop(f'the state after {len(losses)} of {steps} steps of epoch {current} is kept in '
                f'{kept.inside.folder}')

  pieces = Pieces(recipe, look, point.losses)
  try:
    with Progress(console, point.epochs, config.epochs) as progress:
      for epoch in run_epochs(recipe, state, images, labels, first=current, last=last_epoch,
                              run_epoch=pieces, taken=len(point.losses)):
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
        if best is not None:
          best.see(epoch.number, numbers['validation_nll_nats'], state)
          last = last or best.ended
        if (last or stop.asked or epoch.number % config.checkpoint_every == 0
            or now - saved >= 60 * save_minutes):
          log.sync()
          kept.whole.save(epoch.number, state)
          saved = time.perf_counter()
        if stop.asked:
          stop.stop(f'the state after epoch {epoch.number} of {config.epochs} is kept in '
                    f'{kept.whole.folder}')
        if last:
          break
    return state, total
  except NonFiniteLoss as error:
    # A run that began inside this epoch has kept that state already.
    began_inside = len(point.losses) and error.epoch == point.epochs + 1
    if not began_inside and kept.whole.latest_epoch() != error.epoch - 1:
      kept.whole.save(error.epoch - 1, error.last_good)
    raise
  finally:
    log.close()
