"""One training of a frontier, deployed at each value of its grid, without reading the test set.

The folder of a point holds `point.json`, with the validation error and the sizes of each network,
and each network's weights, so that the test set is read later, for the networks that validation
data chose, and for no other.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import sparsejax
from experiments import build
from experiments.data import Data, load
from experiments.early_stopping import require_watched
from experiments.evidence.best_epoch import BestEpoch
from experiments.evidence.code_hash import code_hash
from experiments.evidence.configs import load_config
from experiments.evidence.label_scores import LabelScores, is_language_model, scorer
from experiments.workdir import config_hash, config_text
from sparsejax import codec, ledger
from sparsejax.compaction.compact import compact
from sparsejax.paths import flatten
from sparsejax.training.evaluate import host_numbers, jit_logits, jit_summary
from sparsejax.training.fit import (Recipe, TrainState, deployed_collections, evaluation_params,
                                    start)
from sparsejax.training.loop import NonFiniteLoss, run_epochs
from sparsejax.training.token_scores import jit_token_scores

POINT_FILE = 'point.json'


class Trainable(Protocol):
  """What `run_point` trains: a `Point`, or a control derived from one."""

  @property
  def config(self) -> str: ...

  @property
  def overrides(self) -> dict[str, Any]: ...

  @property
  def seed(self) -> int: ...

  @property
  def deployment(self) -> Deployment | None: ...

  def built(self) -> ml_collections.ConfigDict: ...

  def folder(self, root: pathlib.Path) -> pathlib.Path: ...

  def prepare(self, recipe: Recipe, data: Data,
              root: pathlib.Path) -> tuple[Recipe, Any]: ...


class Deployment(NamedTuple):
  """A number in the state of a rule that is read at deployment alone, and the values to try."""

  rule: str
  number: str
  values: tuple[float, ...]


class Point(NamedTuple):
  """A training: config by name, overrides {field: value}, seed, and how it is deployed."""

  config: str
  overrides: dict[str, Any]
  seed: int
  deployment: Deployment | None = None

  def built(self) -> ml_collections.ConfigDict:
    """Returns the whole config."""
    config = load_config(self.config, self.seed)
    config.update_from_flattened_dict(self.overrides)
    return config

  def prepare(self, recipe: Recipe, data: Data, root: pathlib.Path) -> tuple[Recipe, Any]:
    """Returns the recipe to train by, and its targets: here the labels."""
    del root
    return recipe, jnp.asarray(data.labels)

  def folder(self, root: pathlib.Path) -> pathlib.Path:
    """Returns the folder of the point: another config, other code or another number of values to
    deploy at gets another one."""
    config = self.built()
    grid = '' if self.deployment is None else f'-{len(self.deployment.values)}'
    return root / (f'{self.config.replace(":", "_")}_{config.dataset}_seed{self.seed}-'
                   f'{config_hash(config)[:10]}-{code_hash(config)[:8]}{grid}')


def deployed_file(index: int) -> str:
  """Returns the name of the file with the deployed weights of one network of a point."""
  return f'deployed_{index}.safetensors'


def run_point(point: Trainable, root: pathlib.Path) -> dict[str, Any]:
  """Trains and deploys the point, writes its files and returns the content of point.json.

  A training that diverges is a result and is recorded as one: its `error` says what happened. With
  config.early_stopping the epoch that is best on validation data is deployed, `best_epoch`.

  Raises:
    ValueError: for a config that does not hold together.
  """
  folder = point.folder(root)
  finished = read_point(point, root)
  if finished is not None:
    return finished
  config = point.built()
  build.require_whole(config)
  data = load(config)
  best = None
  if config.get('early_stopping'):
    require_watched(config, data.watched)
    best = BestEpoch(config.early_stopping.patience)
  recipe = build.recipe(config, data.images)
  state = start(recipe, jax.random.key(config.seed), jnp.asarray(data.images[:1]))
  plain = recipe                              # whose loss is on labels
  recipe, targets = point.prepare(recipe, data, root)
  images = jnp.asarray(data.images)
  folder.mkdir(parents=True, exist_ok=True)
  watched = jnp.asarray(data.watched_images), jnp.asarray(data.watched_labels)
  summary = jit_summary(plain) if best else None
  clock = time.perf_counter()
  error, nll, last_epoch = '', None, config.epochs
  try:
    for epoch in run_epochs(recipe, state, images, targets, last=config.epochs):
      state, nll = epoch.state, epoch.nll
      if best and summary:
        best.see(epoch.number, host_numbers(summary(state, *watched))['nll_nats'], state)
        if best.ended:
          last_epoch = epoch.number
          break
  except NonFiniteLoss as diverged:
    error = str(diverged)
  if best and best.number and not error:
    state = best.state
  seconds = time.perf_counter() - clock
  networks: list[dict[str, Any]] = []
  if not error:
    deployment = point.deployment
    missed = _error_percent(recipe, *watched)
    for index, value in enumerate(deployment.values if deployment else [None]):
      deployed = _at(state, deployment, value) if deployment else state
      weights = sparsejax.finalise(recipe.regulariser,
                                   jax.device_get(evaluation_params(recipe, deployed)),
                                   deployed.method_state)
      variables = {'params': weights,
                   **jax.device_get(deployed_collections(deployed.collections))}
      error_percent = missed(variables) if data.watched == 'validation' else None
      networks.append({'deployed_at': value, 'validation_error_percent': error_percent,
                       **sizes(recipe.model, variables, data.images.shape[1:], folder)})
      codec.write(folder / deployed_file(index), variables)
  content = {
      'config': point.config, 'overrides': point.overrides, 'seed': point.seed,
      'config_hash': config_hash(config), 'data_hash': data.dataset.hash,
      'code_hash': code_hash(config), 'epochs': last_epoch, 'seconds': seconds,
      **({'best_epoch': best.number} if best else {}),
      'train_nll_nats': nll, 'error': error, 'networks': networks,
      **{name: value for name, value in ledger.describe_run().items()
         if name in ('device', 'threads', 'jax_version', 'commit', 'time_utc')}}
  codec.write_atomically(folder / 'config.json', config_text(config).encode())
  codec.write_atomically(folder / POINT_FILE, (json.dumps(content, indent=1) + '\n').encode())
  return content


def _at(state: TrainState, deployment: Deployment, value: float | None) -> TrainState:
  """Returns the state with the number of the rule set to `value`."""
  numbers = {**state.method_state[deployment.rule], deployment.number: jnp.float32(value)}
  return state._replace(method_state={**state.method_state, deployment.rule: numbers})


def _error_percent(recipe: Recipe, images: jax.Array,
                   labels: jax.Array) -> Callable[[dict[str, Any]], float]:
  """Returns variables -> error in percent of the labels."""
  if labels.ndim > 1:
    score = jit_token_scores(recipe)
    return lambda variables: 100 * float(np.mean(np.asarray(
        score(variables, images, labels).wrong)))
  predict = jit_logits(recipe)
  return lambda variables: ledger.error_percent(np.asarray(predict(variables, images)),
                                                np.asarray(labels))


def sizes(model: Any, variables: dict[str, Any], shape: tuple[int, ...],
          folder: pathlib.Path) -> dict[str, Any]:
  """Returns what is left of a network, counted in its compact form and in that form's file.

  `shape` is that of one example. Keys: weights_total and bytes_dense of the dense network;
  weights_kept, non-zero kernel entries of the compact network; parameters_compact; bytes_file, of
  the file as written.
  """
  small = compact(model, variables, example_shape=(1, *shape))
  kernels = [leaf for leaf in flatten(small.variables['params']).values() if leaf.ndim >= 2]
  path = folder / f'model-{os.getpid()}.safetensors'
  written = codec.write(path, small.variables)
  path.unlink()
  return {
      'weights_total': sum(leaf.size for leaf in flatten(variables['params']).values()
                           if leaf.ndim >= 2),
      'weights_kept': int(sum(np.count_nonzero(leaf) for leaf in kernels)),
      'parameters_compact': int(sum(leaf.size for leaf in flatten(
          small.variables['params']).values())),
      'bytes_dense': codec.float32_bytes(variables),
      'bytes_file': written,
  }


def read_point(point: Trainable, root: pathlib.Path) -> dict[str, Any] | None:
  """Returns the content of point.json, or None if this point was not run.

  Raises:
    ValueError: if the file is damaged, or of another grid of deployment with as many values.
  """
  path = point.folder(root) / POINT_FILE
  if not path.exists():
    return None
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{path} is damaged: {error}; remove its folder and run again') from error
  if point.deployment is not None and content['networks']:
    values = [network['deployed_at'] for network in content['networks']]
    if values != list(point.deployment.values):
      raise ValueError(f'{path} holds networks deployed at {", ".join(map(str, values))}, not at '
                       f'{", ".join(map(str, point.deployment.values))}; remove its folder and run '
                       'again')
  return content


def wrong_on_test(point: Trainable, root: pathlib.Path, index: int) -> np.ndarray:
  """Returns, for one network of a finished point, which test labels it gets wrong, bool (n,)."""
  return scores_on_test(point, root, index).wrong


def scores_on_test(point: Trainable, root: pathlib.Path, index: int) -> LabelScores:
  """Returns the test scores of one network of a finished point.

  This is where a frontier reads the test set; what was read is kept beside the network.
  """
  folder = point.folder(root)
  config = point.built()
  tokens = is_language_model(config)
  path = folder / (f'test_tokens_{index}.npz' if tokens else f'test_wrong_{index}.npy')
  if path.exists():
    kept = np.load(path, allow_pickle=False)
    return LabelScores(kept['wrong'], kept['nll_nats']) if tokens else LabelScores(kept)
  scores = scorer(config)(codec.read(folder / deployed_file(index)))
  archive = io.BytesIO()
  if scores.nll_nats is None:
    np.save(archive, scores.wrong)
  else:
    np.savez(archive, wrong=scores.wrong, nll_nats=scores.nll_nats)
  codec.write_atomically(path, archive.getvalue())
  return scores
