"""Data-parallel training: what is split over the devices of a mesh, and what each of them holds.

Examples are split along their first axis over the mesh's axis 'data'; everything else is held by
every device. The compiler does the rest: each device computes its part of the batch, gradients and
batch statistics are summed over the devices, and noise is drawn as on one device, for JAX's
counter-based bits do not depend on who computes them.

Every function takes None for "one device, no mesh" and then returns what it was given.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

AXIS = 'data'
T = TypeVar('T')


def split(mesh: Mesh | None, tree: T) -> T:
  """Returns the traced arrays (examples, ...) with their first axis over the devices.

  Raises:
    ValueError: where the number of examples is no multiple of the number of devices.
  """
  if mesh is None:
    return tree
  return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec(AXIS)))


def whole(mesh: Mesh | None, tree: T) -> T:
  """Returns the traced arrays as a whole on every device."""
  if mesh is None:
    return tree
  return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def pinned(mesh: Mesh | None, state: T, rows: Collection[str]) -> T:
  """Returns the traced TrainState where `state_shardings` says its arrays are."""
  if mesh is None:
    return state
  return jax.lax.with_sharding_constraint(state, state_shardings(mesh, state, rows))


def state_shardings(mesh: Mesh, state: Any, rows: Collection[str]) -> Any:
  """Returns a TrainState with the sharding of each array.

  Args:
    mesh: of the axis 'data'. state: a TrainState.
    rows: collections with a row for each example of the batch, which go with the examples.
  """
  everywhere = NamedSharding(mesh, PartitionSpec())
  with_examples = NamedSharding(mesh, PartitionSpec(AXIS))
  collections = {
      name: jax.tree.map(lambda _: with_examples if name in rows else everywhere, tree)
      for name, tree in state.collections.items()}
  return jax.tree.map(lambda _: everywhere, state)._replace(collections=collections)


def devices_of(mesh: Mesh | None) -> int:
  """Returns over how many devices examples are split."""
  return 1 if mesh is None else mesh.shape[AXIS]


def multiple_of(devices: int, size: int) -> int:
  """Returns the most examples up to `size` that devices can share alike, but one each at least."""
  return max(size // devices, 1) * devices


def place(mesh: Mesh | None, array: Any) -> jax.Array:
  """Returns the array of the host as a whole on every device of the mesh.

  With several processes each gives the same array, and each fills its own devices.
  """
  if mesh is None:
    return jnp.asarray(array)
  return _filled(array, NamedSharding(mesh, PartitionSpec()))


def place_state(mesh: Mesh | None, state: T, rows: Collection[str]) -> T:
  """Returns the TrainState, of the host or one device, where `state_shardings` says."""
  if mesh is None:
    return state
  raw, implementation = _raw(state)
  placed = jax.tree.map(_filled, raw, state_shardings(mesh, raw, rows))
  return placed._replace(key=jax.random.wrap_key_data(placed.key, impl=implementation))


def gather_state(mesh: Mesh | None, state: T) -> T:
  """Returns the TrainState as arrays of this process's first device, the inverse of `place_state`.

  With several processes each calls it, and each receives the whole.
  """
  if mesh is None:
    return state
  raw, implementation = _raw(state)
  gathered = jax.tree.map(lambda leaf: jnp.asarray(_on_host(leaf)), raw)
  return gathered._replace(key=jax.random.wrap_key_data(gathered.key, impl=implementation))


def _raw(state: Any) -> tuple[Any, str]:
  """Returns the state with the raw words of its key, and the key's kind."""
  return (state._replace(key=jax.random.key_data(state.key)),
          str(jax.random.key_impl(state.key)))


def _filled(array: Any, sharding: Sharding) -> jax.Array:
  array = np.asarray(array)
  return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _on_host(array: jax.Array) -> np.ndarray:
  if array.is_fully_addressable or array.is_fully_replicated:
    return np.asarray(array)
  return np.asarray(multihost_utils.process_allgather(array, tiled=True))
