"""Compaction: from a network with exact zeros to a smaller dense network of the same function.

Two rules, applied to a fixed point over the couplings of a model:

* a unit that no needed unit reads is cut out;
* a unit whose incoming weights are all zero emits a constant: what its readers make of it is
  folded into their biases, after which nobody reads it.

The arrays keep their full size, in float64, until the end, so that indices never shift; dead slices
become zeros, and these zeros are what kills the next unit. Everything runs on the host in NumPy.

A model takes part by two methods, `couplings(variables, example_shape)` (couplings.py) and
`compacted(alive, params)`, which returns the model of the smaller network: `alive` is {coupling's
name: bool mask over its units}, `params` the sliced weights, from which a model can read widths
and the presence of a created leaf.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sparsejax.compaction.couplings import Axis, Coupling, Read
from sparsejax.compaction.kept import Kept
from sparsejax.paths import flatten, unflatten


class Compacted(NamedTuple):
  """A smaller network, and what it kept of the one before."""

  model: Any
  variables: dict[str, Any]
  kept: Kept


def compact(model: Any, variables: dict[str, Any], couplings: Sequence[Coupling] | None = None, *,
            example_shape: tuple[int, ...] | None = None) -> Compacted:
  """Cuts out every unit whose death leaves the function of the network unchanged.

  The function meant is the deployed one: batch-norm reads its running statistics.

  Args:
    model: a model with the methods named above.
    variables: {'params': weights, ...}, dense arrays with exact zeros.
    couplings: in place of the model's own.
    example_shape: shape of the model's input (B, ...), for couplings that need the image's size.

  Returns:
    The smaller model, its variables in the dtypes of the given ones, and what was kept. No row of
    units becomes empty: of a row without any live unit one stays, which `kept.notes` says.

  Raises:
    ValueError: for a model without the methods, a leaf that is not a finite dense array, or
      couplings that do not fit the variables.
  """
  for hook in ('compacted',) if couplings is not None else ('compacted', 'couplings'):
    if not callable(getattr(model, hook, None)):
      raise ValueError(f'{type(model).__name__} has no method {hook!r}, so its compact form is '
                       f'unknown; add it as sparsejax.models.lenet does')
  if couplings is not None and example_shape is not None:
    raise ValueError('example_shape is for the couplings of the model; give it or couplings')
  leaves = _leaves(variables)
  if couplings is None:
    couplings = model.couplings(variables, example_shape)
  network = _Network({path: _as_float64(path, leaf) for path, leaf in leaves.items()}, couplings)
  while network.drop_unneeded() | network.fold_constants():
    pass
  notes = (*network.given_up(), *network.revive())
  axes = network.kept_axes()
  dtypes = {path: np.asarray(leaf).dtype for path, leaf in leaves.items()}
  dtypes |= {path: dtypes[source] for path, source in network.created.items()}

  def final(path, array):
    return array[np.ix_(*axes[path])].astype(dtypes[path])

  small = {path: final(path, array) for path, array in network.leaves.items()}
  added = {path: final(path, total) for path, total in network.added.items()}
  tree = _variables(small, tuple(variables))
  kept = Kept(axes, {path: array.shape for path, array in network.leaves.items()},
              {name: np.flatnonzero(mask) for name, mask in network.alive.items()},
              added, tuple(network.created), notes)
  return Compacted(model.compacted(network.alive, tree['params']), tree, kept)


class _Network:
  """The leaves at full size, and which units are alive."""

  def __init__(self, leaves: dict[str, np.ndarray], couplings: Sequence[Coupling]):
    self.leaves = leaves
    self.couplings = tuple(couplings)
    self.alive = {c.name: np.ones(c.units(leaves), bool) for c in self.couplings}
    if len(self.alive) != len(self.couplings):
      raise ValueError(f'names of couplings repeat: {[c.name for c in self.couplings]}')
    self.added: dict[str, np.ndarray] = {}       # what was folded into a leaf, by its path
    self.created: dict[str, str] = {}            # path of a made leaf -> the kernel that asked
    for coupling in self.couplings:
      for axis in (*coupling.writes, *coupling.reads):
        if axis.path in leaves:
          self.unit_of(coupling, axis)           # lengths are checked before anything is done

  def unit_of(self, coupling: Coupling, axis: Axis) -> np.ndarray:
    """The unit of each index of the axis."""
    return axis.unit_of(self.leaves[axis.path].shape[axis.axis], len(self.alive[coupling.name]))

  def claims(self, path: str, kinds: tuple[str, ...] = ('writes', 'reads')):
    """Yields (coupling, axis) for each that names the leaf."""
    for coupling in self.couplings:
      for kind in kinds:
        for axis in getattr(coupling, kind):
          if axis.path == path:
            yield coupling, axis

  def nonzero(self, coupling: Coupling, axis: Axis, array: np.ndarray) -> np.ndarray:
    """(units,): whether any entry of `array`, shaped as the leaf, belongs to the unit."""
    index_hit = array.any(_others(array, axis))
    unit_hit = np.zeros(len(self.alive[coupling.name]), bool)
    np.logical_or.at(unit_hit, self.unit_of(coupling, axis), index_hit)
    return unit_hit

  def clear(self, coupling: Coupling, axis: Axis, dead: np.ndarray) -> None:
    """Sets the slices of the dead units to zero."""
    leaf = self.leaves[axis.path]
    leaf *= _along(~dead[self.unit_of(coupling, axis)], leaf, axis)

  def drop_unneeded(self) -> bool:
    """Clears the units that no chain of nonzero weights connects to an output.

    Starts from no unit needed: then units that read only one another (recurrence) die as well.
    """
    before = self.alive
    self.alive = {name: np.zeros_like(mask) for name, mask in before.items()}
    grown = True
    while grown:
      grown = False
      for coupling in reversed(self.couplings):
        needed = np.zeros_like(self.alive[coupling.name])
        for read in coupling.reads:
          useful = self.leaves[read.path] != 0
          for writer, write in self.claims(read.path, ('writes',)):
            useful &= _along(self.alive[writer.name][self.unit_of(writer, write)], useful, write)
          needed |= self.nonzero(coupling, read, useful)
        grown |= bool((needed != self.alive[coupling.name]).any())
        self.alive[coupling.name] = needed
    for coupling in self.couplings:
      weights = [write for write in coupling.writes if write.role == 'weight']
      for axis in (*weights, *coupling.reads):
        self.clear(coupling, axis, ~self.alive[coupling.name])
    return any((before[name] != mask).any() for name, mask in self.alive.items())

  def constant(self, coupling: Coupling) -> np.ndarray:
    """(units,): alive, although all incoming weights are zero or scaled by zero."""
    weights = [write for write in coupling.writes if write.role == 'weight']
    if not weights:
      return np.zeros_like(self.alive[coupling.name])
    fed = np.zeros_like(self.alive[coupling.name])
    for weight in weights:
      signal = self.nonzero(coupling, weight, self.leaves[weight.path] != 0)
      for scale in coupling.writes:
        if scale.scales == weight.path:
          signal &= self.nonzero(coupling, scale, self.leaves[scale.path] != 0)
      fed |= signal
    return self.alive[coupling.name] & ~fed

  def blocked(self, read: Read) -> str:
    """Why this reader cannot take a constant; '' if it can."""
    if read.emits is None:
      return f'what {read.path} is handed is not known to be constant'
    if read.into in self.leaves or (read.into is not None and read.creates):
      return ''
    return f'{read.path} has no bias to take what they emit'

  def fold_constants(self) -> bool:
    """Folds every constant unit into its readers and clears what read it.

    A unit goes only if each of its readers is handed zero or can take what it is handed.
    """
    folded = False
    for coupling in self.couplings:
      constant = self.constant(coupling)
      emitters = [read.emits for read in coupling.reads if read.emits is not None]
      if not constant.any() or len(emitters) < len(coupling.reads):
        continue
      emissions = [np.where(constant, emits(self.leaves), 0.0) for emits in emitters]
      for read, emission in zip(coupling.reads, emissions, strict=True):
        if not np.isfinite(emission).all():
          raise ValueError(f'coupling {coupling.name!r}: a constant unit hands {read.path} a value '
                           'that is not finite; check its bias and its running statistics')
        if self.blocked(read):
          constant &= ~emission.any(tuple(range(emission.ndim - 1)))
      for read, emission in zip(coupling.reads, emissions, strict=True):
        emission = np.where(constant, emission, 0.0)
        if emission.any() and read.into is not None:   # else `blocked` has left the unit alone
          self.add(read.into, read.fold(read.spread(emission), self.leaves[read.path]), read.path)
        self.clear(coupling, read, constant)
      folded |= bool(constant.any())
    return folded

  def add(self, path: str, delta: np.ndarray, kernel: str) -> None:
    if path not in self.leaves:
      self.leaves[path] = np.zeros(delta.shape)
      self.created[path] = kernel
    if self.leaves[path].shape != delta.shape:
      raise ValueError(f'a constant folded through {kernel} has shape {delta.shape}, but {path} '
                       f'has {self.leaves[path].shape}; check the example_shape')
    self.leaves[path] += delta
    self.added[path] = self.added.get(path, 0) + delta

  def given_up(self) -> tuple[str, ...]:
    """A sentence for each row in which constant units stay."""
    notes = []
    for coupling in self.couplings:
      stay = np.flatnonzero(self.constant(coupling))
      if stay.size:
        why = '; '.join(filter(None, (self.blocked(read) for read in coupling.reads)))
        notes.append(f'{coupling.name}: kept units {stay.tolist()} without incoming weights: {why}')
    return tuple(notes)

  def revive(self) -> tuple[str, ...]:
    """Keeps one unit of each empty row: layers of width 0 are beyond Flax and most consumers.

    The rows behind a flatten come last, for the one that stays must read a unit that stays.
    """
    notes = []
    for coupling in sorted(self.couplings, key=lambda c: not c.writes):
      alive = self.alive[coupling.name]
      if alive.any():
        continue
      fit = np.ones_like(alive)
      for read in coupling.reads:
        units = self.unit_of(coupling, read)
        fit &= np.isin(np.arange(alive.size), units)
        for other, axis in () if coupling.writes else self.claims(read.path, ('reads',)):
          same_axis = (axis.axis - read.axis) % self.leaves[read.path].ndim == 0
          if other is not coupling and same_axis:
            fit[units] &= self.alive[other.name][self.unit_of(other, axis)]
      assert fit.any(), coupling.name
      unit = int(np.argmax(fit))
      alive[unit] = True
      notes.append(f'{coupling.name}: all {alive.size} units are dead; unit {unit} was kept, since '
                   'a layer needs one')
    return tuple(notes)

  def kept_axes(self) -> dict[str, tuple[np.ndarray, ...]]:
    """{path: kept indices of each axis}: an index stays if every coupling that names it agrees."""
    kept = {}
    for path, leaf in self.leaves.items():
      masks = [np.ones(length, bool) for length in leaf.shape]
      for coupling, axis in self.claims(path):
        masks[axis.axis] &= self.alive[coupling.name][self.unit_of(coupling, axis)]
      kept[path] = tuple(np.flatnonzero(mask) for mask in masks)
    return kept


def _others(array: np.ndarray, axis: Axis) -> tuple[int, ...]:
  return tuple(i for i in range(array.ndim) if i != axis.axis % array.ndim)


def _along(mask: np.ndarray, array: np.ndarray, axis: Axis) -> np.ndarray:
  """Shapes a mask over one axis so that it broadcasts to the array."""
  return np.expand_dims(mask, _others(array, axis))


def _leaves(variables: dict[str, Any]) -> dict[str, Any]:
  """{path: leaf}, params bare and other collections with their name in front."""
  if 'params' not in variables:
    raise ValueError(f"expected variables {{'params': weights, ...}}, got {list(variables)}; "
                     "wrap bare weights as {'params': weights}")
  found: dict[str, Any] = {}
  for collection, tree in variables.items():
    prefix = '' if collection == 'params' else f'{collection}/'
    found |= {prefix + path: leaf for path, leaf in flatten(tree).items()}
  return found


def _as_float64(path: str, leaf: Any) -> np.ndarray:
  """A writable float64 copy; integers and the like must be exact in it."""
  if not hasattr(leaf, '__array__'):
    raise ValueError(f'{path} is a {type(leaf).__name__}, not a dense array; compact first, pack '
                     'after')
  array = np.array(leaf, np.float64)
  if not np.isfinite(array).all():
    raise ValueError(f'{path} {array.shape} has {np.count_nonzero(~np.isfinite(array))} entries '
                     'that are not finite; nothing can be said about which units it needs')
  return array


def _variables(leaves: dict[str, np.ndarray], collections: tuple[str, ...]) -> dict[str, Any]:
  """The inverse of `_leaves`."""
  trees: dict[str, dict[str, Any]] = {collection: {} for collection in collections}
  others = [collection for collection in collections if collection != 'params']
  for path, leaf in leaves.items():
    owner = next((c for c in others if path.startswith(f'{c}/')), None)
    if owner is None:
      trees['params'][path] = jnp.asarray(leaf)
    else:
      trees[owner][path.removeprefix(f'{owner}/')] = jnp.asarray(leaf)
  return {collection: unflatten(flat) for collection, flat in trees.items()}
