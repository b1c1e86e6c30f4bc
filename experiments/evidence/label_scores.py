"""Which labels of the test set a network misses, and of a language model the NLL of each token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import build
from experiments.data import load
from sparsejax.training.evaluate import jit_logits
from sparsejax.training.token_scores import jit_token_scores


class LabelScores(NamedTuple):
  """Of each test label, in the order of the data set.

  Attributes:
    wrong: whether it is missed, bool, (n,); of the tokens of a text (windows * T,).
    nll_nats: -log p(label), float32, (windows, T); None for a classifier of whole examples.
  """

  wrong: np.ndarray
  nll_nats: np.ndarray | None = None


Scorer = Callable[[Mapping[str, Any]], LabelScores]

_SCORERS: dict[Any, Scorer] = {}


def is_language_model(config: ml_collections.ConfigDict) -> bool:
  """Returns whether each position of an example has a label."""
  return bool(config.get('task', 'classification') == 'language_model')


def scorer(config: ml_collections.ConfigDict) -> Scorer:
  """Returns deployed variables -> scores on the test set, compiled once per data and network.

  The recurrent state of a network that reads a long text is handed on from window to window.
  """
  sequence = config.get('sequence')
  key = (config.dataset, config.model.to_json(), config.preprocess.to_json(),
         config.seed if config.preprocess.get('subtract_mean') else None,
         (config.batch_size, sequence.length) if sequence else None, is_language_model(config))
  if key not in _SCORERS:
    data = load(config)
    recipe = build.recipe(config, data.images)
    images, labels = jnp.asarray(data.dataset.test_images), data.dataset.test_labels
    make = _of_tokens if is_language_model(config) else _of_examples
    _SCORERS[key] = make(recipe, images, labels)
  return _SCORERS[key]


def _of_examples(recipe, images, labels):
  predict = jit_logits(recipe)
  return lambda variables: LabelScores(np.asarray(predict(variables, images)).argmax(1) != labels)


def _of_tokens(recipe, windows, labels):
  score, labels = jit_token_scores(recipe), jnp.asarray(labels)

  def scores(variables):
    found = score(variables, windows, labels)
    return LabelScores(np.asarray(found.wrong).reshape(-1), np.asarray(found.nll_nats))
  return scores
