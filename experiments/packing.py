"""Blocks of a run's compact network, stored alone where that is faster, as config.pack says."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from experiments.data import Data
from sparsejax.packing import matching, pack
from sparsejax.paths import flatten
from sparsejax.training.evaluate import deployed_weights
from sparsejax.training.fit import Recipe, TrainState
from sparsejax.training.step_timing import training_step_milliseconds


class Packing(NamedTuple):
  """The compact network's variables, packed; keys of the ledger; what to warn of."""

  variables: dict[str, Any]
  ledger_keys: dict[str, Any]
  warnings: list[str]


def require_leaves(config: ml_collections.ConfigDict, recipe: Recipe, state: TrainState) -> None:
  """Raises ValueError for a rule of config.pack that names no weight of the network."""
  paths = flatten(jax.eval_shape(lambda state: deployed_weights(recipe, state), state))
  for name, rule in config.pack.rules.items():
    if not matching(rule.leaves, paths):
      raise ValueError(f'config.pack.rules.{name}.leaves={rule.leaves!r} matches no weight; paths '
                       f'are {", ".join(sorted(paths))}')


def pack_and_time(config: ml_collections.ConfigDict, recipe: Recipe, compacted: Any,
                  data: Data) -> Packing:
  """Packs the compact network; a rule whose every weight compaction took away is warned of."""
  options = config.pack.to_dict()
  entries = options.pop('rules')
  paths = flatten(compacted.variables['params'])
  lost = [name for name, rule in entries.items() if not matching(rule['leaves'], paths)]
  rules = {rule['leaves']: rule['block_size'] for name, rule in entries.items() if name not in lost}
  params, report = pack(compacted.variables['params'], rules, **options)
  variables = {**compacted.variables, 'params': params}
  batch = slice(config.batch_size)
  steps = training_step_milliseconds(recipe, compacted.model, variables,
                                     jnp.asarray(data.images[batch]),
                                     jnp.asarray(data.labels[batch]))
  return Packing(variables, {'packed_layers': [found.row() for found in report], **steps},
                 [f'config.pack.rules.{name}: nothing to pack, the compact network has none of its '
                  'weights left' for name in lost])
