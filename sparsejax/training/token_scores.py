"""Scores of a language model at each token, so that no logits of a whole text are ever held.

A vocabulary of 10,000 words makes 40 kB of logits a token: a text is scored batch by batch, and
what a report needs of each token is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.apply import apply
from sparsejax.training.fit import CARRY, Recipe
from sparsejax.training.sharding import devices_of, multiple_of, split, whole

Array = jax.Array

TOKENS_AT_ONCE = 2 ** 13      # of windows that start from a zero state; bounds the memory of logits


class TokenScores(NamedTuple):
  """Of each token, (n, T).

  Attributes:
    nll_nats: -log p(label), float32. wrong: whether another symbol is likelier, bool.
    confidence: probability of the likeliest symbol, float32.
    brier: squared distance of the probabilities to the one-hot label, float32.
  """

  nll_nats: Array
  wrong: Array
  confidence: Array
  brier: Array


def scores_of_logits(logits: Array, labels: Array) -> TokenScores:
  """Returns the scores for logits (..., symbols) and labels (...)."""
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
  chosen = jnp.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]
  probs = jnp.exp(log_probs)
  brier = jnp.sum(jnp.square(probs), axis=-1) - 2 * jnp.exp(chosen) + 1
  return TokenScores(-chosen, jnp.argmax(logits, axis=-1) != labels, probs.max(axis=-1), brier)


def token_scores_of(recipe: Recipe, model: Any, variables: Mapping[str, Any], windows: Array,
                    labels: Array) -> TokenScores:
  """Returns the scores of each token of the windows, (n, T), for `model` with `variables`.

  A sequential recipe reads `batch_size` texts side by side from a zero state, and hands the
  recurrent state on from window to window; otherwise each window starts from a zero state.

  Raises:
    ValueError: for a sequential recipe, where the windows are no whole number of batches.
  """
  if recipe.sequential:
    return _side_by_side(recipe, model, variables, windows, labels)
  return _one_by_one(recipe, model, variables, windows, labels)


def jit_token_scores(recipe: Recipe, model: Any = None
                     ) -> Callable[[Mapping[str, Any], Array, Array], TokenScores]:
  """Returns the compiled (variables, windows, labels) -> scores, of `model` or the recipe's."""
  model = recipe.model if model is None else model
  return jax.jit(lambda variables, windows, labels: whole(recipe.mesh, token_scores_of(
      recipe, model, variables, windows, labels)))


def _side_by_side(recipe, model, variables, windows, labels):
  streams, length = recipe.batch_size, windows.shape[1]
  if windows.shape[0] % streams:
    raise ValueError(f'{windows.shape[0]} windows are no whole number of batches of {streams} '
                     'texts side by side; cut the text with the same batch size')

  def read(carry, window):
    logits, changed = apply(model, {**variables, **carry}, recipe.preprocess(window),
                            mutable=[CARRY], **recipe.eval_kwargs)
    return logits, dict(changed)

  def step(carry, batch):
    window, label = split(recipe.mesh, batch)
    logits, carry = read(carry, window)
    return carry, scores_of_logits(logits, label)

  shapes = jax.eval_shape(lambda: read({}, windows[:streams])[1])
  start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
  _, scores = jax.lax.scan(step, start, (windows.reshape(-1, streams, length),
                                         labels.reshape(-1, streams, length)))
  return jax.tree.map(lambda leaf: leaf.reshape(-1, length), scores)


def _one_by_one(recipe, model, variables, windows, labels):
  def score(batch):
    window, label = batch
    logits = apply(model, variables, recipe.preprocess(window), **recipe.eval_kwargs)
    return scores_of_logits(logits, label)
  size = multiple_of(devices_of(recipe.mesh), TOKENS_AT_ONCE // windows.shape[1])
  chunked = windows.shape[0] // size * size
  parts = []
  if chunked:
    chunks = [array[:chunked].reshape(-1, size, *array.shape[1:]) for array in (windows, labels)]
    scores = jax.lax.map(lambda batch: score(split(recipe.mesh, batch)), tuple(chunks))
    parts.append(jax.tree.map(lambda leaf: leaf.reshape(chunked, *leaf.shape[2:]), scores))
  if chunked < windows.shape[0]:
    parts.append(score((windows[chunked:], labels[chunked:])))
  return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
