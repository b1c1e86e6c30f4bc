"""From a config to the objects of a run: model, methods, optimiser, schedules.

Everything is looked up in a whitelist and called with the fields of the config, so that a field
that nobody reads is an error with a suggestion, not a silent default.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import linen as nn

import sparsejax
from experiments import optimisers, targets
from experiments.names import known_name, near, require_names
from experiments.schedules import number
from sparsejax.models.convnet import ConvNet
from sparsejax.models.deep_lstm import DeepLSTM
from sparsejax.models.lenet import MLP, LeNet5Caffe
from sparsejax.models.recurrent import RecurrentClassifier, RecurrentLanguageModel
from sparsejax.models.strided_convnet import StridedConvNet
from sparsejax.training.fit import (Preprocess, Recipe, as_tokens, constant_one, cross_entropy,
                                    token_cross_entropy)


def chain(outer: sparsejax.Regulariser, inner: sparsejax.Regulariser) -> sparsejax.Regulariser:
  """sparsejax.chain under names that a config can carry."""
  return sparsejax.chain(outer, inner)


def stacked(layer: sparsejax.Regulariser, axes: int = 1) -> sparsejax.Regulariser:
  """sparsejax.stacked under names that a config can carry."""
  return sparsejax.stacked(layer, axes)


def he_normal() -> Any:
  """He et al., 2015, arXiv:1502.01852: N(0, 2 / inputs)."""
  return nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')


def symmetric_uniform(scale: float) -> Any:
  """U(-scale, scale); nn.initializers.uniform starts at 0."""
  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -scale, scale)
  return init


def adam_clipped(learning_rate: Any, clip_norm: float, b1: float = 0.9, b2: float = 0.999,
                 eps: float = 1e-8) -> optax.GradientTransformation:
  """Adam on gradients whose norm over all leaves is cut to `clip_norm`, as recurrent nets need."""
  return optax.chain(optax.clip_by_global_norm(clip_norm),
                     optax.adam(learning_rate, b1=b1, b2=b2, eps=eps))


METHODS: dict[str, Callable[..., sparsejax.Regulariser]] = {
    'affine_weights': sparsejax.affine_weights,
    'binary_connect': sparsejax.binary_connect,
    'binary_weights': sparsejax.binary_weights,
    'bayesian_rnn': sparsejax.bayesian_rnn,
    'block_pruning': sparsejax.block_pruning,
    'block_rigl': sparsejax.block_rigl,
    'block_set': sparsejax.block_set,
    'block_sparse': sparsejax.block_sparse,
    'blockwise': sparsejax.blockwise,
    'chain': chain,
    'dropout': sparsejax.dropout,
    'group_lasso': sparsejax.group_lasso,
    'l0_hard_concrete': sparsejax.l0_hard_concrete,
    'l1': sparsejax.l1,
    'magnitude_pruning': sparsejax.magnitude_pruning,
    'minimal_random_code': sparsejax.minimal_random_code,
    'power_of_two_weights': sparsejax.power_of_two_weights,
    'rigl': sparsejax.rigl,
    'soft_weight_sharing': sparsejax.soft_weight_sharing,
    'sparse_evolutionary_training': sparsejax.sparse_evolutionary_training,
    'sparse_variational_dropout': sparsejax.sparse_variational_dropout,
    'stacked': stacked,
    'static_mask': sparsejax.static_mask,
    'straight_through_magnitude': sparsejax.straight_through_magnitude,
    'ternary_weights': sparsejax.ternary_weights,
    'trained_ternary_weights': sparsejax.trained_ternary_weights,
    'uniform_weights': sparsejax.uniform_weights,
    'weight_decay': sparsejax.weight_decay,
}
# Arguments that are methods themselves.
NESTED = {chain: ('outer', 'inner'), stacked: ('layer',), sparsejax.blockwise: ('regulariser',)}
MODELS: dict[str, Callable[..., nn.Module]] = {
    'mlp': MLP,
    'lenet_5_caffe': LeNet5Caffe,
    'convnet': ConvNet,
    'deep_lstm': DeepLSTM,
    'recurrent_classifier': RecurrentClassifier,
    'recurrent_language_model': RecurrentLanguageModel,
    'strided_convnet': StridedConvNet,
}
INITIALISERS: dict[str, Callable[..., Any]] = {
    'he_normal': he_normal,
    'lecun_normal': nn.initializers.lecun_normal,
    'normal': nn.initializers.normal,
    'glorot_uniform': nn.initializers.glorot_uniform,
    'orthogonal': nn.initializers.orthogonal,
    'symmetric_uniform': symmetric_uniform,
}
# Fields of models that are initialisers.
INITIALISED = ('kernel_init', 'recurrent_init', 'embedding_init')
OPTIMISERS = {'adam': optax.adam, 'adam_clipped': adam_clipped, 'sgd': optax.sgd}
FIELDS = ('paper', 'seed', 'dataset', 'training_examples', 'validation_examples', 'batch_size',
          'epochs', 'evaluate_every', 'checkpoint_every', 'ema_decay', 'penalty_weight',
          'preprocess', 'model', 'optimiser', 'regulariser')
OPTIONAL_FIELDS = ('choose', 'early_stopping', 'pack', 're_estimate_batch_norm', 'sequence',
                   'target', 'task')
TASKS = {'classification': cross_entropy, 'language_model': token_cross_entropy}


def require_whole(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError unless the config has the fields of a run, no other, and sane counts."""
  for field in config:
    known = (*FIELDS, *OPTIONAL_FIELDS)
    if field not in known:
      raise ValueError(f'config has no field {field!r}; {near(field, known)}fields are '
                       f'{", ".join(known)}')
  missing = [field for field in FIELDS if field not in config]
  if missing:
    raise ValueError(f'config lacks {", ".join(missing)}; see experiments/configs for examples')
  for field in ('batch_size', 'epochs', 'evaluate_every', 'checkpoint_every'):
    if config[field] < 1:
      raise ValueError(f'config.{field}={config[field]} must be at least 1')
  for field in ('seed', 'training_examples', 'validation_examples'):
    if config[field] < 0:
      raise ValueError(f'config.{field}={config[field]} must not be negative')
  known_name(config.get('task', 'classification'), TASKS, 'config.task')
  if not 0 <= config.ema_decay < 1:
    raise ValueError(f'config.ema_decay={config.ema_decay} must lie in [0, 1); 0 takes no average')


