"""One function for every member of a population: side by side, in turn, or over the devices of a
mesh.

Side by side (vmap) is for accelerators, which have room to spare in the products of one member. On
a CPU members are taken in turn, inside of the same program: a product with an axis over the members
is no faster than so many products, and its derivative is slower. XLA writes the gradient of a
kernel, for one member, in the order in which it is added to the kernel; with an axis over members
it writes the transpose, which Adam then reads across the grain. One member of LeNet-300-100 took
1.6 times as long as a run without a population, and 8 took 12 times.

Over a mesh each device has its share of the members, and nothing is sent between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sparsejax.training.fit import TrainState
from sparsejax.training.sharding import AXIS, devices_of

Array = jax.Array
T = TypeVar('T')


def each_member(one: Callable[[TrainState, Any, Any, Any], Any], states: TrainState, own: Any,
                shared: Any, mesh: Mesh | None = None, in_turn: bool | None = None) -> Any:
  """Returns what `one` gives for each member, every array with a first axis over them.

  Args:
    one: (state, own, shared, real) -> tree of arrays. Where the members do not fill all devices
      `real` is False for copies that do, whose results are dropped.
    states: of all members, see `population.stack`.
    own: tree of arrays with a first axis over the members. shared: tree of arrays.
    mesh: devices among which the members are shared out; None for one.
    in_turn: one after the other; by default on CPUs.
  """
  turns = on_cpu(mesh) if in_turn is None else in_turn
  shared_key = states.key.ndim == 0
  common = (states.step, states.key if shared_key else None)
  moving = (tuple(states[:-2]), None if shared_key else states.key, own)

  def here(moving, common, shared, real):
    def member(arguments):
      (trees, key, own), real = arguments
      state = TrainState._make([*trees, common[0], common[1] if key is None else key])
      return one(state, own, shared, real)
    return jax.lax.map(member, (moving, real)) if turns else jax.vmap(member)((moving, real))

  members = len(jax.tree.leaves(states.params)[0])
  if mesh is None:
    return here(moving, common, shared, jnp.ones(members, bool))
  lanes = -(-members // devices_of(mesh)) * devices_of(mesh)
  filled = jnp.arange(lanes)
  if lanes > members:
    moving = jax.tree.map(lambda leaf: leaf[filled % members], moving)
  spread, everywhere = PartitionSpec(AXIS), PartitionSpec()
  # No collective runs inside, so there is nothing for the check of replication to check.
  found = jax.shard_map(here, mesh=mesh, in_specs=(spread, everywhere, everywhere, spread),
                        out_specs=spread, check_vma=False)(moving, common, shared, filled < members)
  if lanes > members:
    found = jax.tree.map(lambda leaf: leaf[:members], found)
  return jax.lax.with_sharding_constraint(found, members_sharding(mesh, members))


def on_cpu(mesh: Mesh | None) -> bool:
  """Whether the devices are CPUs."""
  device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
  return device.platform == 'cpu'


def members_sharding(mesh: Mesh, members: int) -> NamedSharding:
  """Returns where arrays with a first axis over the members are between two programs.

  Each device holds those of its members; all of them where members cannot be shared out alike.
  """
  even = members % devices_of(mesh) == 0
  return NamedSharding(mesh, PartitionSpec(AXIS) if even else PartitionSpec())


def place_members(mesh: Mesh | None, tree: T) -> T:
  """Returns the arrays, or their forms, with a first axis over the members where they belong."""
  if mesh is None:
    return tree
  return jax.tree.map(lambda leaf: _put(leaf, members_sharding(mesh, len(leaf))), tree)


def place_shared(mesh: Mesh | None, tree: T) -> T:
  """Returns the arrays, or their forms, as a whole on every device."""
  if mesh is None:
    return tree
  return jax.tree.map(lambda leaf: _put(leaf, NamedSharding(mesh, PartitionSpec())), tree)


def place_states(mesh: Mesh | None, states: TrainState) -> TrainState:
  """Returns the states of all members, or their forms, where they belong."""
  if mesh is None:
    return states
  key = (place_members if states.key.ndim else place_shared)(mesh, states.key)
  trees = place_members(mesh, tuple(states[:-2]))
  return TrainState._make([*trees, place_shared(mesh, states.step), key])


def gather(mesh: Mesh | None, tree: T) -> T:
  """Returns the arrays on the first device of the mesh."""
  return tree if mesh is None else jax.device_put(tree, mesh.devices.flat[0])


def _put(leaf: Any, sharding: NamedSharding) -> Any:
  if isinstance(leaf, jax.ShapeDtypeStruct):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
  return jax.device_put(leaf, sharding)
