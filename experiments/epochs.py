"""The epochs of one run, from its start or its newest checkpoint to its end."""

from __future__ import annotations

import pathlib
import time

import jax.numpy as jnp
import ml_collections
from rich.console import Console

from experiments.data import Data
from experiments.early_stopping import BestEpoch
from experiments.progress import Progress
from sparsejax.training.checkpoint import Checkpoints
from sparsejax.training.evaluate import host_numbers, jit_summary
from sparsejax.training.fit import Recipe, TrainState
from sparsejax.training.loop import NonFiniteLoss, run_epochs
from sparsejax.training.metrics import MetricsLog, read_metrics


def train(config: ml_collections.ConfigDict, recipe: Recipe, state: TrainState, data: Data,
          folder: pathlib.Path, console: Console) -> tuple[TrainState, float, str]:
  """Trains from `state`, or the newest checkpoint; returns (state, seconds, which epoch it is).

  The state is that after config.epochs epochs or, with config.early_stopping, the best on the
  validation set.
  """
  checkpoints = Checkpoints(folder / 'checkpoints')
  done = 0
  if checkpoints.latest_epoch() is not None:
    done, state = checkpoints.restore(state)
    console.print(f'Going on after epoch {done}, from {folder / "checkpoints"}')
  rows = [row for row in read_metrics(folder / 'metrics.jsonl') if row['epoch'] <= done]
  before = sum(row['seconds'] for row in rows)
  best = None
  if config.get('early_stopping'):
    best = BestEpoch(folder / 'best', config.early_stopping, rows)
  log = MetricsLog(folder, resume_after=done)
  images, labels = jnp.asarray(data.images), jnp.asarray(data.labels)
  watched = jnp.asarray(data.watched_images), jnp.asarray(data.watched_labels)
  summary = jit_summary(recipe)
  total = before
  last_epoch = done if best is not None and best.ended else config.epochs
  clock = time.perf_counter()
  try:
    with Progress(console, done, config.epochs) as progress:
      for epoch in run_epochs(recipe, state, images, labels, first=done + 1, last=last_epoch):
        state = epoch.state
        numbers = {'train_nll_nats': epoch.nll}
        last = epoch.number == config.epochs
        if last or epoch.number % config.evaluate_every == 0:
          seen = host_numbers(summary(state, *watched))
          numbers |= {data.names.get(name, name): value for name, value in seen.items()}
        now = time.perf_counter()
        numbers['seconds'], clock = now - clock, now
        total += numbers['seconds']
        log.write(epoch.number, numbers)
        progress.show(epoch.number, numbers)
        if best is not None:
          best.see(epoch.number, numbers['validation_nll_nats'], state)
          last = last or best.ended
        if last or epoch.number % config.checkpoint_every == 0:
          checkpoints.save(epoch.number, state)
        if last:
          break
    if best is not None:
      state, selected_by = best.restore(state)
      return state, total, selected_by
    return state, total, 'the last epoch; nothing was chosen'
  except NonFiniteLoss as error:
    if checkpoints.latest_epoch() != error.epoch - 1:
      checkpoints.save(error.epoch - 1, error.last_good)
    raise
  finally:
    log.close()
    checkpoints.close()
    if best is not None:
      best.close()
