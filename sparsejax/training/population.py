"""A population: several runs of one program, stacked along a first axis and trained side by side.

The members of a population share the model, the method and every shape. What may differ is what the
program reads as arrays: the state before the first step (weights, strengths and temperatures, which
live in `method_state`, and the key), the numbers that `build` makes a member's recipe from, such as
a learning rate, and the rows of the data that are a member's examples.

  def build(learning_rate):
    return recipe._replace(optimiser=optax.adam(learning_rate))

  states = stack([start(build(rate), jax.random.key(0), images) for rate in rates])
  for epoch in run_epochs(build, jnp.array(rates), states, images, labels, last=10):
    ...

On an accelerator members run side by side; on a CPU in turn, and over a mesh each device has its
share of them (`each_member`). Every member gets what it would get alone but for rounding, about
1e-7 relative in a step: the draws are bit-identical, the products run in other loops. Where a
gradient is nothing but rounding, as that of a bias before a batch-norm, Adam makes whole steps of
it, here and alone. A member whose loss or parameters are no longer finite stays as it was before
that epoch; the others go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sparsejax.training import evaluate, fit
from sparsejax.training.each_member import (each_member, gather, place_members, place_shared,
                                            place_states)
from sparsejax.training.fit import Recipe, TrainState
from sparsejax.training.loop import NOT_REPRODUCED, NonFiniteLoss, diagnose
from sparsejax.training.sharding import devices_of

Array = jax.Array
Build = Callable[[Any], Recipe]     # one member's numbers, perhaps traced -> its recipe

DEVICE_SHARE, HOST_SHARE = 0.8, 0.5  # of the free memory; a host has other things to do


class PopulationEpoch(NamedTuple):
  """What one epoch left behind.

  Attributes:
    number: counts from 1. states: of all members. nll: mean over the steps in nats, float64
      (members,), NaN for those that had diverged before or did so now.
    diverged: {member: what happened}, of those that did so in this epoch.
  """

  number: int
  states: TrainState
  nll: np.ndarray
  diverged: dict[int, NonFiniteLoss]


def stack(states: Sequence[TrainState]) -> TrainState:
  """Returns the states as one, each array with a first axis over the members.

  `step` stays a scalar, for members march in step, and so does the key where all share one: their
  order of examples and their noise are then computed once.

  Raises:
    ValueError: for no state, or states of other paths, shapes, dtypes or steps.
  """
  if not states:
    raise ValueError('a population needs at least one state')
  first = states[0]
  for number, state in enumerate(states[1:], 1):
    if forms(state) != forms(first):
      raise ValueError(f'member {number} is not of the form of member 0: '
                       f'{_first_difference(forms(first), forms(state))}; train it by itself')
    if int(state.step) != int(first.step):
      raise ValueError(f'member {number} is at step {int(state.step)} and member 0 at '
                       f'{int(first.step)}; a population marches in step')
  keys = jnp.stack([state.key for state in states])
  words = np.asarray(jax.random.key_data(keys))
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
  return stacked._replace(step=first.step, key=first.key if np.all(words == words[0]) else keys)


def member(states: TrainState, index: int | np.ndarray) -> TrainState:
  """Returns the state of one member, or the population of some, for an array of indices."""
  key = states.key[index] if states.key.ndim else states.key
  own = [jax.tree.map(lambda leaf: leaf[index], tree) for tree in states[:-2]]
  return TrainState._make([*own, states.step, key])


def size(states: TrainState) -> int:
  """Returns the number of members."""
  return int(jax.tree.leaves(states.params)[0].shape[0])


def forms(state: TrainState) -> dict[str, str]:
  """Returns {path: 'float32 (3, 2)'} of a state's arrays, by which members are alike."""
  leaves = jax.tree_util.tree_flatten_with_path(state)[0]
  return {jax.tree_util.keystr(path, simple=True, separator='/'): f'{leaf.dtype} {leaf.shape}'
          for path, leaf in leaves}


