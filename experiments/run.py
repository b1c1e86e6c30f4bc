"""One run from config to ledger: data, training, deployment, compaction, file, honest sheet."""

from __future__ import annotations

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
from experiments.early_stopping import BestEpoch, require_watched
from experiments.model_file import facts_of, with_packed, write_model
from experiments.names import require_names
from experiments.progress import Progress
from experiments.report.report import REPORT_FILE, write_report
from experiments.scores import read_test_set, validation_error_percent
from sparsejax import codec, ledger
from sparsejax.compaction.compact import compact
from sparsejax.packing import pack
from sparsejax.paths import flatten
from sparsejax.structured import is_structured
from sparsejax.training.batch_statistics import re_estimate
from sparsejax.training.checkpoint import Checkpoints
from sparsejax.training.evaluate import host_numbers, jit_summary
from sparsejax.training.fit import (Recipe, TrainState, deployed_collections, evaluation_params,
                                    start)
from sparsejax.training.loop import NonFiniteLoss, run_epochs
from sparsejax.training.metrics import MetricsLog, read_metrics
from sparsejax.training.step_timing import training_step_milliseconds

LEDGER_FILE = 'ledger.json'
# On how many test images dense and compact logits are compared; fewer where the logits of so many
# windows of a text would be more than that many numbers.
TIMED_IMAGES, TIMED_LOGITS = 1000, 2 ** 25


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
    require_number(config.choose, state, data.watched == 'validation')
  if config.get('early_stopping'):
    require_watched(config, data.watched)
  # Not before here: a mistake in the config must not make the folder that of the mistake.
  workdir.claim(folder, config)
  state, seconds, selected_by = train(config, recipe, state, data, folder, console)
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
  """Returns the data of the config, with the held-out part taken from the training set.

  A data set with a published validation set holds that out. With `config.sequence` a long text is
  cut into windows, of `batch_size` texts side by side.
  """
  dataset: Any = datasets.load(config.dataset)
  if hasattr(dataset, 'windows') != ('sequence' in config):
    raise ValueError(f'config.sequence must be there for a continuous text and only for one; '
                     f'{config.dataset} is {"one" if hasattr(dataset, "windows") else "none"}: '
                     "give {'length': tokens of a window}, or leave it out")
  if 'sequence' in config:
    require_names(config.sequence, ('length',), 'config.sequence')
    dataset = dataset.windows(config.batch_size, config.sequence.length)
    if config.validation_examples or config.training_examples % config.batch_size:
      raise ValueError(f'windows of a text stand in the order of time: config.validation_examples='
                       f'{config.validation_examples} must be 0, and config.training_examples='
                       f'{config.training_examples} a multiple of the batch size')
  own = getattr(dataset, 'validation_images', None)
  if own is not None and config.validation_examples:
    raise ValueError(f'{config.dataset} has a validation set of its own; set '
                     f'config.validation_examples=0 in place of {config.validation_examples}')
  images, labels, held_images, held_labels = datasets.hold_out(
      dataset, config.validation_examples, config.seed)
  if own is not None:
    held_images, held_labels = own, dataset.validation_labels
  if config.training_examples > len(images):
    raise ValueError(f'config.training_examples={config.training_examples} exceeds the '
                     f'{len(images)} of {config.dataset} that are not held out; 0 takes all')
  if config.training_examples:
    images, labels = images[:config.training_examples], labels[:config.training_examples]
  if len(held_images):
    return Data(images, labels, held_images, held_labels, 'validation', dataset)
  watched = min(5000, len(images)) // config.batch_size * config.batch_size
  watched = watched if 'sequence' in config else 5000
  return Data(images, labels, images[:watched], labels[:watched], 'train', dataset)


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


def measure(config: ml_collections.ConfigDict, config_name: str, recipe: Recipe, state: TrainState,
            data: Data, folder: pathlib.Path, seconds: float, selected_by: str) -> dict[str, Any]:
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
  small = compacted.variables
  packed: dict[str, Any] = {}
  if config.get('pack'):
    small, packed = pack_and_time(config, recipe, compacted, data)
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
  return ledger.assemble(ledger.describe_run(), measured, coded, scores, packed, {
      'dataset': config.dataset,
      'data_hash': data.dataset.hash,
      'config': config_name,
      'config_hash': workdir.config_hash(config),
      'seed': config.seed,
      'epochs': int(read_metrics(folder / 'metrics.jsonl')[-1]['epoch']),
      'wall_seconds': seconds,
      'deployed_parameters': 'ema' if recipe.ema_decay else 'raw',
      'simulated': ['compression_weights'] if masked else [],
      'validation_error_percent': validation_error,
      'selected_by': selected_by,
  })


def timed_examples(data: Data) -> int:
  """Returns on how many test examples the dense and the compact network are compared."""
  logits = data.dataset.classes * math.prod(data.labels.shape[1:])
  return max(1, min(TIMED_IMAGES, TIMED_LOGITS // logits))


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
