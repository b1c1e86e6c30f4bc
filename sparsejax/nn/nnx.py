"""flax.nnx modules: their weights out as a nested dict, and a module back from weights.

  weights = weights_of(module)
  params, state = regulariser.init(key, weights)
  def loss(params):
    return nll(with_weights(module, regulariser.weights(params, state, key))(x))

This serves every method that draws plain arrays (noise='weight', per='batch', masks) and
compaction's slices. NNX layers cannot be intercepted, so structured weights are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sparsejax.paths import Tree, flatten, unflatten
from sparsejax.structured import is_structured

Array = jax.Array


def weights_of(module: nnx.Module) -> Tree:
  """Returns the arrays of the module's nnx.Param variables, as a nested dict with string keys.

  An index of a list is a string: {'layers': {'0': {'kernel': ...}}}. A parameter that two layers
  share is listed once.

  Raises:
    ValueError: for two paths that read alike, such as the keys 0 and '0' of one dict.
  """
  places = _by_path(nnx.state(module, nnx.Param))
  return unflatten({path: variable.get_value() for path, (_, variable) in places.items()})


def with_weights(module: nnx.Module, weights: Mapping[str, Any]) -> Any:
  """Returns a copy of the module whose nnx.Param variables hold `weights`.

  The module itself is untouched, also by what the copy does to its batch statistics or its RNG
  counters: read those from the copy.

  Args:
    module: any flax.nnx module.
    weights: the tree of `weights_of(module)`: the same paths and shapes. Its dtypes are kept.

  Raises:
    ValueError: for a path missing or unknown, another shape, or a structured weight.
  """
  graph, params, *rest = nnx.split(module, nnx.Param, ...)
  places, given = _by_path(params), flatten(weights)
  missing, unknown = sorted(places.keys() - given), sorted(given.keys() - places)
  if missing or unknown:
    raise ValueError(f'weights lack {missing} and have the unknown {unknown}; the parameters of '
                     f'{type(module).__name__} are {", ".join(places)}')
  new = []
  for path, (place, variable) in places.items():
    leaf = given[path]
    if is_structured(leaf):
      raise ValueError(f'a {type(leaf).__name__} weight at {path} cannot enter an nnx module, '
                       "whose layers read plain arrays; use noise='weight', per='batch' or densify")
    if jnp.shape(leaf) != variable.get_value().shape:
      raise ValueError(f'{path} is {jnp.shape(leaf)}, the module has {variable.get_value().shape}; '
                       'build a module of the new widths first')
    new.append((place, variable.replace(leaf)))
  return nnx.merge(graph, nnx.from_flat_state(new), *rest, copy=True)


def _by_path(params: nnx.State) -> dict[str, tuple[tuple[Any, ...], Any]]:
  """Returns {'/'-joined path: (path as NNX has it, variable)}."""
  paths: dict[str, tuple[tuple[Any, ...], Any]] = {}
  for place, variable in nnx.to_flat_state(params):
    path = '/'.join(map(str, place))
    if path in paths:
      raise ValueError(f'the paths {paths[path][0]} and {place} both read {path}; rename one')
    paths[path] = (place, variable)
  return paths
