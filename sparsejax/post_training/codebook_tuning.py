"""Weights as codes into a codebook, and training the codebook while the codes stay.

Han, Mao, Dally, "Deep compression", 2016, arXiv:1510.00149, section 3; after soft weight-sharing
(Ullrich, Meeds, Welling, 2017, arXiv:1702.04008) it is optional. With w_i = c[code_i], the gradient
of an entry of the codebook is the sum over its members,

  dL/dc_k = sum over i with code_i = k of dL/dw_i.

Entry 0 is zero: what was pruned stays pruned, whatever the optimiser does.

A codebook is one array for the whole tree, or a dict {pattern of paths: array}, in which exactly
one pattern matches each leaf: `{'.*': c}` is the former, one entry a layer the latter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax.paths import Tree, flatten, map_leaves, unflatten

Array = jax.Array
Codebooks = dict[str, Array]        # {pattern of paths: float32 (entries,), entry 0 is zero}


def encode(weights: Tree, patterns: Iterable[str] = ('.*',)) -> tuple[Tree, Codebooks]:
  """Returns (codes, codebooks) of weights that hold few distinct values, such as collapsed ones.

  Args:
    weights: floating leaves. Every distinct value that is not zero becomes an entry.
    patterns: regular expressions; leaves of one pattern share a codebook. Leaves of no pattern are
      not coded, and are in neither result.

  Returns:
    codes: int32 at the paths and shapes of the coded leaves. codebooks: {pattern: float32
    (entries,)}, entry 0 zero and the others ascending.

  Raises:
    ValueError: for a pattern that matches no leaf, two patterns for one leaf, or a leaf that is not
      finite.
  """
  flat = {path: np.asarray(leaf, np.float32) for path, leaf in flatten(weights).items()}
  homes = {path: home for path in flat
           if (home := _match(path, patterns)) is not None}
  codes: dict[str, Array] = {}
  codebooks: Codebooks = {}
  for pattern in patterns:
    own = [path for path, home in homes.items() if home == pattern]
    if not own:
      raise ValueError(f'the pattern {pattern!r} matches no leaf; leaves are {", ".join(flat)}')
    values = np.unique(np.concatenate([flat[path].reshape(-1) for path in own]))
    if not np.all(np.isfinite(values)):
      raise ValueError(f'the leaves of {pattern!r} hold values that are not finite, for which no '
                       'codebook can stand')
    entries = values[values != 0]
    codebooks[pattern] = jnp.asarray(np.append(np.float32(0), entries))
    for path in own:
      found = np.searchsorted(entries, flat[path]) + 1
      codes[path] = jnp.asarray(np.where(flat[path] == 0, 0, found).astype(np.int32))
  return unflatten({path: codes[path] for path in homes}), codebooks


def decode(codes: Tree, codebooks: Mapping[str, Array]) -> Tree:
  """Returns the weights c[code] of each leaf; differentiable in the codebooks."""
  return map_leaves(lambda path, leaf: codebooks[_home(path, codebooks)][leaf], codes)


def codebook_gradient(codes: Tree, grads: Tree, codebooks: Mapping[str, Array]) -> Codebooks:
  """Returns the gradient of each codebook from those of the weights: the sum over the members.

  Args:
    codes: int32 leaves. grads: dL/dw at the same paths and shapes. codebooks: for their sizes.

  Returns:
    {pattern: float32 (entries,)}; that of entry 0, which is pinned at zero, is 0.
  """
  flat = flatten(grads)
  totals = {pattern: jnp.zeros(entries.shape, jnp.float32)
            for pattern, entries in codebooks.items()}
  for path, leaf in flatten(codes).items():
    home = _home(path, codebooks)
    sums = jax.ops.segment_sum(flat[path].astype(jnp.float32).reshape(-1), leaf.reshape(-1),
                               codebooks[home].size)
    totals[home] = totals[home] + sums
  return {pattern: total.at[0].set(0.0) for pattern, total in totals.items()}


def tune(codes: Tree, codebooks: Codebooks, weight_gradient: Callable[[Tree, Any], Tree],
         batches: Iterable[Any], optimiser: optax.GradientTransformation) -> Codebooks:
  """Trains the codebooks on batches, with the codes as they are; returns the new ones.

  Args:
    codes, codebooks: as from `encode`.
    weight_gradient: (weights at the paths of the codes, batch) -> dL/dw, traceable.
    batches: trees of arrays, each of the same shapes.
    optimiser: of the codebooks. Entry 0 stays zero under momentum and weight decay too.
  """
  @jax.jit
  def step(codebooks, state, batch):
    grads = codebook_gradient(codes, weight_gradient(decode(codes, codebooks), batch), codebooks)
    updates, state = optimiser.update(grads, state, codebooks)
    moved = optax.apply_updates(codebooks, updates)
    return {name: entries.at[0].set(0.0) for name, entries in moved.items()}, state

  state = optimiser.init(codebooks)
  for batch in batches:
    codebooks, state = step(codebooks, state, batch)
  return codebooks


def _home(path: str, patterns: Iterable[str]) -> str:
  """Returns the one pattern that matches the whole path."""
  found = _match(path, patterns)
  if found is None:
    raise ValueError(f'{path} is matched by none of the patterns {list(patterns)}; exactly one '
                     'must match')
  return found


def _match(path: str, patterns: Iterable[str]) -> str | None:
  found = [pattern for pattern in patterns if re.fullmatch(pattern, path)]
  if len(found) > 1:
    raise ValueError(f'{path} is matched by {len(found)} of the patterns {list(patterns)}; exactly '
                     'one must match')
  return found[0] if found else None
