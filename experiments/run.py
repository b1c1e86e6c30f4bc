"""One run from config to ledger: data, training, deployment, compaction, file, honest sheet."""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from rich.console import Console

import sparsejax
from experiments import build, structure, targets, workdir
from experiments.choose import choose, require_number
from experiments.data import Data, load
from experiments.early_stopping import require_watched
from experiments.epochs import SAVE_MINUTES, train
from experiments.hparams import write_hparams
from experiments.lock import held
from experiments.mesh import ONE, Devices
from experiments.model_file import facts_of, with_packed, write_model
from experiments.packing import Packing, pack_and_time, require_leaves
from experiments.report.report import REPORT_FILE, write_report
from experiments.scores import read_test_set, validation_error_percent
from experiments.stopping import StopSignals
from experiments.watchdogs import warnings
from experiments.workdir import LEDGER_FILE
from sparsejax import codec, ledger
from sparsejax.compaction.compact import compact
from sparsejax.paths import flatten
from sparsejax.structured import is_structured
from sparsejax.training.batch_statistics import re_estimate
from sparsejax.training.fit import (Recipe, TrainState, deployed_collections, evaluation_params,
                                    start)
from sparsejax.training.metrics import read_metrics

# On how many test images dense and compact logits are compared; fewer where the logits of so many
# windows of a text would be more than that many numbers.
TIMED_IMAGES, TIMED_LOGITS = 1000, 2 ** 25
# Ratios that count zeros a mask holds.
MASKED = ('compression_weights', 'compression_structure')


def run(config: ml_collections.ConfigDict, folder: str | pathlib.Path, config_name: str,
        console: Console | None = None, stop: StopSignals | None = None,
        save_minutes: float = SAVE_MINUTES, devices: Devices = ONE) -> dict[str, Any]:
  """Trains, deploys, compacts and measures one network; returns its ledger.

  The folder then holds config.json, metrics.jsonl, TensorBoard events, checkpoints, the network's
  files, test_logits.npz, plots, report.md and ledger.json. The same call goes on where an
  interrupted one stopped, and only prints where one has ended: that only reads.

  Args:
    stop, save_minutes: as for `epochs.train`.
    devices: to train on. Of several processes the first alone sees the folder; it deploys and
      measures the network on its first device while the others wait.

  Raises:
    ValueError: for a config that does not hold together, or a folder of another config or in use.
    NonFiniteLoss: if training diverges; the state before that epoch is the last checkpoint.
    Stopped: if `stop` was asked to.
  """
  console = console or devices.console()
  folder = pathlib.Path(folder)
  build.require_whole(config)
  devices.require_same({'config': workdir.config_text(config)})
  with contextlib.ExitStack() as stack:
    sheet = devices.agree(lambda: _take(config, folder, console, stack))
    if sheet is not None:
      return sheet
    data, recipe, state = devices.in_turn(lambda: begin(config))
    devices.require_same({'data set': data.dataset.hash})
    # Not before here: a mistake in the config must not make the folder that of the mistake.
    devices.agree(lambda: workdir.claim(folder, config))
    state, seconds, selected_by = train(config, recipe._replace(mesh=devices.mesh), state, data,
                                        folder, console, stop, save_minutes, devices)
    return devices.agree(lambda: finish(config, config_name, recipe, state, data, folder, seconds,
                                        selected_by, console, devices.ledger_keys()))


def _take(config: ml_collections.ConfigDict, folder: pathlib.Path, console: Console,
          stack: contextlib.ExitStack) -> dict[str, Any] | None:
  """Takes the folder for this run until `stack` ends, or returns the ledger of one that ended."""
  workdir.check_config(folder, config)
  if (folder / LEDGER_FILE).exists() and (folder / REPORT_FILE).exists():
    return _show_finished(folder, console)
  workdir.check(folder, config)
  stack.enter_context(held(folder, console.print))
  workdir.check_config(folder, config)          # that of who held the folder until now
  if not (folder / LEDGER_FILE).exists():
    return None
  write_report(folder)                          # the run was cut off between this and the ledger
  return _show_finished(folder, console)


def _show_finished(folder: pathlib.Path, console: Console) -> dict[str, Any]:
  sheet = ledger.read(folder / LEDGER_FILE)
  console.print(ledger.table(sheet), f'This run had ended; its files are in {folder}', sep='\n')
  return sheet


def begin(config: ml_collections.ConfigDict) -> tuple[Data, Recipe, TrainState]:
  """Returns (data, recipe, state before the first step) of a config.

  Raises:
    ValueError: for a config that does not hold together.
  """
  data = load(config)
  recipe = build.recipe(config, data.images)
  state = start(recipe, jax.random.key(config.seed), jnp.asarray(data.images[:1]))
  if config.get('choose'):
    require_number(config.choose, state, data.watched == 'validation')
  if config.get('pack'):
    require_leaves(config, recipe, state)
  if config.get('early_stopping'):
    require_watched(config, data.watched)
  return data, recipe, state


