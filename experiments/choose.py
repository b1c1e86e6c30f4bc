"""Choosing a number of the trained network on held-out data: a pruning threshold, say.

One training gives a whole curve of networks, because thresholds live in the state and are read only
when the network is deployed. The rule is fixed beforehand: of the candidates whose validation error
is within `slack_percent` points of the lowest, the one that keeps the fewest weights. The test set
is not touched.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from sparsejax.paths import flatten
from sparsejax.structured import densify
from sparsejax.training.evaluate import deployed_weights, nll_and_wrong
from sparsejax.training.fit import Recipe, TrainState, deployed_collections

Array = jax.Array


class Candidate(NamedTuple):
  """One value, the error it gives on the validation set and the weights it keeps."""

  value: float
  error_percent: float
  weights_kept: int


def choose(config: ml_collections.ConfigDict, recipe: Recipe, state: TrainState, images: Array,
           labels: Array) -> tuple[TrainState, str, list[Candidate]]:
  """Returns the state with the chosen number, what was done in words, and all candidates.

  Args:
    config: rule and number (its path in that rule's state), values to try, slack_percent.
    images, labels: of the validation set.
  """
  measure = jax.jit(lambda state, images, labels: _measure(recipe, state, images, labels))
  candidates = []
  for value in config['values']:
    error, kept = measure(_with(state, config, value), images, labels)
    candidates.append(Candidate(float(value), float(error), int(kept)))
  lowest = min(candidate.error_percent for candidate in candidates)
  within = [c for c in candidates if c.error_percent <= lowest + config.slack_percent + 1e-4]
  best = min(within, key=lambda candidate: candidate.weights_kept)
  words = (f'{config.rule}.{config.number} = {best.value:g} of '
           f'{", ".join(f"{c.value:g}" for c in candidates)}: fewest weights within '
           f'{config.slack_percent:g} points of the lowest validation error, {lowest:.2f} %')
  return _with(state, config, best.value), words, candidates


def require_number(config: ml_collections.ConfigDict, state: TrainState,
                   validation_set: bool) -> None:
  """Raises ValueError if there is nothing to choose on, or no such number to choose."""
  if not validation_set:
    raise ValueError('config.choose needs held-out data; set config.validation_examples, or leave '
                     'config.choose out to take the number as it is')
  rules = state.method_state
  if config.rule not in rules:
    raise ValueError(f'config.choose.rule={config.rule!r} is no rule; rules are '
                     f'{", ".join(sorted(rules))}')
  numbers = [path for path, value in flatten(rules[config.rule]).items() if jnp.ndim(value) == 0]
  if config.number not in numbers:
    raise ValueError(f'config.choose.number={config.number!r} is no number of rule '
                     f'{config.rule!r}; it has {", ".join(sorted(numbers)) or "none"}')


def _with(state: TrainState, config: Any, value: float) -> TrainState:
  def replaced(numbers, path):
    name, _, rest = path.partition('/')
    return {**numbers, name: replaced(numbers[name], rest) if rest else jnp.float32(value)}

  return state._replace(method_state=replaced(state.method_state,
                                              f'{config.rule}/{config.number}'))


def _measure(recipe: Recipe, state: TrainState, images: Array, labels: Array):
  weights = deployed_weights(recipe, state)
  variables = {'params': weights, **deployed_collections(state.collections)}
  _, wrong = nll_and_wrong(recipe, variables, images, labels)
  kept = sum(jnp.sum(leaf != 0) for leaf in flatten(densify(weights)).values() if leaf.ndim >= 2)
  return 100 * jnp.mean(wrong), kept
