"""One run from config to ledger: data, training, deployment, compaction, file, honest sheet."""

from __future__ import annotations

import io
import math
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from rich.console import Console

import sparsejax
from experiments import build, datasets, workdir
from experiments.choose import choose, require_number
from experiments.progress import Progress
from experiments.report.report import REPORT_FILE, write_report
from sparsejax import codec, ledger
from sparsejax.compaction.compact import compact
from sparsejax.packing import pack
from sparsejax.paths import flatten
from sparsejax.structured import is_structured
from sparsejax.training.batch_statistics import re_estimate
from sparsejax.training.checkpoint import Checkpoints
from sparsejax.training.evaluate import host_numbers, jit_logits, jit_summary
from sparsejax.training.fit import Recipe, TrainState, evaluation_params, start
from sparsejax.training.loop import NonFiniteLoss, run_epochs
from sparsejax.training.metrics import MetricsLog, read_metrics
from sparsejax.training.step_timing import training_step_milliseconds

LEDGER_FILE = 'ledger.json'
TIMED_IMAGES = 1000  # test images on which dense and compact logits are compared


class Data(NamedTuple):
  """The arrays of a run. Without a held-out part, `watched` are training images.

  Attributes:
    images, labels: for training. watched_images, watched_labels: for the learning curve.
    watched: 'validation' or 'train', which the two are.
    dataset: the whole, with the test set.
  """

  images: np.ndarray
  labels: np.ndarray
  watched_images: np.ndarray
  watched_labels: np.ndarray
  watched: str
  dataset: Any

  @property
  def names(self) -> dict[str, str]:
    """Names in the metrics of what is measured on the watched images, without noise."""
    return {'error_percent': f'{self.watched}_error_percent',
            'nll_nats': f'{self.watched}{"_deployed" if self.watched == "train" else ""}_nll_nats'}


def run(config: ml_collections.ConfigDict, folder: str | pathlib.Path, config_name: str,
        console: Console | None = None) -> dict[str, Any]:
  """Trains, deploys, compacts and measures one network; returns its ledger.

  The folder then holds config.json, metrics.jsonl, TensorBoard events, checkpoints, the network's
  files, test_logits.npz, plots, report.md and ledger.json. The same call goes on where an
  interrupted one stopped, and only prints where one has ended.

  Raises:
    ValueError: for a config that does not hold together, or a folder of another config.
    NonFiniteLoss: if training diverges; the state before that epoch is the last checkpoint.
  """
  console = console or Console()
  build.require_whole(config)
  folder = workdir.check(folder, config)
  if (folder / LEDGER_FILE).exists():
    sheet = ledger.read(folder / LEDGER_FILE)
    if not (folder / REPORT_FILE).exists():     # the run was cut off between the two
      write_report(folder)
    console.print(ledger.table(sheet), f'This run had ended; its files are in {folder}', sep='\n')
    return sheet
  data = load(config)
  recipe = build.recipe(config, data.images)
  state = start(recipe, jax.random.key(config.seed), jnp.asarray(data.images[:1]))
  if config.get('choose'):
    require_number(config.choose, state, config.validation_examples)
  # Not before here: a mistake in the config must not make the folder that of the mistake.
  workdir.claim(folder, config)
  state, seconds = train(config, recipe, state, data, folder, console)
  selected_by = 'the last epoch; nothing was chosen'
  if config.get('choose'):
    state, selected_by, candidates = choose(
        config.choose, recipe, state, jnp.asarray(data.watched_images),
        jnp.asarray(data.watched_labels))
    for value, error, kept in candidates:
      console.print(f'{config.choose.rule}.{config.choose.number} = {value:g}: validation error '
                    f'{error:.2f} %, {kept:,} weights')
  sheet = measure(config, config_name, recipe, state, data, folder, seconds, selected_by)
  ledger.write(folder / LEDGER_FILE, sheet)
  write_report(folder)
  console.print(ledger.table(sheet), f'Files of this run: {folder}', sep='\n')
  return sheet


def load(config: ml_collections.ConfigDict) -> Data:
  """Returns the data of the config, with the held-out part taken from the training set."""
  dataset = datasets.load(config.dataset)
  images, labels, held_images, held_labels = datasets.hold_out(
      dataset, config.validation_examples, config.seed)
  if config.training_examples > len(images):
    raise ValueError(f'config.training_examples={config.training_examples} exceeds the '
                     f'{len(images)} of {config.dataset} that are not held out; 0 takes all')
  if config.training_examples:
    images, labels = images[:config.training_examples], labels[:config.training_examples]
  if len(held_images):
    return Data(images, labels, held_images, held_labels, 'validation', dataset)
  return Data(images, labels, images[:5000], labels[:5000], 'train', dataset)


