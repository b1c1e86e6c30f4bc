"""The scores of a deployed network on the test set, and what a later comparison needs of them.

This is the only place of a run that reads the test set.
"""

from __future__ import annotations

import io
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from sparsejax import codec, ledger
from sparsejax.training.evaluate import jit_logits
from sparsejax.training.fit import Recipe
from sparsejax.training.token_scores import jit_token_scores

LOGITS_FILE, TOKENS_FILE = 'test_logits.npz', 'test_tokens.npz'


def read_test_set(recipe: Recipe, variables: Mapping[str, Any], images: np.ndarray,
                  labels: np.ndarray, folder: pathlib.Path | None = None) -> dict[str, float]:
  """Returns the test scores of the ledger; in `folder`, if given, writes what they come from.

  Of a classifier the logits are kept; of a language model, whose logits could fill a disk, the NLL
  of each token and whether it was missed.
  """
  if labels.ndim == 1:
    logits = np.asarray(jit_logits(recipe)(variables, jnp.asarray(images)))
    if folder is not None:
      _write(folder / LOGITS_FILE, logits=logits, labels=labels)
    return ledger.classification_scores(logits, labels)
  found = jit_token_scores(recipe)(variables, jnp.asarray(images), jnp.asarray(labels))
  nll, wrong = np.asarray(found.nll_nats), np.asarray(found.wrong)
  if folder is not None:
    _write(folder / TOKENS_FILE, nll_nats=nll, wrong=wrong)
  scores = ledger.scores_of_predictions(nll, wrong, np.asarray(found.confidence),
                                        np.asarray(found.brier))
  mean = scores['test_nll_nats']
  return scores | {'test_bits_per_token': mean / math.log(2), 'test_perplexity': math.exp(mean)}


def validation_error_percent(recipe: Recipe, variables: Mapping[str, Any], images: np.ndarray,
                             labels: np.ndarray) -> float:
  """Returns the error on held-out examples, in percent of the labels."""
  if labels.ndim == 1:
    logits = jit_logits(recipe)(variables, jnp.asarray(images))
    return ledger.error_percent(np.asarray(logits), labels)
  found = jit_token_scores(recipe)(variables, jnp.asarray(images), jnp.asarray(labels))
  return 100 * float(np.mean(np.asarray(found.wrong)))


def wrong_in_folder(folder: pathlib.Path) -> np.ndarray:
  """Returns which test labels a finished run misses, bool (n,)."""
  if (folder / TOKENS_FILE).exists():
    with np.load(folder / TOKENS_FILE, allow_pickle=False) as archive:
      return archive['wrong'].reshape(-1)
  with np.load(folder / LOGITS_FILE, allow_pickle=False) as archive:
    return archive['logits'].argmax(1) != archive['labels']


def _write(path: pathlib.Path, **arrays: np.ndarray) -> None:
  archive = io.BytesIO()
  np.savez(archive, **arrays)                        # type: ignore[arg-type]
  codec.write_atomically(path, archive.getvalue())
