"""A finished, deployed network under test: of a run's folder or of a point of a frontier."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from experiments import datasets
from experiments.evidence.controls import Facts, facts
from experiments.evidence.point import Point, deployed_file, wrong_on_test
from experiments.scores import LOGITS_FILE, TOKENS_FILE, wrong_in_folder
from experiments.workdir import CONFIG_FILE, config_hash
from sparsejax import codec, ledger


class Subject(NamedTuple):
  """What controls are measured against.

  Attributes:
    name: in words. config: of its training. variables: deployed, {'params': ..., ...}.
    wrong: bool (test examples,), which it gets wrong. facts: what is left of it.
  """

  name: str
  config: ml_collections.ConfigDict
  variables: dict[str, Any]
  wrong: np.ndarray
  facts: Facts


def image_shape(config: ml_collections.ConfigDict) -> tuple[int, ...]:
  """Returns (height, width, channels) of the images that a config trains on."""
  return _image_shape(config.dataset)


@functools.cache
def _image_shape(dataset: str) -> tuple[int, ...]:
  loaded: Any = datasets.load(dataset)
  return loaded.train_images.shape[1:]


def of_run(folder: pathlib.Path) -> Subject:
  """Returns the network of a finished run of experiments.train.

  Raises:
    ValueError: naming the file, if the run has not ended or one of its files is damaged.
  """
  predictions = TOKENS_FILE if (folder / TOKENS_FILE).exists() else LOGITS_FILE
  for name in ('ledger.json', CONFIG_FILE, 'deployed.safetensors', predictions):
    if not (folder / name).is_file():
      raise ValueError(f'{folder / name} is missing: a control needs a finished run; run '
                       f'experiments.train --workdir={folder} to its end')
  sheet = ledger.read(folder / 'ledger.json')
  config = ml_collections.ConfigDict(json.loads((folder / CONFIG_FILE).read_text()))
  if config_hash(config) != sheet['config_hash']:
    raise ValueError(f'{folder / CONFIG_FILE} is not the config that ledger.json was made with')
  variables = codec.read(folder / 'deployed.safetensors')
  wrong = wrong_in_folder(folder)
  shape = image_shape(config)
  return Subject(sheet['config'], config, variables, wrong,
                 facts(config, variables, sheet['bytes_file'], shape))


def of_point(name: str, point: Point, root: pathlib.Path, content: dict[str, Any],
             index: int) -> Subject:
  """Returns one network of a finished point of a frontier."""
  network = content['networks'][index]
  config = point.built()
  variables = codec.read(point.folder(root) / deployed_file(index))
  return Subject(name, config, variables, wrong_on_test(point, root, index),
                 facts(config, variables, network['bytes_file'], image_shape(config)))
