"""A finished, deployed network under test: of a run's folder or of a point of a frontier."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from experiments import build, datasets
from experiments.evidence.controls import Examples, Facts, facts
from experiments.evidence.point import Point, deployed_file, scores_on_test
from experiments.scores import LOGITS_FILE, TOKENS_FILE, wrong_in_folder
from experiments.workdir import CONFIG_FILE, config_hash
from sparsejax import codec, ledger


class Subject(NamedTuple):
  """What controls are measured against.

  Attributes:
    name: in words. config: of its training. variables: deployed, {'params': ..., ...}.
    wrong: bool (test labels,), which it gets wrong. facts: what is left of it.
    nll_nats: of a language model, -log p(label) of each test token, (windows, T); else None.
  """

  name: str
  config: ml_collections.ConfigDict
  variables: dict[str, Any]
  wrong: np.ndarray
  facts: Facts
  nll_nats: np.ndarray | None = None


def examples_of(config: ml_collections.ConfigDict) -> Examples:
  """Returns what the examples are that a config trains on.

  The shape is that of an image, (height, width, channels); of a text as `data.load` cuts it, (T,).
  """
  length = config.sequence.length if 'sequence' in config else None
  tokens = config.model.get('vocabulary') if 'tokens' in config.preprocess else None
  shape, own, frequent = _known(config.dataset, length, tokens)
  pad = getattr(build.model(config.model), 'pad', None)
  if pad in frequent:                          # padding changes nothing: no network needs its row
    frequent = (*(token for token in frequent if token != pad), pad)
  return Examples(shape, frequent, bool(own or config.validation_examples))


@functools.cache
def _known(dataset: str, length: int | None,
           tokens: int | None) -> tuple[tuple[int, ...], bool, tuple[int, ...]]:
  """Returns (shape of an example, whether it has a validation set, its tokens by frequency)."""
  loaded: Any = datasets.load(dataset)
  if length is None:
    text, shape = loaded.train_images, loaded.train_images.shape[1:]
    own = getattr(loaded, 'validation_images', None) is not None
  else:
    text, shape, own = loaded.train, (length,), True
  if tokens is None:
    return shape, own, ()
  counts = np.bincount(text.ravel(), minlength=tokens)
  return shape, own, tuple(int(token) for token in np.argsort(-counts, kind='stable'))


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
  nll = None
  if predictions == TOKENS_FILE:
    with np.load(folder / TOKENS_FILE, allow_pickle=False) as archive:
      nll = archive['nll_nats']
  return Subject(sheet['config'], config, variables, wrong_in_folder(folder),
                 facts(config, variables, sheet['bytes_file'], examples_of(config).shape), nll)


def of_point(name: str, point: Point, root: pathlib.Path, content: dict[str, Any],
             index: int) -> Subject:
  """Returns one network of a finished point of a frontier."""
  network = content['networks'][index]
  config = point.built()
  variables = codec.read(point.folder(root) / deployed_file(index))
  scores = scores_on_test(point, root, index)
  return Subject(name, config, variables, scores.wrong,
                 facts(config, variables, network['bytes_file'], examples_of(config).shape),
                 scores.nll_nats)
