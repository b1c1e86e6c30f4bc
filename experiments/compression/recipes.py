"""The recipes of `experiments.compress` by name, and their options.

A recipe is a module with `OPTIONS`, {name: default}, and
`compress(subject, options, console) -> Compressed`. Modules are imported when asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from experiments.names import known_name

RECIPES = {
    'lossless': 'experiments.compression.lossless',
    'int8': 'experiments.compression.int8',
    'codebook': 'experiments.compression.codebook',
    'deep_compression': 'experiments.compression.deep_compression',
    'soft_sharing': 'experiments.compression.soft_sharing',
}


class Compressed(NamedTuple):
  """What a recipe made of a run, ready to be written.

  Attributes:
    model: a Flax module. variables: its variables; leaves may be packed.
    coding: of the leaves, as `codec.write` takes it.
    stages: rows of JSON values, one for each thing that was done, in order.
    layers: rows of JSON values, one for each layer, where the recipe has such a table.
  """

  model: Any
  variables: dict[str, Any]
  coding: str | Mapping[str, str] = 'smallest'
  stages: tuple[dict[str, Any], ...] = ()
  layers: tuple[dict[str, Any], ...] = ()


def recipe(name: str) -> Any:
  """Returns the module of a recipe; raises ValueError, with the nearest, for an unknown name."""
  return importlib.import_module(RECIPES[known_name(name, RECIPES, '--recipe')])


def options(defaults: Mapping[str, Any], given: Iterable[str]) -> dict[str, Any]:
  """Returns the defaults with each 'name=value' of `given` in place, of the default's type.

  Raises:
    ValueError: for a name that is not known, or a value that is not of the type.
  """
  found = dict(defaults)
  for text in given:
    name, separator, value = text.partition('=')
    if not separator:
      raise ValueError(f'--set={text!r} must be name=value')
    known_name(name, defaults, '--set')
    kind = type(defaults[name])
    try:
      found[name] = kind(value)
    except ValueError as error:
      raise ValueError(f'--set={text!r}: {name} must be of type {kind.__name__}') from error
  return found
