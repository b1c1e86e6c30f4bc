"""Controls of a compressed network: would something simpler have done as well?

Each control is the config of another training, derived from the config of the network under test
and from what is left of it:

  dense        the big network, without a method
  scratch      the compact architecture from random weights, at equal compute
  distil       the same, taught by the big network (Hinton et al., 2015, arXiv:1503.02531)
  random       the big network under random masks with the same density in each layer
  rewind       iterative magnitude pruning to the same density, with the learning rate rewound
               (Renda, Frankle, Carbin, 2020, arXiv:2003.02389), all rounds within equal epochs
  dense_small  a dense network whose float32 file has the same bytes

and without a training, from `dense`: int8_zstd, the big network in int8 under Zstandard.

Equal compute means equal multiply-adds of the linear layers: the compact network trains for as many
times more epochs as it is cheaper, up to a limit that the result states.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import build
from sparsejax import codec
from sparsejax.compaction.compact import compact
from sparsejax.ledger import count
from sparsejax.paths import flatten

TRAINED = ('dense', 'scratch', 'distil', 'random', 'rewind', 'dense_small')
ALL = (*TRAINED, 'int8_zstd')
KEEPS_SIZE = ('weight_decay', 'dropout')    # methods that make nothing smaller: controls keep them
TIME_FIELDS = ('epochs', 'begin_epoch', 'end_epoch', 'epochs_per_round')


class Facts(NamedTuple):
  """What is left of the network under test.

  Attributes:
    compact_fields: of the compact model, such as its widths. densities: {kernel path: kept / all},
      kept in the compact network, of all in the dense one. density: over all kernels.
    flops_ratio: dense to compact. bytes_file: of the compact network.
    weights_kept: non-zero kernel entries of the compact network.
    compacted: whether it has fewer parameters than the dense one.
  """

  compact_fields: dict[str, Any]
  densities: dict[str, float]
  density: float
  flops_ratio: float
  bytes_file: int
  weights_kept: int
  compacted: bool


class Settings(NamedTuple):
  """What the controls leave open; fixed beforehand, not tuned."""

  max_epochs_factor: float = 10.0
  rounds: int = 4
  temperature: float = 4.0
  hard_weight: float = 0.5


def facts(config: ml_collections.ConfigDict, variables: Mapping[str, Any], bytes_file: int,
          image_shape: tuple[int, ...]) -> Facts:
  """Returns the facts of a deployed network, variables {'params': ..., ...} with exact zeros."""
  model = build.model(config.model)
  example = (1, *image_shape)
  small = compact(model, dict(variables), example_shape=example)
  inputs = jax.ShapeDtypeStruct(example, jnp.float32)
  flops = [count.totals(count.count_layers(m, v, inputs))['flops']
           for m, v in ((model, variables), (small.model, small.variables))]
  # Sorted, for a file gives its leaves back in any order, and a config's checksum sees the order.
  entries = {path: np.size(leaf) for path, leaf in sorted(flatten(variables['params']).items())
             if np.ndim(leaf) >= 2}
  # In the compact network: a weight that reads a dead unit is not zero, yet of no use.
  left = {path: int(np.count_nonzero(flatten(small.variables['params'])[path]))
          for path in entries}
  sizes = [sum(leaf.size for leaf in flatten(v['params']).values())
           for v in (variables, small.variables)]
  fields = {name: getattr(small.model, name) for name in small.model.__dataclass_fields__
            if name not in ('parent', 'name', 'kernel_init')}
  return Facts({name: value for name, value in fields.items() if value is not None},
               {path: left[path] / size for path, size in entries.items()},
               sum(left.values()) / sum(entries.values()), flops[0] / flops[1], bytes_file,
               sum(left.values()), sizes[1] < sizes[0])


def control_config(control: str, config: ml_collections.ConfigDict, found: Facts,
                   settings: Settings, image_shape: tuple[int, ...]) -> ml_collections.ConfigDict:
  """Returns the config of a control.

  Raises:
    ValueError: for an unknown control, or one of the compact architecture where there is none.
  """
  if control not in TRAINED:
    raise ValueError(f'no control {control!r}; controls are {", ".join(ALL)}')
  derived = {name: value for name, value in copy.deepcopy(config.to_dict()).items()
             if name != 'choose'}
  derived['regulariser'] = {name: rule for name, rule in derived['regulariser'].items()
                            if rule['method'] in KEEPS_SIZE}
  if not derived['regulariser']:
    derived['penalty_weight'] = 1.0       # a warm-up of the method's penalty means nothing here
  if control in ('scratch', 'distil'):
    if not found.compacted:
      raise ValueError(f'the control {control!r} trains the compact architecture, but this network '
                       "was not compacted: single weights are zero, no unit; take 'random', "
                       "'rewind' or 'dense_small'")
    derived['model'] |= found.compact_fields
    factor = min(found.flops_ratio, settings.max_epochs_factor)
    _stretch(derived, max(1, round(derived['epochs'] * factor)))
  elif control == 'random':
    _free(derived, found)
    derived['regulariser']['random'] = {
        'leaves': '|'.join(found.densities), 'method': 'static_mask',
        'density': found.densities, 'allocation': 'uniform'}
  elif control == 'rewind':
    _rewind(derived, found, settings)
  elif control == 'dense_small':
    derived['model']['widths'] = equal_bytes_widths(config, found.bytes_file, image_shape)
  return ml_collections.ConfigDict(derived)


def equal_bytes_widths(config: ml_collections.ConfigDict, bytes_file: int,
                       image_shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the widths, in the proportions of the config's, of the largest dense network whose
  float32 file has at most `bytes_file` bytes; where none has, of the smallest network."""
  widths = tuple(config.model.widths)

  def scaled(factor):
    return tuple(max(1, round(width * factor)) for width in widths)

  def size(factor):
    fields = {**config.model.to_dict(), 'widths': scaled(factor)}
    model = build.model(ml_collections.ConfigDict(fields))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    return codec.float32_bytes(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes))

  low, high = 0.0, 1.0
  for _ in range(20):
    middle = (low + high) / 2
    low, high = (middle, high) if size(middle) <= bytes_file else (low, middle)
  return scaled(low)