def recipe(config: ml_collections.ConfigDict, images: np.ndarray) -> Recipe:
  """Returns the recipe of a run on the training images (n, height, width, channels), uint8.

  With config.preprocess = {'tokens': True} the images are texts (n, T) of symbols, uint8; with
  config.task = 'language_model' each of their positions has a label.

  Raises:
    ValueError: for a name that is not known or a field that nothing reads, with the nearest one.
  """
  require_whole(config)
  steps = len(images) // config.batch_size
  if steps == 0:
    raise ValueError(f'config.batch_size={config.batch_size} exceeds the {len(images)} training '
                     'examples; lower it')
  task = config.get('task', 'classification')
  network = model(config.model)
  method_of_run = regulariser(config.regulariser, steps)
  if config.get('target'):
    method_of_run = targets.steered(config, method_of_run, steps)
  training_flag = 'train' in inspect.signature(type(network).__call__).parameters
  return Recipe(
      model=network,
      regulariser=method_of_run,
      optimiser=optimiser(config.optimiser, steps),
      num_terms=len(images) if task == 'classification' else images.size,
      batch_size=config.batch_size,
      penalty_weight=penalty_weight(config.penalty_weight, steps),
      ema_decay=config.ema_decay,
      preprocess=preprocess(config.preprocess, images),
      train_kwargs={'train': True} if training_flag else {},
      eval_kwargs={'train': False} if training_flag else {},
      loss=TASKS[task],
      sequential='sequence' in config,
  )


def preprocess(config: ml_collections.ConfigDict, images: np.ndarray) -> Any:
  """Returns raw images -> inputs: {'scale': factor, 'subtract_mean': bool}, or {'tokens': True}."""
  if 'tokens' in config:
    require_names(config, ('tokens',), 'config.preprocess')
    if config.tokens is not True:
      raise ValueError(f'config.preprocess.tokens={config.tokens!r} must be True, for text; images '
                       'take scale and subtract_mean instead')
    return as_tokens
  require_names(config, ('scale', 'subtract_mean'), 'config.preprocess')
  mean = np.asarray(images, np.float32).mean(0) if config.subtract_mean else 0.0
  return Preprocess(config.scale, mean)


def model(config: ml_collections.ConfigDict) -> nn.Module:
  """Returns the model `config.name` with the other fields as its attributes."""
  fields, build = _choose(_plain(config), 'name', MODELS, 'config.model')
  for field in INITIALISED:
    if field in fields:
      fields[field] = initialiser(fields[field], f'config.model.{field}')
  return build(**fields)


