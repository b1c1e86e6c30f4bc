"""What a finished run left in its folder, read and checked against its ledger."""

from __future__ import annotations

import hashlib
import json
import math
import pathlib
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from experiments import workdir
from sparsejax import codec, ledger
from sparsejax.paths import Tree, flatten
from sparsejax.training.metrics import read_metrics

AGAIN = ('remove ledger.json and run the training command again: it goes on from its last '
         'checkpoint and writes this file anew')
COPY = 'restore it from a copy, or train in a new workdir'


class Run(NamedTuple):
  """A finished run.

  Attributes:
    folder: where it lies. config: as plain dicts and lists. ledger: checked.
    metrics: one row for each epoch, oldest first.
    params, state: the regulariser's trees, {rule: ...}, of which the deployed weights were made.
    deployed: {path: dense array with exact zeros}, the weights of the deployed network.
  """

  folder: pathlib.Path
  config: dict[str, Any]
  ledger: dict[str, Any]
  metrics: list[dict[str, float]]
  params: Tree
  state: Tree
  deployed: dict[str, np.ndarray]


def read_run(folder: str | pathlib.Path) -> Run:
  """Reads the folder of a finished run.

  Raises:
    ValueError: naming the file and the repair, if one is missing, damaged, or not the one that the
      ledger was made from.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise ValueError(f'{folder} is no folder; give the --workdir of a run')
  path = _existing(folder / 'ledger.json', 'it is written last, so this run has not ended: run its '
                   'training command again with this workdir, and it goes on where it stopped')
  sheet = ledger.read(path)
  config = _config(_existing(folder / 'config.json', COPY), sheet)
  metrics = _metrics(_existing(folder / 'metrics.jsonl', COPY))
  model = _existing(folder / 'model.safetensors', AGAIN)
  if hashlib.sha256(model.read_bytes()).hexdigest() != sheet['file_sha256']:
    raise ValueError(f'{model} is not the file that {path} measured (file_sha256 differs); {AGAIN}')
  trained = _weights(folder / 'parameters.safetensors', ('params', 'state'))
  deployed_path = folder / 'deployed.safetensors'
  deployed = flatten(_weights(deployed_path, ('params',))['params'])
  kept = sum(int(np.count_nonzero(leaf)) for kernel, leaf in deployed.items()
             if kernel in _kernels(sheet, deployed, deployed_path))
  if kept != sheet['weights_kept']:
    raise ValueError(f'{deployed_path} has {kept:,} non-zero kernel entries, {path} says '
                     f'{sheet["weights_kept"]:,}: they are of different runs; {AGAIN}')
  return Run(folder, config, sheet, metrics, trained['params'], trained['state'], deployed)


def kernel_path(run: Run, row: dict[str, Any]) -> str:
  """Returns the path of the kernel that a row of the ledger's `layers` counts."""
  return _kernel(row, run.deployed, run.folder / 'deployed.safetensors')


def _existing(path: pathlib.Path, repair: str) -> pathlib.Path:
  if not path.is_file():
    raise ValueError(f'{path} is missing; {repair}')
  return path


def _config(path: pathlib.Path, sheet: dict[str, Any]) -> dict[str, Any]:
  try:
    config = json.loads(path.read_bytes())
    if isinstance(config, dict):
      config_hash = workdir.config_hash(ml_collections.ConfigDict(config))
  except ValueError as error:               # JSONDecodeError and UnicodeDecodeError are ValueErrors
    raise ValueError(f'{path} is damaged: {error}; {COPY}') from error
  if not isinstance(config, dict):
    raise ValueError(f'{path} holds a JSON {type(config).__name__}, not a config; {COPY}')
  if config_hash != sheet['config_hash']:
    raise ValueError(f'{path} is not the config that ledger.json was made with (config_hash '
                     f'differs); {COPY}')
  return config


def _metrics(path: pathlib.Path) -> list[dict[str, float]]:
  try:
    rows = read_metrics(path)
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} is damaged: {error}; {COPY}') from error
  if not rows:
    raise ValueError(f'{path} holds no epoch; {COPY}')
  before = -math.inf
  for number, row in enumerate(rows, 1):
    numbers = isinstance(row, dict) and all(type(value) in (int, float) for value in row.values())
    if not numbers or not row.get('epoch', -math.inf) > before:
      raise ValueError(f'{path}, line {number} is no row of numbers with an epoch after the row '
                       f'before; {COPY}')
    before = row['epoch']
  return rows


def _weights(path: pathlib.Path, keys: tuple[str, ...]) -> Tree:
  _existing(path, AGAIN)
  try:
    tree = codec.read(path)
  except ValueError as error:
    raise ValueError(f'{error}. To write it again: {AGAIN}') from error
  missing = [key for key in keys if key not in tree]
  if missing:
    raise ValueError(f'{path} holds {", ".join(tree)} but not {", ".join(missing)}; {AGAIN}')
  return tree


def _kernels(sheet: dict[str, Any], deployed: dict[str, np.ndarray],
             path: pathlib.Path) -> set[str]:
  return {_kernel(row, deployed, path) for row in sheet['layers']}


def _kernel(row: dict[str, Any], deployed: dict[str, np.ndarray], path: pathlib.Path) -> str:
  prefix = f'{row["layer"]}/' if row['layer'] else ''
  for name in ('kernel', 'embedding'):
    leaf = deployed.get(prefix + name)
    if leaf is not None and list(leaf.shape) == row['kernel_shape']:
      return prefix + name
  raise ValueError(f'{path} has no kernel of shape {tuple(row["kernel_shape"])} in the layer '
                   f'{row["layer"]!r} of ledger.json: they are of different runs; {AGAIN}')