def train(config: ml_collections.ConfigDict, recipe: Recipe, state: TrainState, data: Data,
          folder: pathlib.Path, console: Console) -> tuple[TrainState, float]:
  """Trains from `state`, or the newest checkpoint, to config.epochs; returns (state, seconds)."""
  checkpoints = Checkpoints(folder / 'checkpoints')
  done = 0
  if checkpoints.latest_epoch() is not None:
    done, state = checkpoints.restore(state)
    console.print(f'Going on after epoch {done}, from {folder / "checkpoints"}')
  before = sum(row['seconds'] for row in read_metrics(folder / 'metrics.jsonl')
               if row['epoch'] <= done)
  log = MetricsLog(folder, resume_after=done)
  images, labels = jnp.asarray(data.images), jnp.asarray(data.labels)
  watched = jnp.asarray(data.watched_images), jnp.asarray(data.watched_labels)
  summary = jit_summary(recipe)
  total = before
  clock = time.perf_counter()
  try:
    with Progress(console, done, config.epochs) as progress:
      for epoch in run_epochs(recipe, state, images, labels, first=done + 1, last=config.epochs):
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
        if last or epoch.number % config.checkpoint_every == 0:
          checkpoints.save(epoch.number, state)
  except NonFiniteLoss as error:
    if checkpoints.latest_epoch() != error.epoch - 1:
      checkpoints.save(error.epoch - 1, error.last_good)
    raise
  finally:
    log.close()
    checkpoints.close()
  return state, total


def measure(config: ml_collections.ConfigDict, config_name: str, recipe: Recipe, state: TrainState,
            data: Data, folder: pathlib.Path, seconds: float, selected_by: str) -> dict[str, Any]:
  """Deploys and compacts the trained network, writes its files and returns the ledger."""
  params = jax.device_get(evaluation_params(recipe, state))
  # Compaction cuts arrays; what is to be packed is packed after it.
  weights = sparsejax.densify(sparsejax.finalise(recipe.regulariser, params, state.method_state))
  variables = {'params': weights, **jax.device_get(state.collections)}
  if config.get('re_estimate_batch_norm'):
    whole = len(data.images) // recipe.batch_size * recipe.batch_size
    variables = jax.device_get(re_estimate(
        recipe.model, variables, data.images[:whole], recipe.preprocess, recipe.batch_size,
        recipe.train_kwargs))
    selected_by += '; batch-norm statistics re-estimated on the training images'
  compacted = compact(recipe.model, variables,
                      example_shape=(1, *data.images.shape[1:]))
  small = compacted.variables
  packed: dict[str, Any] = {}
  if config.get('pack'):
    small, packed = pack_and_time(config, recipe, compacted, data)
  codec.write(folder / 'parameters.safetensors',
              {'params': params, 'state': jax.device_get(state.method_state)})
  codec.write(folder / 'deployed.safetensors', variables)

  # The only time the test set is read.
  test_images = jnp.asarray(data.dataset.test_images)
  labels = data.dataset.test_labels
  predict = jit_logits(recipe)
  logits = np.asarray(predict(variables, test_images))
  archive = io.BytesIO()
  np.savez(archive, logits=logits, labels=labels)
  codec.write_atomically(folder / 'test_logits.npz', archive.getvalue())
  scores = ledger.classification_scores(*by_label(logits, labels))
  if config.get('task') == 'language_model':
    scores['test_bits_per_token'] = scores['test_nll_nats'] / math.log(2)
  inputs = np.asarray(recipe.preprocess(test_images[:TIMED_IMAGES]))
  measured = ledger.measure(recipe.model, variables, compacted.model, small, inputs,
                            folder / 'model.safetensors', apply_kwargs=recipe.eval_kwargs,
                            file_provenance={'config_hash': workdir.config_hash(config)})
  validation_error = None
  if data.watched == 'validation':
    held = predict(variables, jnp.asarray(data.watched_images))
    validation_error = ledger.error_percent(*by_label(np.asarray(held), data.watched_labels))
  # Zeros that the compact network still holds make no product smaller: a mask is all there is.
  masked = any(np.any(leaf == 0) for leaf in flatten(small['params']).values()
               if leaf.ndim >= 2 and not is_structured(leaf))
  return ledger.assemble(ledger.describe_run(), measured, scores, packed, {
      'dataset': config.dataset,
      'data_hash': data.dataset.hash,
      'config': config_name,
      'config_hash': workdir.config_hash(config),
      'seed': config.seed,
      'epochs': config.epochs,
      'wall_seconds': seconds,
      'deployed_parameters': 'ema' if recipe.ema_decay else 'raw',
      'simulated': ['compression_weights'] if masked else [],
      'validation_error_percent': validation_error,
      'selected_by': selected_by,
  })


def by_label(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns one row of logits a label; sequences with labels at each position are joined."""
  return logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)


def pack_and_time(config: ml_collections.ConfigDict, recipe: Recipe, compacted: Any,
                  data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
  """Packs the compact network as `config.pack` says; returns (variables, keys of the ledger)."""
  options = config.pack.to_dict()
  rules = {entry['leaves']: entry['block_size'] for entry in options.pop('rules').values()}
  params, report = pack(compacted.variables['params'], rules, **options)
  variables = {**compacted.variables, 'params': params}
  batch = slice(config.batch_size)
  steps = training_step_milliseconds(recipe, compacted.model, variables,
                                     jnp.asarray(data.images[batch]),
                                     jnp.asarray(data.labels[batch]))
  return variables, {'packed_layers': [found.row() for found in report], **steps}