def finish(config: ml_collections.ConfigDict, config_name: str, recipe: Recipe, state: TrainState,
           data: Data, folder: pathlib.Path, seconds: float, selected_by: str,
           console: Console, trained_on: Mapping[str, Any] = {}) -> dict[str, Any]:
  """Deploys and measures the trained network, writes all of its files; returns its ledger.

  Args:
    trained_on: what the ledger says of the devices of the training, if they were several.
  """
  if config.get('choose'):
    state, selected_by, candidates = choose(
        config.choose, recipe, state, jnp.asarray(data.watched_images),
        jnp.asarray(data.watched_labels))
    for value, error, kept in candidates:
      console.print(f'{config.choose.rule}.{config.choose.number} = {value:g}: validation error '
                    f'{error:.2f} %, {kept:,} weights')
  sheet = measure(config, config_name, recipe, state, data, folder, seconds, selected_by,
                  trained_on)
  write_hparams(folder, config, sheet)
  ledger.write(folder / LEDGER_FILE, sheet)
  write_report(folder)
  console.print(ledger.table(sheet), f'Files of this run: {folder}', sep='\n')
  return sheet


def measure(config: ml_collections.ConfigDict, config_name: str, recipe: Recipe, state: TrainState,
            data: Data, folder: pathlib.Path, seconds: float, selected_by: str,
            trained_on: Mapping[str, Any] = {}) -> dict[str, Any]:
  """Deploys and compacts the trained network, writes its files and returns the ledger."""
  params = jax.device_get(evaluation_params(recipe, state))
  # Compaction cuts arrays; what is to be packed is packed after it.
  deployed = sparsejax.finalise(recipe.regulariser, params, state.method_state)
  weights = sparsejax.densify(deployed)
  variables = {'params': weights, **jax.device_get(deployed_collections(state.collections))}
  if config.get('re_estimate_batch_norm'):
    whole = len(data.images) // recipe.batch_size * recipe.batch_size
    variables = jax.device_get(re_estimate(
        recipe.model, variables, data.images[:whole], recipe.preprocess, recipe.batch_size,
        recipe.train_kwargs))
    selected_by += '; batch-norm statistics re-estimated on the training images'
  compacted = compact(recipe.model, variables,
                      example_shape=(1, *data.images.shape[1:]))
  packed = Packing(compacted.variables, {}, [])
  if config.get('pack'):
    packed = pack_and_time(config, recipe, compacted, data)
  small = packed.variables
  codec.write(folder / 'parameters.safetensors',
              {'params': params, 'state': jax.device_get(state.method_state)})
  codec.write(folder / 'deployed.safetensors', variables)

  test_images = data.dataset.test_images
  scores = read_test_set(recipe, variables, test_images, data.dataset.test_labels, folder)
  inputs = np.asarray(recipe.preprocess(jnp.asarray(test_images[:timed_examples(data)])))
  measured = ledger.measure(recipe.model, variables, compacted.model, small, inputs,
                            folder / 'model.safetensors', apply_kwargs=recipe.eval_kwargs,
                            file_provenance={'config_hash': workdir.config_hash(config)})
  coded = write_model(folder, compacted.model, with_packed(small, deployed), variables,
                      facts_of(config, recipe, data.images),
                      config_hash=workdir.config_hash(config))
  validation_error = None
  if data.watched == 'validation':
    validation_error = validation_error_percent(recipe, variables, data.watched_images,
                                                data.watched_labels)
  # Zeros that the compact network still holds make no product smaller: a mask is all there is.
  masked = any(np.any(leaf == 0) for leaf in flatten(small['params']).values()
               if leaf.ndim >= 2 and not is_structured(leaf))
  rows = read_metrics(folder / 'metrics.jsonl')
  reached = targets.ledger_keys(config, {
      **measured, **coded, 'validation_error_percent': validation_error},
      jax.device_get(state.method_state)) if config.get('target') else {}
  counted = structure.ledger_keys(config, weights)
  return ledger.assemble(ledger.describe_run(), trained_on, measured, coded, scores,
                         packed.ledger_keys, counted, reached, {
      'dataset': config.dataset,
      'data_hash': data.dataset.hash,
      'config': config_name,
      'config_hash': workdir.config_hash(config),
      'seed': config.seed,
      'epochs': int(rows[-1]['epoch']),
      'wall_seconds': seconds,
      'deployed_parameters': 'ema' if recipe.ema_decay else 'raw',
      'simulated': [key for key in MASKED if masked and key in {**measured, **counted}],
      'validation_error_percent': validation_error,
      'selected_by': selected_by,
      'warnings': [*packed.warnings, *warnings(config, rows, params)],
  })


def timed_examples(data: Data) -> int:
  """Returns on how many test examples the dense and the compact network are compared."""
  logits = data.dataset.classes * math.prod(data.labels.shape[1:])
  return max(1, min(TIMED_IMAGES, TIMED_LOGITS // logits))