def initialiser(config: str | Mapping[str, Any], where: str = 'config.model.kernel_init') -> Any:
  """Returns an initialiser of weights: a name, or {'name': 'normal', 'stddev': 0.01}."""
  if not isinstance(config, (str, Mapping)):
    raise ValueError(f'{where}={config!r} must be a name, or a name and fields')
  fields = {'name': config} if isinstance(config, str) else dict(config)
  fields, build = _choose(fields, 'name', INITIALISERS, where)
  return build(**fields)


def regulariser(config: ml_collections.ConfigDict, steps_per_epoch: int) -> sparsejax.Regulariser:
  """Returns the partition {rule: {leaves, method, every number}}."""
  rules = {}
  for name, rule in config.items():
    where = f'config.regulariser.{name}'
    fields = _plain(rule)
    if not isinstance(fields, dict) or 'leaves' not in fields or 'method' not in fields:
      raise ValueError(f'{where} needs leaves (a pattern of paths) and method; it is {fields}')
    leaves = fields.pop('leaves')
    try:
      re.compile(leaves)
    except re.error as error:
      raise ValueError(f'{where}.leaves={leaves!r} is no regular expression: {error}') from error
    rules[name] = (leaves, method(fields, steps_per_epoch, where))
  return sparsejax.partition(**rules)


def method(fields: dict[str, Any], steps_per_epoch: int, where: str) -> sparsejax.Regulariser:
  """Returns the method fields['method'] with the other fields as its arguments.

  Three methods hold others, as nested dicts of the same form:

  * 'blockwise': `regulariser` on blocks of kernels, sparsejax.blockwise(regulariser, block_size);
  * 'chain': `inner` regularises the parameters of `outer`, sparsejax.chain(outer, inner);
  * 'stacked': `layer` for each layer of a scanned stack, sparsejax.stacked(layer, axes).
  """
  fields, build = _choose(fields, 'method', METHODS, where)
  arguments = {}
  for key, value in fields.items():
    inside = f'{where}.{key}'
    if key in NESTED.get(build, ()):
      if not isinstance(value, Mapping):
        raise ValueError(f'{inside}={value!r} must hold a method and its numbers')
      arguments[key] = method(dict(value), steps_per_epoch, inside)
    else:
      arguments[key] = number(value, steps_per_epoch, inside)
  return build(**arguments)


def optimiser(config: ml_collections.ConfigDict,
              steps_per_epoch: int) -> optax.GradientTransformation:
  """Returns the optax optimiser {'name': 'adam', 'learning_rate': number or schedule, ...}.

  `groups` and `restart_epoch` are those of `optimisers.optimiser`.
  """
  def one(fields):
    fields, build = _choose(fields, 'name', OPTIMISERS, 'config.optimiser')
    return build(**{key: number(value, steps_per_epoch, f'config.optimiser.{key}')
                    for key, value in fields.items()})
  return optimisers.optimiser(_plain(config), steps_per_epoch, one)


def penalty_weight(config: Any, steps_per_epoch: int) -> Callable[[Any], Any]:
  """Returns step -> factor of the penalty."""
  value = number(_plain(config), steps_per_epoch, 'config.penalty_weight')
  if callable(value):
    return value
  if not (isinstance(value, (int, float)) and 0 <= value < float('inf')):
    raise ValueError(f'config.penalty_weight={value!r} must be a schedule or a number from 0 on')
  return constant_one if value == 1.0 else lambda step: value


def _plain(config: Any) -> Any:
  """Returns the config as plain dicts and tuples."""
  if isinstance(config, ml_collections.ConfigDict):
    return {key: _plain(value) for key, value in config.items()}
  return config


def _choose(fields: dict[str, Any], key: str, known: Mapping[str, Callable[..., Any]],
            where: str) -> tuple[dict[str, Any], Callable[..., Any]]:
  """Returns (the other fields, what fields[key] names), checked against each other."""
  if key not in fields:
    raise ValueError(f'{where} needs the field {key!r}, one of {", ".join(sorted(known))}; it has '
                     f'{", ".join(fields) or "none"}')
  fields = dict(fields)
  name = known_name(fields.pop(key), known, f'{where}.{key}')
  parameters = {parameter: value for parameter, value in
                inspect.signature(known[name]).parameters.items()
                if parameter not in ('parent', 'name')}
  for field in fields:
    if field not in parameters:
      raise ValueError(f'{where} ({name}) has no field {field!r}; {near(field, parameters)}fields '
                       f'are {", ".join(parameters) or "none"}')
  for parameter, value in parameters.items():
    if value.default is value.empty and parameter not in fields:
      raise ValueError(f'{where} ({name}) needs the field {parameter!r}')
  return fields, known[name]
