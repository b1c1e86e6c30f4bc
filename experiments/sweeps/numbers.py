"""The numbers of a config that a compiled program can read as arrays, and the recipe they make.

Strengths and temperatures need nothing here: they live in the method's state. What a recipe closes
over is a constant of its program instead; of that, learning rates, a constant penalty weight and
the mean image are handed in, so that members which differ in them share a program. Other numbers,
such as the decay of an average, are not: 1 - 0.999 in float32 is not what it is in Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import build
from sparsejax.training.fit import Preprocess, Recipe

Array = jax.Array
LEARNING_RATE, PENALTY_WEIGHT, MEAN = 'learning_rate', 'penalty_weight', 'preprocess.mean'


def numbers_of(config: ml_collections.ConfigDict, recipe: Recipe) -> dict[str, np.ndarray]:
  """Returns {name: float32 array} of what `with_numbers` can replace; schedules are not among it"""
  found = {f'optimiser.{path}': value for path, value in _rates(config.optimiser)}
  if _is_number(config.penalty_weight):
    found[PENALTY_WEIGHT] = config.penalty_weight
  if isinstance(recipe.preprocess, Preprocess) and np.ndim(recipe.preprocess.mean):
    found[MEAN] = recipe.preprocess.mean
  return {name: np.asarray(value, np.float32) for name, value in found.items()}


def with_numbers(config: ml_collections.ConfigDict, recipe: Recipe, steps_per_epoch: int,
                 numbers: Mapping[str, Any]) -> Recipe:
  """Returns the recipe of the config with these numbers, which may be traced."""
  if any(name.startswith('optimiser.') for name in numbers):
    fields = _replaced(config.optimiser.to_dict(), 'optimiser', numbers)
    optimiser = build.optimiser(ml_collections.ConfigDict(fields), steps_per_epoch)
    recipe = recipe._replace(optimiser=optimiser)
  if PENALTY_WEIGHT in numbers:
    weight = numbers[PENALTY_WEIGHT]
    recipe = recipe._replace(penalty_weight=lambda step: weight)
  if MEAN in numbers:
    recipe = recipe._replace(preprocess=recipe.preprocess._replace(mean=numbers[MEAN]))
  return recipe


def stacked(numbers: list[dict[str, np.ndarray]]) -> dict[str, Array]:
  """Returns {name: (members, ...)} of those numbers that are not the same for all members."""
  return {name: jnp.asarray(np.stack([own[name] for own in numbers]))
          for name, first in numbers[0].items()
          if any(not np.array_equal(own[name], first) for own in numbers)}


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _rates(config: Any, path: str = ''):
  """Yields (path, value) of every learning rate that is a plain number, groups included."""
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      if 'schedule' not in value:
        yield from _rates(value, f'{path}{name}.')
    elif name == LEARNING_RATE and _is_number(value):
      yield f'{path}{name}', value


def _replaced(fields: dict[str, Any], path: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
  return {name: _replaced(value, f'{path}.{name}', numbers) if isinstance(value, dict)
          else numbers.get(f'{path}.{name}', value) for name, value in fields.items()}
