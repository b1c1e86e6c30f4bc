"""Controls of a compressed network: would something simpler have done as well?

Each control is the config of another training, derived from the config of the network under test
and from what is left of it:

  dense        the big network, without a method
  scratch      the compact architecture from random weights, at equal compute
  distil       the same, taught by the big network (Hinton et al., 2015, arXiv:1503.02531)
  random       the big network under random masks with the same density in each layer
  rewind       iterative magnitude pruning to the same density, with the learning rate rewound
               (Renda, Frankle, Carbin, 2020, arXiv:2003.02389), all rounds within equal epochs
  dense_small  a dense network whose float32 file has the same bytes (`equal_bytes.py`)

and without a training, from `dense`: int8_zstd, the big network in int8 under Zstandard.

Equal compute means equal multiply-adds of the linear layers: the compact network trains for as many
times more epochs as it is cheaper, up to a limit that the result states.

Without a method, recurrent networks overfit soon. Where there is held-out data, their controls are
deployed after the epoch that is best on it, except for rewind, whose early epochs are not sparse.
"""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import build
from experiments.evidence.equal_bytes import equal_bytes_fields
from experiments.evidence.label_scores import is_language_model
from sparsejax.compaction.compact import compact
from sparsejax.ledger import count
from sparsejax.paths import flatten

TRAINED = ('dense', 'scratch', 'distil', 'random', 'rewind', 'dense_small')
COMPACT = ('scratch', 'distil')             # those that train the compact architecture
ALL = (*TRAINED, 'int8_zstd')
KEEPS_SIZE = ('weight_decay', 'dropout')    # methods that make nothing smaller: controls keep them
TIME_FIELDS = ('epochs', 'begin_epoch', 'end_epoch', 'epochs_per_round')
# Training ends after so many epochs without a better one: at least 5, or a tenth of all.
LEAST_PATIENCE, PATIENCE = 5, 0.1
ONE_WEIGHT = 1e-9   # density of a layer of which nothing is left; a mask keeps one weight of it


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


class Examples(NamedTuple):
  """What controls must know of the examples that a network reads.

  Attributes:
    shape: of one. frequent: all tokens, the most frequent first; () for real numbers.
    held_out: whether there is validation data.
  """

  shape: tuple[int, ...]
  frequent: tuple[int, ...] = ()
  held_out: bool = False


class Settings(NamedTuple):
  """What the controls leave open; fixed beforehand, not tuned."""

  max_epochs_factor: float = 10.0
  rounds: int = 4
  temperature: float = 4.0
  hard_weight: float = 0.5


def facts(config: ml_collections.ConfigDict, variables: Mapping[str, Any], bytes_file: int,
          shape: tuple[int, ...]) -> Facts:
  """Returns the facts of a deployed network, variables {'params': ..., ...} with exact zeros.

  `shape` is that of one example.
  """
  model = build.model(config.model)
  example = (1, *shape)
  small = compact(model, dict(variables), example_shape=example)
  inputs = jax.ShapeDtypeStruct(
      example, jnp.int32 if 'tokens' in config.preprocess else jnp.float32)
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
            if name not in ('parent', 'name', *build.INITIALISED)}
  return Facts({name: value for name, value in fields.items() if value is not None},
               {path: left[path] / size for path, size in entries.items()},
               sum(left.values()) / sum(entries.values()), flops[0] / max(flops[1], 1),
               bytes_file,
               sum(left.values()), sizes[1] < sizes[0])


def why_not(control: str, config: ml_collections.ConfigDict, found: Facts) -> str:
  """Returns why this network has no such control, to follow its name, or '' where it has one."""
  if control in COMPACT and not found.compacted:
    return ('trains the compact architecture, but this network was not compacted: single weights '
            'are zero, no unit')
  if control == 'distil' and is_language_model(config):
    return ("needs a teacher's logits at each token of the training text, a number for each symbol "
            'of the vocabulary, which are not held for language models')
  if control == 'dense_small' and 'widths' not in _fields(config.model.name):
    return f"shrinks the model's field widths, which {config.model.name} does not have"
  return ''


def control_config(control: str, config: ml_collections.ConfigDict, found: Facts,
                   settings: Settings, examples: Examples) -> ml_collections.ConfigDict:
  """Returns the config of a control.

  Raises:
    ValueError: for an unknown control, or one that this network has not (`why_not`).
  """
  if control not in TRAINED:
    raise ValueError(f'no control {control!r}; controls are {", ".join(ALL)}')
  if reason := why_not(control, config, found):
    others = [repr(name) for name in TRAINED if not why_not(name, config, found)]
    raise ValueError(f'the control {control!r} {reason}; take {", ".join(others)}')
  derived = {name: value for name, value in copy.deepcopy(config.to_dict()).items()
             if name != 'choose'}
  derived['regulariser'] = {name: rule for name, rule in derived['regulariser'].items()
                            if rule['method'] in KEEPS_SIZE}
  if not derived['regulariser']:
    derived['penalty_weight'] = 1.0       # a warm-up of the method's penalty means nothing here
  if control in COMPACT:
    derived['model'] |= found.compact_fields
    factor = min(found.flops_ratio, settings.max_epochs_factor)
    _stretch(derived, max(1, round(derived['epochs'] * factor)))
  elif control == 'random':
    _free(derived, found)
    derived['regulariser']['random'] = {
        'leaves': '|'.join(found.densities), 'method': 'static_mask',
        'density': {path: density or ONE_WEIGHT for path, density in found.densities.items()},
        'allocation': 'uniform'}
  elif control == 'rewind':
    _rewind(derived, found, settings)
  elif control == 'dense_small':
    derived['model'] |= equal_bytes_fields(config, found.bytes_file, examples.shape,
                                           examples.frequent)
  _choose_epoch(control, derived, examples)
  return ml_collections.ConfigDict(derived)


def _fields(model: str) -> Mapping[str, Any]:
  """Returns the fields that a model has, by its name in configs."""
  return inspect.signature(build.MODELS[model]).parameters


def _choose_epoch(control: str, derived: dict[str, Any], examples: Examples) -> None:
  """Has the best epoch of a recurrent network deployed, where held-out data tell which it is."""
  if control == 'rewind':
    derived.pop('early_stopping', None)
  elif 'cell' in _fields(derived['model']['name']) and examples.held_out:
    derived['early_stopping'] = {
        'patience': max(LEAST_PATIENCE, round(PATIENCE * derived['epochs']))}
    derived['evaluate_every'] = 1


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
