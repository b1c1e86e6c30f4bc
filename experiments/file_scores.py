"""The test scores of the network in a container, from nothing but the file and a data set."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

import optax
from rich.console import Console
from rich.table import Table

import sparsejax
from experiments import datasets
from experiments.scores import read_test_set
from sparsejax import codec
from sparsejax.training.fit import Preprocess, Recipe, as_tokens

Numbers = dict[str, Any]


def score_file(path: str | os.PathLike[str], dataset: str = '', *, streams: int = 1,
               console: Console | None = None) -> Numbers:
  """Returns the test scores of the ledger, the name of the data set and bytes_file; prints them.

  Args:
    path: a container with a model and the facts of `model_file.facts_of`.
    dataset: a name of `datasets.names()`; '' is the one that the file names.
    streams: texts read side by side, for a network that hands its state on through a long text.

  Raises:
    ValueError: if the file is damaged, lacks what running it needs, or takes other inputs than the
      data set gives.
    FileNotFoundError: if there is no such file.
  """
  loaded = codec.read_model(path)
  missing = [name for name in ('dataset', 'input_shape', 'preprocess') if name not in loaded.facts]
  if missing:
    raise ValueError(f'{os.fspath(path)} does not say its {", ".join(missing)}; write it with '
                     'experiments.compress or experiments.train')
  data: Any = datasets.load(dataset or loaded.facts['dataset'])
  sequential = hasattr(data, 'windows')
  if sequential:
    data = data.windows(streams, loaded.facts['input_shape'][0])
  if list(data.test_images.shape[1:]) != loaded.facts['input_shape']:
    raise ValueError(f'{data.name} has examples of shape {data.test_images.shape[1:]}; the network '
                     f'in {os.fspath(path)} takes {tuple(loaded.facts["input_shape"])}')
  training_flag = 'train' in inspect.signature(type(loaded.model).__call__).parameters
  recipe = Recipe(loaded.model, sparsejax.partition(), optax.identity(), len(data.test_images),
                  streams, preprocess=preprocess_of(loaded.facts), sequential=sequential,
                  eval_kwargs={'train': False} if training_flag else {})
  scores = read_test_set(recipe, loaded.variables, data.test_images, data.test_labels)
  found = {'dataset': data.name, **scores, 'bytes_file': os.path.getsize(path)}
  if console is not None:
    console.print(table(os.fspath(path), found))
  return found


def preprocess_of(facts: Mapping[str, Any]) -> Callable[[Any], Any]:
  """Returns raw examples -> inputs, as `model_file.facts_of` wrote it down.

  Raises:
    ValueError: for a kind of preprocessing that is not known.
  """
  if facts['preprocess'] == 'tokens':
    return as_tokens
  if facts['preprocess'] != 'images' or not {'scale', 'mean'} <= set(facts):
    raise ValueError(f'preprocess={facts["preprocess"]!r} with {", ".join(sorted(facts))} is '
                     "unknown; this version reads 'images', with scale and mean, and 'tokens'")
  preprocess: Any = Preprocess(facts['scale'], facts['mean'])
  return preprocess


def table(title: str, found: Numbers) -> Table:
  """Returns the printed table of `score_file`."""
  shown = Table('', '', title=title, title_justify='left', show_header=False)
  shown.add_row('data set', found['dataset'])
  shown.add_row('test error', f'{found["test_error_percent"]:.2f} %')
  shown.add_row('test NLL', f'{found["test_nll_nats"]:.4f} nats')
  if 'test_bits_per_token' in found:
    shown.add_row('test bits per token', f'{found["test_bits_per_token"]:.4f}')
  shown.add_row('bytes', f'{found["bytes_file"]:,}')
  return shown
