"""A random mask, drawn once and kept: the control every method of choosing weights must beat.

Gale, Elsen, Hooker, "The state of sparsity", 2019, arXiv:1902.09574, train such masks from scratch
beside pruned networks; with the layer densities of another method's result, what is left of its
advantage is the choice within layers (Frankle et al., 2021, arXiv:2009.08576, call it shuffling).
The kept weights start as the model drew them: nothing is scaled up for the inputs that are gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.paths import Tree, flatten, fold, map_leaves
from sparsejax.regulariser import Regulariser
from sparsejax.regularisers.magnitude import erdos_renyi_kernel_densities

Array = jax.Array
Density = float | Mapping[str, float]


def static_mask(density: Density, *, allocation: str = 'uniform') -> Regulariser:
  """Keeps a random set of weights, the same in the whole run; no penalty.

  Args:
    density: fraction of weights kept, in (0, 1]; or {leaf path: density} for every leaf. Each leaf
      keeps round(density * size) weights, at least one.
    allocation: how a number is shared out: 'uniform' (each leaf alike) or 'erk' (in proportion to
      sum(shape) / prod(shape), capped at 1). A mapping says it all itself.

  State: `mask` (bool, the weights' shapes; True keeps).

  Raises:
    ValueError: for a density that is no number in (0, 1], an unknown allocation or, from `init`, a
      mapping that lacks a leaf or names another.
  """
  require_densities(density, allocation)

  def init(key, weights):
    return weights, {'mask': random_masks(key, weights, kept_counts(weights, density, allocation))}

  def weights(params, state, key=None):
    del key
    return masked(params, state['mask'])

  return Regulariser(init, weights)


def masked(weights: Tree, mask: Tree) -> Tree:
  """Returns the weights with exact zeros where the mask is False."""
  return jax.tree.map(lambda w, m: jnp.where(m, w, jnp.zeros_like(w)), weights, mask)


def require_densities(density: Density, allocation: str) -> None:
  """Raises ValueError unless every density is a number in (0, 1] and the allocation is known."""
  given = ({f'density[{path!r}]': value for path, value in density.items()}
           if isinstance(density, Mapping) else {'density': density})
  for name, value in given.items():
    if not isinstance(value, (int, float, np.floating)) or not 0 < value <= 1:
      raise ValueError(f'{name}={value} must be a number in (0, 1]')
  if allocation not in ('uniform', 'erk'):
    raise ValueError(f"allocation={allocation!r} is not 'uniform' or 'erk'")


def kept_counts(weights: Tree, density: Density, allocation: str) -> dict[str, int]:
  """Returns {path: weights kept}: round(density * size), at least 1, fixed when traced.

  Raises:
    ValueError: for a mapping of densities that lacks a leaf or names another.
  """
  shapes = {path: leaf.shape for path, leaf in flatten(weights).items()}
  if isinstance(density, Mapping):
    missing, unknown = sorted(shapes.keys() - density), sorted(density.keys() - shapes)
    if missing or unknown:
      wrong = [f'lacks {", ".join(missing)}'] * bool(missing)
      wrong += [f'names {", ".join(unknown)}, no leaf of this rule'] * bool(unknown)
      raise ValueError(f'density {" and ".join(wrong)}; leaves are {", ".join(shapes)}')
    densities = dict(density)
  elif allocation == 'erk':
    with jax.ensure_compile_time_eval():    # counts are shapes of a kind: numbers also under jit
      shared = erdos_renyi_kernel_densities(shapes, cast(Array, density))
    densities = {path: float(value) for path, value in shared.items()}
  else:
    densities = dict.fromkeys(shapes, density)
  return {path: max(1, round(float(densities[path]) * int(np.prod(shape))))
          for path, shape in shapes.items()}


def random_masks(key: Array, weights: Tree, counts: Mapping[str, int]) -> Tree:
  """Returns masks of the weights' shapes that keep exactly counts[path] random entries."""
  def draw(path, leaf):
    kept = jnp.arange(leaf.size) < counts[path]
    return jax.random.permutation(cast(Array, fold(key, path)), kept).reshape(leaf.shape)
  return map_leaves(draw, weights)
