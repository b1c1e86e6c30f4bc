"""Training of what a recipe changed, by the ordinary trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich.console import Console

from experiments.compression.subject import Subject
from experiments.progress import Progress
from sparsejax.paths import fold
from sparsejax.regulariser import Regulariser, finalise
from sparsejax.training.fit import Recipe, TrainState, constant_one, deployed_collections
from sparsejax.training.loop import run_epochs

MOMENTUM = 0.9


def retrain(subject: Subject, model: Any, variables: dict[str, Any], regulariser: Regulariser, *,
            epochs: int, name: str, console: Console,
            learning_rate: Callable[[Any], Any] | None = None,
            optimiser: optax.GradientTransformation | None = None) -> tuple[dict[str, Any], float]:
  """Trains from `variables` on the run's training set; returns (deployed variables, last NLL).

  Args:
    model: whose variables these are: that of the run, or a compact one.
    regulariser: its params are trained, from `variables['params']` on.
    epochs: at least 1.
    name: of this stage: it gives the order of the examples, with the seed of the run.
    learning_rate: of the step, of SGD with momentum; or give the whole `optimiser`.

  Raises:
    ValueError: for none or both of learning_rate and optimiser, or for a recurrent state handed
      from window to window, which is not supported.
    NonFiniteLoss: if training diverges.
  """
  if (learning_rate is None) == (optimiser is None):
    raise ValueError('retrain takes a learning_rate or an optimiser, one of the two')
  if learning_rate is not None:
    optimiser = optax.sgd(learning_rate, momentum=MOMENTUM)
  recipe: Recipe = subject.recipe._replace(
      model=model, regulariser=regulariser, optimiser=optimiser, penalty_weight=constant_one,
      ema_decay=0.0)
  if recipe.sequential:
    raise ValueError('this recipe trains on shuffled examples, but the run reads a text in the '
                     'order of time; use a recipe that trains nothing')
  key = fold(jax.random.key(subject.config.seed), f'compress/{name}')
  assert key is not None
  params, method_state = regulariser.init(fold(key, 'regulariser'),
                                          jax.tree.map(jnp.asarray, variables['params']))
  collections = {other: tree for other, tree in variables.items() if other != 'params'}
  state = TrainState(params, method_state, jax.tree.map(jnp.asarray, collections),
                     recipe.optimiser.init(params), None, jnp.zeros((), jnp.int32), key)
  images, labels = jnp.asarray(subject.data.images), jnp.asarray(subject.data.labels)
  nll = float('nan')
  console.print(f'{name}: {epochs} epochs')
  with Progress(console, 0, epochs) as progress:
    for epoch in run_epochs(recipe, state, images, labels, last=epochs):
      state, nll = epoch.state, epoch.nll
      progress.show(epoch.number, {'train_nll_nats': nll})
  weights = finalise(regulariser, jax.device_get(state.params), state.method_state)
  return {'params': weights, **jax.device_get(deployed_collections(state.collections))}, nll


def steps_per_epoch(subject: Subject) -> int:
  """Returns the optimiser steps in an epoch of the run."""
  return len(subject.data.images) // subject.recipe.batch_size


def falling(rate: float, steps: int) -> Callable[[Any], Any]:
  """Returns the learning rate that falls linearly from `rate` to 0 in `steps`."""
  return optax.linear_schedule(rate, 0.0, steps)
