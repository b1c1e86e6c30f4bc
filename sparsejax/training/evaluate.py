"""Evaluation of the deployed network: without noise, in batches, on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sparsejax.apply import apply
from sparsejax.paths import Tree, flatten
from sparsejax.structured import densify
from sparsejax.training.fit import Recipe, TrainState, deployed_collections, evaluation_params
from sparsejax.training.sharding import devices_of, multiple_of, split, whole
from sparsejax.training.token_scores import token_scores_of

Array = jax.Array

EVALUATION_BATCH = 500  # bounds the memory of convolutions by patches


def deployed_weights(recipe: Recipe, state: TrainState) -> Tree:
  """Returns the weights the network would run with now; traceable, unlike `finalise`."""
  return recipe.regulariser.weights(evaluation_params(recipe, state), state.method_state)


def logits_of(model: Any, preprocess: Callable[..., Array], variables: Mapping[str, Any],
              images: Array, kwargs: Mapping[str, Any], mesh: Mesh | None = None) -> Array:
  """Returns float32 logits, (n, classes) or (n, T, classes) for sequences with T labels.

  `EVALUATION_BATCH` examples are computed at a time, over the devices of `mesh` as many as they
  can share; each of the devices computes those that are left at the end.
  """
  def predict(batch):
    return apply(model, variables, preprocess(batch), **kwargs).astype(jnp.float32)
  size = multiple_of(devices_of(mesh), EVALUATION_BATCH)
  chunked = images.shape[0] // size * size
  parts = []
  if chunked:
    chunks = images[:chunked].reshape(-1, size, *images.shape[1:])
    logits = jax.lax.map(lambda batch: predict(split(mesh, batch)), chunks)
    parts.append(logits.reshape(chunked, *logits.shape[2:]))
  if chunked < images.shape[0]:
    parts.append(predict(images[chunked:]))
  return jnp.concatenate(parts)


def jit_logits(recipe: Recipe, model: Any = None) -> Callable[[Mapping[str, Any], Array], Array]:
  """Returns the compiled (variables, raw images) -> logits, for the recipe's or another model."""
  model = recipe.model if model is None else model

  @jax.jit
  def compute(variables, images):
    return whole(recipe.mesh, logits_of(model, recipe.preprocess, variables, images,
                                        recipe.eval_kwargs, recipe.mesh))
  return compute


def jit_summary(recipe: Recipe) -> Callable[[TrainState, Array, Array], dict[str, Array]]:
  """Returns the compiled (state, images, labels) -> numbers of the deployed network.

  The numbers: error_percent and nll_nats on the images given, penalty_nats of the whole data set,
  `density/<path>` of each kernel (fraction of non-zero entries) and `density` over all of them.
  """
  @jax.jit
  def compute(state, images, labels):
    weights = deployed_weights(recipe, state)
    variables = {'params': weights, **deployed_collections(state.collections)}
    nll, wrong = nll_and_wrong(recipe, variables, images, labels)
    kernels = {path: leaf for path, leaf in flatten(densify(weights)).items() if leaf.ndim >= 2}
    kept = {path: jnp.sum(leaf != 0) for path, leaf in kernels.items()}
    total = sum(leaf.size for leaf in kernels.values())
    return {
        'error_percent': 100 * jnp.mean(wrong),
        'nll_nats': jnp.mean(nll),
        'penalty_nats': recipe.regulariser.penalty(state.params, state.method_state),
        'density': sum(kept.values()) / total,
        **{f'density/{path}': kept[path] / leaf.size for path, leaf in kernels.items()},
    }
  return compute


def nll_and_wrong(recipe: Recipe, variables: Mapping[str, Any], images: Array,
                  labels: Array) -> tuple[Array, Array]:
  """Returns (-log p(label) in nats, whether the label is missed) of each label."""
  if labels.ndim > 1:
    scores = token_scores_of(recipe, recipe.model, variables, images, labels)
    return scores.nll_nats, scores.wrong
  logits = logits_of(recipe.model, recipe.preprocess, variables, images, recipe.eval_kwargs,
                     recipe.mesh)
  chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)
  return -chosen, jnp.argmax(logits, axis=-1) != labels


def host_numbers(summary: Mapping[str, Array]) -> dict[str, float]:
  """Returns the summary as Python floats."""
  return {name: float(np.asarray(value)) for name, value in summary.items()}
