"""Which networks a container may name, and their constructor arguments as JSON.

A header never names code: it picks from this list, and each argument must be a field of the class.
Initialisers and other functions are left out, for nobody initialises a network that has weights.
"""
from __future__ import annotations

import dataclasses
import importlib
from typing import Any

# Class name -> module; modules are imported when a file needs them.
MODELS = {
    'ConvNet': 'sparsejax.models.convnet',
    'DeepLSTM': 'sparsejax.models.deep_lstm',
    'LeNet5Caffe': 'sparsejax.models.lenet',
    'MLP': 'sparsejax.models.lenet',
    'RecurrentClassifier': 'sparsejax.models.recurrent',
    'RecurrentLanguageModel': 'sparsejax.models.recurrent',
    'StridedConvNet': 'sparsejax.models.strided_convnet',
}
MAX_INDEX = 1 << 24      # of inputs or units in a field: few bytes must not cost much memory
_NOT_FIELDS = ('parent', 'name')


def describe(model: Any) -> dict[str, Any]:
  """Returns {'name', 'fields'} of a model of `MODELS`; fields of another kind must be defaults.

  Raises:
    ValueError: for a class that is not listed, or a field that JSON does not hold.
  """
  name = type(model).__name__
  if MODELS.get(name) != type(model).__module__:
    raise ValueError(f'a {type(model).__module__}.{name} is not one of the networks that a file '
                     f'can name: {", ".join(sorted(MODELS))}; write its weights without model=')
  fields = {}
  for field in dataclasses.fields(model):
    value = getattr(model, field.name)
    if field.name in _NOT_FIELDS or callable(value):
      continue
    fields[field.name] = _to_json(value, f'{name}.{field.name}')
  return {'name': name, 'fields': fields}


def build(entry: dict[str, Any]) -> Any:
  """The inverse of `describe`.

  Raises:
    ValueError: for a name that is not listed, a field that the class does not have, or one that it
      refuses.
  """
  name = entry['name']
  if name not in MODELS:
    raise ValueError(f'model {name!r} is unknown; this sparsejax builds '
                     f'{", ".join(sorted(MODELS))}')
  kind = getattr(importlib.import_module(MODELS[name]), name)
  known = {field.name: field for field in dataclasses.fields(kind) if field.name not in _NOT_FIELDS}
  for field in entry['fields']:
    if field not in known:
      raise ValueError(f'model {name} has no field {field!r}; it has {", ".join(sorted(known))}')
  try:
    return kind(**{field: _from_json(value, f'{name}.{field}')
                   for field, value in entry['fields'].items()})
  except TypeError as error:
    raise ValueError(f'model {name} cannot be built: {error}') from error


def _to_json(value: Any, where: str) -> Any:
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  if isinstance(value, (tuple, list)):
    runs = _runs(value)
    if runs is not None:
      return {'runs': runs}
    return [_to_json(item, where) for item in value]
  raise ValueError(f'{where} is a {type(value).__name__}; a file holds numbers, strings, None and '
                   'tuples of them')


def _from_json(value: Any, where: str) -> Any:
  if isinstance(value, list):
    return tuple(_from_json(item, where) for item in value)
  if not isinstance(value, dict):
    return value
  runs = value.get('runs')
  if set(value) != {'runs'} or not isinstance(runs, list) or not runs or len(runs) % 2 or not all(
      type(n) is int and n >= 0 for n in runs) or sum(runs) > MAX_INDEX:
    raise ValueError(f'{where} is no run of indices')
  found: list[int] = []
  place = 0
  for skipped, taken in zip(runs[::2], runs[1::2], strict=False):
    found += range(place + skipped, place + skipped + taken)
    place += skipped + taken
  return tuple(found)


def _runs(value: tuple[Any, ...] | list[Any]) -> list[int] | None:
  """[skipped, taken, skipped, taken, ...] of ascending indices, None if it is no shorter."""
  ascending = all(type(n) is int for n in value) and all(
      a < b for a, b in zip(value, value[1:], strict=False)) and len(value) > 2 and value[0] >= 0
  if not ascending:
    return None
  runs: list[int] = []
  place = 0
  for index in value:
    if index > place or not runs:
      runs += [index - place, 0]
    runs[-1] += 1
    place = index + 1
  return runs if len(runs) < len(value) and place <= MAX_INDEX else None
