"""Weights to a file and back; the extension says which of the two formats.

`.sjx` is the container (`container.py`): smallest, with entropy coding, a model and facts beside
the weights. Any other name is a safetensors file (`weights_file.py`): larger, but its dense leaves
open in any program that reads safetensors. Both are lossless and checked as a whole.
"""
from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from sparsejax.codec import container, weights_file
from sparsejax.codec.container import Container
from sparsejax.paths import flatten
from sparsejax.structured import densify


class Loaded(NamedTuple):
  """A network from a file: a Flax model, its variables, and what else running it needs."""
  model: Any
  variables: dict[str, Any]
  facts: dict[str, Any]


def is_container(path: str | os.PathLike[str]) -> bool:
  """Returns whether the name is that of a container."""
  return os.fspath(path).endswith(container.EXTENSION)


def write(path: str | os.PathLike[str], weights: dict[str, Any], *, model: Any = None,
          facts: Mapping[str, Any] | None = None, coding: str | Mapping[str, str] | None = None,
          probabilities: Mapping[str, tuple[Any, Any]] | None = None,
          **provenance: str | int | float) -> int:
  """Writes weights atomically; returns the size of the file in bytes.

  Args:
    path: the file, `.sjx` for a container; its folder must exist.
    weights: nested dict, string keys, of arrays or packed weights.
    model, facts, coding, probabilities: of a container alone, see `container.write`.
    **provenance: strings, ints and finite floats that say where the weights come from.

  Raises: ValueError, naming the key or path, for what the file cannot hold.
  """
  if is_container(path):
    return container.write(path, weights, model=model, facts=facts, coding=coding or 'smallest',
                           probabilities=probabilities, provenance=provenance)
  given = [name for name, value in (('model', model), ('facts', facts), ('coding', coding),
                                    ('probabilities', probabilities)) if value is not None]
  if given:
    raise ValueError(f'{os.fspath(path)}: only a container holds {", ".join(given)}; name it '
                     f'*{container.EXTENSION}')
  return weights_file.write(path, weights, **provenance)


def open_container(path: str | os.PathLike[str]) -> Container:
  """Opens and checks a container, whose leaves are then decoded one by one.

  Raises: ValueError, naming the file, if it is damaged; FileNotFoundError if there is none.
  """
  return Container(path)


def read(path: str | os.PathLike[str], *, structured: bool = True) -> dict[str, Any]:
  """Returns what was written: the same structure, dtypes, shapes and bits.

  Args:
    structured: whether packed weights come back as they were; if not, as dense arrays.

  Raises: ValueError, naming the file, if it is damaged; FileNotFoundError if there is none.
  """
  if is_container(path):
    return Container(path).weights(structured)
  tree = weights_file.read(path)
  return tree if structured else jax.tree.map(np.asarray, densify(tree))


def read_provenance(path: str | os.PathLike[str]) -> dict[str, str | int | float]:
  """Returns the provenance given to `write`; checks the whole file, and raises, as `read` does."""
  if is_container(path):
    return Container(path).provenance()
  return weights_file.read_provenance(path)


def read_model(path: str | os.PathLike[str], *, structured: bool = True) -> Loaded:
  """Returns the network of a container: its Flax model, the variables, and the facts.

  Where the facts hold `input_shape`, of one example, and `input_dtype`, the variables are compared
  with those that the model would make.

  Raises:
    ValueError: if the file is damaged, names no model, or the weights are not those of the model.
  """
  file = Container(path)
  model, variables, facts = file.model(), file.weights(structured), file.facts()
  if 'params' not in variables:
    raise ValueError(f'{file.path} holds a model, but no params; it has {", ".join(variables)}')
  if 'input_shape' in facts:
    _require_fit(file.path, model, variables, facts)
  return Loaded(model, variables, facts)


def _require_fit(path: str, model: Any, variables: dict[str, Any], facts: dict[str, Any]) -> None:
  try:
    example = jax.ShapeDtypeStruct((1, *facts['input_shape']),
                                   np.dtype(facts.get('input_dtype', 'float32')))
    expected = jax.eval_shape(model.init, jax.random.key(0), example)
  except (TypeError, ValueError, ArithmeticError, LookupError) as error:
    raise ValueError(f'{path}: its model takes no input of shape {facts["input_shape"]}: '
                     f'{error}') from error
  wanted = {name: tuple(leaf.shape) for name, leaf in flatten(expected['params']).items()}
  found = {name: tuple(leaf.shape) for name, leaf in flatten(variables['params']).items()
           if not isinstance(leaf, dict)}
  if wanted != found:
    wrong = sorted(name for name in wanted.keys() | found.keys()
                   if wanted.get(name) != found.get(name))[0]
    raise ValueError(f'{path}: {wrong} has shape {found.get(wrong)} in the file, the model wants '
                     f'{wanted.get(wrong)}')