def _rewind(derived: dict[str, Any], found: Facts, settings: Settings) -> None:
  """Cuts the epochs into settings.rounds + 1 equal rounds, each with the whole rate schedule."""
  _free(derived, found)
  rounds = settings.rounds + 1
  each = max(1, derived['epochs'] // rounds)
  rate = derived['optimiser']['learning_rate']
  if isinstance(rate, Mapping):
    inner = _scaled(rate, each / derived['epochs'])
    derived['optimiser']['learning_rate'] = {'schedule': 'rewound', 'epochs_per_round': each,
                                             'inner': inner}
  derived['epochs'] = each * rounds
  # Looking at every tenth step, a round's mask comes at most nine steps after its start.
  derived['regulariser']['rewind'] = {
      'leaves': '|'.join(found.densities), 'method': 'magnitude_pruning', 'begin': 0, 'every': 10,
      'granularity': 'weight', 'allocation': 'global', 'sparsity': {
          'schedule': 'iterative_sparsity', 'final': 1 - found.density, 'rounds': settings.rounds,
          'begin_epoch': each, 'epochs_per_round': each}}


def _free(derived: dict[str, Any], found: Facts) -> None:
  """Leaves out the rules that own a kernel, which can have one rule only."""
  derived['regulariser'] = {
      name: rule for name, rule in derived['regulariser'].items()
      if not any(re.fullmatch(rule['leaves'], path) for path in found.densities)}


def _stretch(derived: dict[str, Any], epochs: int) -> None:
  """Sets the epochs and stretches the schedules of the optimiser alike."""
  factor = epochs / derived['epochs']
  derived['optimiser'] = _scaled(derived['optimiser'], factor)
  derived['epochs'] = epochs
  for name in ('evaluate_every', 'checkpoint_every'):
    derived[name] = max(1, math.ceil(derived[name] * factor))


def _scaled(fields: Any, factor: float) -> Any:
  """Returns the nested fields with every time in epochs multiplied."""
  if not isinstance(fields, Mapping):
    return fields
  scaled = {}
  for name, value in fields.items():
    if name in TIME_FIELDS and not isinstance(value, Mapping):
      scaled[name] = (type(value)(v * factor for v in value) if isinstance(value, (list, tuple))
                      else value * factor)
    else:
      scaled[name] = _scaled(value, factor)
  return scaled
