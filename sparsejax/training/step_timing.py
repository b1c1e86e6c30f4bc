"""Milliseconds of a training step on dense, masked and packed weights.

The step is what a user pays: gradients of the mean loss, the optimiser, new weights. Nothing of a
method is in it, so that the three differ by the weights alone.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from sparsejax.apply import apply
from sparsejax.ledger.timing import interleaved_milliseconds
from sparsejax.paths import Tree, flatten, unflatten
from sparsejax.structured import Packed, densify
from sparsejax.training.fit import Recipe

Array = jax.Array


def training_step_milliseconds(recipe: Recipe, model: Any, variables: Tree, images: Array,
                               targets: Any, repeats: int = 15) -> dict[str, float]:
  """Returns the ledger's keys `ms_train_step_dense`, `_masked` and `_packed`, with quartiles.

  Args:
    recipe: its optimiser, preprocessing and loss are used.
    model: the network the weights belong to. variables: its collections; weights may be packed.
    images, targets: one batch.
    repeats: timed steps of each.
  """
  params = variables['params']
  others = {name: tree for name, tree in variables.items() if name != 'params'}
  dense = densify(params)
  masks = {path: (leaf != 0).astype(leaf.dtype) for path, leaf in flatten(dense).items()
           if isinstance(flatten(params)[path], Packed)}
  steps = {'dense': (dense, {}), 'masked': (dense, masks), 'packed': (params, {})}
  calls = {name: _step(recipe, model, tree, mask, others, images, targets)
           for name, (tree, mask) in steps.items()}
  times = interleaved_milliseconds(calls, repeats=repeats, warmup=2)
  return {f'ms_train_step_{name}{suffix}': summary[key] for name, summary in times.items()
          for suffix, key in (('', 'median'), ('_lower_quartile', 'lower_quartile'),
                              ('_upper_quartile', 'upper_quartile'))}


def split_floats(tree: Any) -> tuple[list[Array], Any]:
  """Returns the floating leaves, and the function that puts others in their places."""
  leaves, structure = jax.tree.flatten(tree)
  floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

  def rebuild(values):
    rest = iter(values)
    return jax.tree.unflatten(structure, [next(rest) if own else leaf
                                          for leaf, own in zip(leaves, floating)])
  return [leaf for leaf, own in zip(leaves, floating) if own], rebuild


def _step(recipe, model, params, masks, others, images, targets):
  values, _ = split_floats(params)

  @jax.jit
  def step(params, values, optimiser, masks, images, targets):
    _, rebuild = split_floats(params)

    def loss(values):
      weights = flatten(rebuild(values))
      weights |= {path: weights[path] * mask for path, mask in masks.items()}
      logits = apply(model, {'params': unflatten(weights), **others}, recipe.preprocess(images),
                     **recipe.eval_kwargs)
      return recipe.loss(logits.astype(jnp.float32), targets).mean()
    updates, optimiser = recipe.optimiser.update(jax.grad(loss)(values), optimiser, values)
    return optax.apply_updates(values, updates), optimiser
  optimiser = recipe.optimiser.init(values)
  return lambda: step(params, values, optimiser, masks, images, targets)