def _first_difference(one: dict[str, str], other: dict[str, str]) -> str:
  name = min(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
  return f'{name} is {one.get(name, "absent")} in one and {other.get(name, "absent")} in the other'


def train_epoch(build: Build, numbers: Any, states: TrainState, alive: Array, images: Array,
                targets: Any, rows: Array | None = None, mesh: Mesh | None = None,
                in_turn: bool | None = None) -> tuple[TrainState, Array, Array]:
  """Runs one epoch of every member as one scan.

  Args:
    build: a member's numbers -> its recipe. numbers: a tree with a first axis over the members.
    alive: bool (members,); the others stay as they are.
    images, targets: shared by all. rows: int32 (n,) or (members, n), which of them are a member's
      examples, in its order; None for all.
    mesh, in_turn: as for `each_member`.

  Returns: (states, NLL of each step (members, steps), whether the epoch was finite (members,)).
  Where it was not, or the member is not alive, it is as before, but for `step`, which all share.
  """
  own_rows, shared_rows = (None, rows) if rows is None or rows.ndim == 1 else (rows, None)

  def one(state, own, shared, real):
    numbers, alive, own_rows = own
    images, targets, shared_rows = shared
    recipe, before = build(numbers), tuple(state[:-2])            # all but step and key
    chosen = shared_rows if own_rows is None else own_rows

    def train():
      new, nll = fit.train_epoch(recipe, state, images, targets, chosen)
      finite = jnp.all(jnp.isfinite(nll))
      for leaf in jax.tree.leaves(new.params):
        finite &= jnp.all(jnp.isfinite(leaf))
      kept = jax.tree.map(lambda after, before: jnp.where(finite, after, before),
                          tuple(new[:-2]), before)
      return kept, nll.astype(float), finite

    def leave():
      examples = len(images if chosen is None else chosen)
      return before, jnp.full(examples // recipe.batch_size, jnp.nan), jnp.bool_(False)
    # Side by side both are computed; in turn, a member that is not trained takes no time.
    return jax.lax.cond(alive & real, train, leave)

  kept, nll, finite = each_member(one, states, (numbers, alive, own_rows),
                                  (images, targets, shared_rows), mesh, in_turn)
  return TrainState._make([*kept, states.step + nll.shape[1], states.key]), nll, finite


def jit_epoch(build: Build, mesh: Mesh | None = None, in_turn: bool | None = None) -> Any:
  """Returns the jitted `train_epoch` without its first argument."""
  def epoch(numbers, states, alive, images, targets, rows=None):
    return train_epoch(build, numbers, states, alive, images, targets, rows, mesh, in_turn)
  return jax.jit(epoch)


def jit_summary(build: Build, mesh: Mesh | None = None,
                in_turn: bool | None = None) -> Callable[..., dict[str, Array]]:
  """Returns the compiled (numbers, states, images, labels, rows=None) -> {name: (members,)}.

  The numbers are those of `evaluate.jit_summary`, of each member's deployed network.
  """
  def summary(numbers, states, images, labels, rows=None):
    own_rows, shared_rows = (None, rows) if rows is None or rows.ndim == 1 else (rows, None)

    def one(state, own, shared, real):
      del real
      numbers, own_rows = own
      images, labels, shared_rows = shared
      chosen = shared_rows if own_rows is None else own_rows
      if chosen is not None:
        images, labels = images[chosen], labels[chosen]
      return evaluate.jit_summary(build(numbers))(state, images, labels)
    return each_member(one, states, (numbers, own_rows), (images, labels, shared_rows), mesh,
                       in_turn)
  return jax.jit(summary)


def run_epochs(build: Build, numbers: Any, states: TrainState, images: Array, targets: Any, *,
               rows: Array | None = None, alive: Sequence[bool] | None = None, first: int = 1,
               last: int, epoch: Callable[..., Any] | None = None, mesh: Mesh | None = None
               ) -> Iterator[PopulationEpoch]:
  """Trains from epoch `first` to `last`, both included, and yields after each.

  Ends early once no member is alive.

  Args:
    numbers, rows: as in `train_epoch`. alive: members to train; all by default.
    epoch: the compiled program, if the caller has it: `jit_epoch(build)` or what it compiles to.
    mesh: devices to share the members out to. The arrays then are where `each_member` has them.
  """
  epoch = epoch or jit_epoch(build, mesh)
  living = np.ones(size(states), bool) if alive is None else np.array(alive, bool)
  for number in range(first, last + 1):
    if not living.any():
      return
    step = states.step
    states, per_step, finite = epoch(numbers, states, place_members(mesh, jnp.asarray(living)),
                                     images, targets, rows)
    losses, finite = np.asarray(per_step, np.float64), np.asarray(finite)
    diverged = {}
    for index in map(int, np.flatnonzero(living & ~finite)):
      before = member(states, index)._replace(step=step)
      diverged[index] = _diagnose(
          build, *gather(mesh, (numbers, before, images, targets, rows)), index, losses[index],
          number)
    living &= finite
    means = np.full(len(living), np.nan)
    means[living] = losses[living].mean(axis=1)
    yield PopulationEpoch(number, states, means, diverged)


def _diagnose(build, numbers, before, images, targets, rows, index, losses, number):
  """Returns what the member would have raised alone; where it would not, its first bad step here"""
  own = jax.tree.map(lambda leaf: leaf[index], numbers)
  if rows is not None:
    mine = rows if rows.ndim == 1 else rows[index]
    images, targets = images[mine], jax.tree.map(lambda leaf: leaf[mine], targets)
  found = diagnose(build(own), before, images, targets, number)
  bad = np.flatnonzero(~np.isfinite(losses))
  if found.leaf == NOT_REPRODUCED and len(bad):
    return NonFiniteLoss(number, int(bad[0]), 'not reproduced alone', before)
  return found


class Fitting(NamedTuple):
  """How many members are trained at once, and why.

  Attributes:
    members: at most as many as asked for, at least 1. bytes_used: on each device, by the program
      of as many as were asked for. bytes_free: what it may use there, None if unknown.
  """

  members: int
  bytes_used: int
  bytes_free: int | None


def fitting(build: Build, numbers: Any, states: TrainState, images: Array, targets: Any,
            rows: Array | None = None, bytes_free: int | None = None,
            mesh: Mesh | None = None) -> tuple[Fitting, Callable[..., Any]]:
  """Compiles the epoch of a population and says how many of its members fit into memory.

  Args: as of `train_epoch`; forms (jax.ShapeDtypeStruct) will do for arrays.
    bytes_free: what may be used, of each device; by default what `memory_free` says.
    mesh: devices to share the members out to.

  Returns: (fitting, the compiled epoch of all members). The memory of fewer is taken to be in
    proportion, the data apart, which is there once.
  """
  members = size(states)
  alive = jax.ShapeDtypeStruct((members,), bool)
  own_rows, rows = (None, rows) if rows is None or rows.ndim == 1 else (rows, None)
  numbers, alive, own_rows = place_members(mesh, (numbers, alive, own_rows))
  images, targets, rows = place_shared(mesh, (images, targets, rows))
  arguments = (numbers, place_states(mesh, states), alive, images, targets,
               rows if own_rows is None else own_rows)
  compiled = jit_epoch(build, mesh).lower(*arguments).compile()
  used, shared = _program_bytes(compiled, arguments), _bytes((images, targets))
  free = memory_free(mesh) if bytes_free is None else bytes_free
  devices = devices_of(mesh)
  fit_on_each = that_fit(-(-members // devices), used, shared, free)
  return Fitting(min(members, devices * fit_on_each), used, free), compiled


def that_fit(members: int, used: int, shared: int, free: int | None) -> int:
  """Returns how many of the members fit, at least 1: all of them take `used` bytes, of which
  `shared` are there once, and `free` may be used, None for as many as there are."""
  if free is None or used <= free:
    return members
  each = max(1.0, (used - shared) / members)
  return int(max(1, min(members, (free - shared) // each)))


def memory_free(mesh: Mesh | None = None) -> int | None:
  """Returns how many bytes a population may use on each device, or None if nobody knows."""
  stats = jax.devices()[0].memory_stats()
  if stats and 'bytes_limit' in stats:
    return int(DEVICE_SHARE * (stats['bytes_limit'] - stats.get('bytes_in_use', 0)))
  try:
    free = HOST_SHARE * os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return int(free / devices_of(mesh))         # CPU devices have one memory together
  except (AttributeError, ValueError, OSError):
    return None


def _program_bytes(compiled: Any, arguments: Any) -> int:
  """Returns the bytes of arguments, results and scratch; without an analysis, thrice the former."""
  found = compiled.memory_analysis()
  if found is None:
    return 3 * _bytes(arguments)
  return (found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
          - found.alias_size_in_bytes)


def _bytes(tree: Any) -> int:
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
             if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))
