"""From a config to the objects of a run: model, methods, optimiser, schedules.

Everything is looked up in a whitelist and called with the fields of the config, so that a field
that nobody reads is an error with a suggestion, not a silent default.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import linen as nn

import sparsejax
from sparsejax.models.convnet import ConvNet
from sparsejax.models.lenet import MLP, LeNet5Caffe
from sparsejax.training.fit import Preprocess, Recipe, constant_one

METHODS: dict[str, Callable[..., sparsejax.Regulariser]] = {
    'dropout': sparsejax.dropout,
    'group_lasso': sparsejax.group_lasso,
    'l0_hard_concrete': sparsejax.l0_hard_concrete,
    'l1': sparsejax.l1,
    'magnitude_pruning': sparsejax.magnitude_pruning,
    'sparse_variational_dropout': sparsejax.sparse_variational_dropout,
    'weight_decay': sparsejax.weight_decay,
}
MODELS: dict[str, Callable[..., nn.Module]] = {
    'mlp': MLP,
    'lenet_5_caffe': LeNet5Caffe,
    'convnet': ConvNet,
}
INITIALISERS: dict[str, Callable[..., Any]] = {
    'he_normal': nn.initializers.variance_scaling,
    'lecun_normal': nn.initializers.variance_scaling,
    'normal': nn.initializers.normal,
    'glorot_uniform': nn.initializers.xavier_uniform,
}
OPTIMISERS = {'adam': optax.adam, 'sgd': optax.sgd}


def recipe(config: ml_collections.ConfigDict, images: np.ndarray) -> Recipe:
  """Returns the recipe of a run on the training images (n, height, width, channels), uint8.

  Raises:
    ValueError: for a name that is not known or a field that nothing reads, with the nearest one.
  """
  steps = len(images) // config.batch_size
  mean = np.asarray(images, np.float32).mean(0) if config.preprocess.subtract_mean else 0.0
  training_flag = 'train' in inspect.signature(MODELS[_known(
      config.model.name, MODELS, 'config.model.name')].__call__).parameters
  return Recipe(
      model=model(config.model),
      regulariser=regulariser(config.regulariser, steps),
      optimiser=optimiser(config.optimiser, steps),
      num_terms=len(images),
      batch_size=config.batch_size,
      penalty_weight=penalty_weight(config.penalty_weight, steps),
      ema_decay=config.ema_decay,
      preprocess=Preprocess(config.preprocess.scale, mean),
      train_kwargs={'train': True} if training_flag else {},
      eval_kwargs={'train': False} if training_flag else {},
  )


def model(config: ml_collections.ConfigDict) -> nn.Module:
  """Returns the model `config.name` with the other fields as its attributes."""
  fields = _plain(config)
  name = fields.pop('name')
  kernel_init = fields.pop('kernel_init', None)
  build = MODELS[_known(name, MODELS, 'config.model.name')]
  _require_fields(fields, build, f'config.model ({name})')
  if kernel_init is not None:
    fields['kernel_init'] = initialiser(kernel_init)
  return build(**fields)


def initialiser(config: str | Mapping[str, Any]) -> Any:
  """Returns a kernel initialiser: a name, or {'name': 'normal', 'stddev': 0.01}."""
  fields = {'name': config} if isinstance(config, str) else dict(config)
  name = _known(fields.pop('name'), INITIALISERS, 'config.model.kernel_init')
  if name == 'he_normal':
    return nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')
  if name == 'lecun_normal':
    return nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')
  return INITIALISERS[name](**fields)


def regulariser(config: ml_collections.ConfigDict, steps_per_epoch: int) -> sparsejax.Regulariser:
  """Returns the partition {rule: {leaves, method, every number}}."""
  rules = {}
  for name, rule in config.items():
    fields = _plain(rule)
    if 'leaves' not in fields or 'method' not in fields:
      raise ValueError(f'config.regulariser.{name} needs leaves (a pattern of paths) and method; '
                       f'it has {", ".join(fields)}')
    leaves = fields.pop('leaves')
    rules[name] = (leaves, method(fields, steps_per_epoch, f'config.regulariser.{name}'))
  return sparsejax.partition(**rules)


def method(fields: dict[str, Any], steps_per_epoch: int, where: str) -> sparsejax.Regulariser:
  """Returns fields['method'] with the other fields as its arguments; lists of methods chain."""
  fields = dict(fields)
  name = _known(fields.pop('method'), METHODS, f'{where}.method')
  build = METHODS[name]
  _require_fields(fields, build, f'{where} ({name})')
  return build(**{key: number(value, steps_per_epoch, f'{where}.{key}')
                  for key, value in fields.items()})


def optimiser(config: ml_collections.ConfigDict,
              steps_per_epoch: int) -> optax.GradientTransformation:
  """Returns the optax optimiser {'name': 'adam', 'learning_rate': number or schedule, ...}."""
  fields = _plain(config)
  build = OPTIMISERS[_known(fields.pop('name'), OPTIMISERS, 'config.optimiser.name')]
  _require_fields(fields, build, 'config.optimiser')
  return build(**{key: number(value, steps_per_epoch, f'config.optimiser.{key}')
                  for key, value in fields.items()})


def penalty_weight(config: Any, steps_per_epoch: int) -> Callable[[Any], Any]:
  """Returns step -> factor of the penalty."""
  value = number(_plain(config), steps_per_epoch, 'config.penalty_weight')
  if callable(value):
    return value
  return constant_one if value == 1.0 else lambda step: value


def number(value: Any, steps_per_epoch: int, where: str) -> Any:
  """Returns the value, or for {'schedule': name, ...} an optax schedule over steps.

  Schedules: 'piecewise_linear' with epochs and values (equal lengths, linear between, constant
  outside; staircase=True holds the value of the start of each epoch) and 'cubic_sparsity' with
  final, begin_epoch and end_epoch.
  """
  if not isinstance(value, Mapping) or 'schedule' not in value:
    return value
  fields = dict(value)
  name = _known(fields.pop('schedule'), {'piecewise_linear': 0, 'cubic_sparsity': 0},
                f'{where}.schedule')
  if name == 'cubic_sparsity':
    _require_names(fields, ('final', 'begin_epoch', 'end_epoch'), where)
    return sparsejax.cubic_sparsity(fields['final'], fields['begin_epoch'] * steps_per_epoch,
                                    fields['end_epoch'] * steps_per_epoch)
  staircase = fields.pop('staircase', False)
  _require_names(fields, ('epochs', 'values'), where)
  epochs, values = np.asarray(fields['epochs'], np.float32), np.asarray(fields['values'])
  if epochs.shape != values.shape or epochs.ndim != 1 or np.any(np.diff(epochs) <= 0):
    raise ValueError(f'{where}: epochs {fields["epochs"]} must increase and match values '
                     f'{fields["values"]} one to one')

  def schedule(step):
    epoch = step / steps_per_epoch
    epoch = jnp.floor(epoch) if staircase else epoch
    return jnp.interp(epoch, epochs, values.astype(np.float32))
  return schedule


def _plain(config: Any) -> Any:
  """Returns the config as plain dicts and tuples."""
  if isinstance(config, ml_collections.ConfigDict):
    return {key: _plain(value) for key, value in config.items()}
  return config


def _known(name: str, known: Mapping[str, Any], where: str) -> str:
  if name not in known:
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f'; did you mean {near[0]!r}?' if near else ''
    raise ValueError(f'{where}={name!r} is not one of {", ".join(sorted(known))}{hint}')
  return name


def _require_fields(fields: Mapping[str, Any], build: Callable[..., Any], where: str) -> None:
  """Raises ValueError for a field that `build` does not take."""
  accepted = [name for name in inspect.signature(build).parameters if name not in ('parent', 'name')]
  for field in fields:
    if field not in accepted:
      near = difflib.get_close_matches(field, accepted, n=1)
      hint = f'did you mean {near[0]!r}? ' if near else ''
      raise ValueError(f'{where} has no field {field!r}; {hint}fields are {", ".join(accepted)}')


def _require_names(fields: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
  if set(fields) != set(names):
    raise ValueError(f'{where} needs the fields {", ".join(names)}, got {", ".join(fields)}')
