"""A finished run of experiments.train, as what is to be compressed."""

from __future__ import annotations

import json
import pathlib
from typing import Any, NamedTuple

import ml_collections

from experiments import build
from experiments.data import Data
from experiments.data import load as load_data
from experiments import run as runs
from experiments.model_file import facts_of
from experiments.workdir import CONFIG_FILE, config_hash
from sparsejax import codec, ledger
from sparsejax.compaction.compact import compact
from sparsejax.training.fit import Recipe

DEPLOYED_FILE = 'deployed.safetensors'


class Subject(NamedTuple):
  """A trained network, the data it was trained on, and its sheet.

  Attributes:
    folder: of the run. config: of the run. recipe: that it was trained by. data: its arrays.
    variables: {'params': ..., ...} as deployed: dense float32 with exact zeros, on the host.
    sheet: the ledger of the run.
  """

  folder: pathlib.Path
  config: ml_collections.ConfigDict
  recipe: Recipe
  data: Data
  variables: dict[str, Any]
  sheet: dict[str, Any]

  def compacted(self, variables: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
    """Returns (model, variables) of the smaller network of the same function.

    Args:
      variables: in place of those of the run.
    """
    small = compact(self.recipe.model, self.variables if variables is None else variables,
                    example_shape=(1, *self.data.images.shape[1:]))
    return small.model, small.variables

  def facts(self) -> dict[str, Any]:
    """Returns what a file needs beside the network to run it on raw examples."""
    return facts_of(self.config, self.recipe, self.data.images)


def load(folder: str | pathlib.Path) -> Subject:
  """Returns the subject of a run's folder.

  Raises:
    ValueError: for a folder without a finished run, or files that are damaged.
  """
  folder = pathlib.Path(folder)
  for name in (CONFIG_FILE, runs.LEDGER_FILE, DEPLOYED_FILE):
    if not (folder / name).exists():
      raise ValueError(f'{folder / name} is missing: only a finished run is compressed; run '
                       f'experiments.train --workdir={folder}')
  try:
    config = ml_collections.ConfigDict(json.loads((folder / CONFIG_FILE).read_text('utf-8')),
                                       convert_dict=True)
  except ValueError as error:
    raise ValueError(f'{folder / CONFIG_FILE} is damaged: {error}; restore it from a copy, or run '
                     'again in another folder') from error
  sheet = ledger.read(folder / runs.LEDGER_FILE)
  if sheet['config_hash'] != config_hash(config):
    raise ValueError(f'{folder / runs.LEDGER_FILE} is of another config than {CONFIG_FILE} beside '
                     'it; run again in another folder')
  data = load_data(config)
  if sheet['data_hash'] != data.dataset.hash:
    raise ValueError(f'{config.dataset} is not the data that {folder} was trained on; restore it')
  return Subject(folder, config, build.recipe(config, data.images), data,
                 codec.read(folder / DEPLOYED_FILE), sheet)
