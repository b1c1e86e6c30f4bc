"""Nested dicts of arrays as flat dicts keyed by '/'-joined paths, checked on the way to a file."""
from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

DTYPES = {
    np.dtype(t).name: np.dtype(t)
    for t in (bool, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32,
              np.uint64, np.float16, jnp.bfloat16, np.float32, np.float64)
}


def flatten(weights: dict[str, Any]) -> tuple[dict[str, np.ndarray], list[str]]:
  """Returns ({path: C-ordered host array}, [paths of empty dicts]), paths sorted and '/'-joined.

  The path of `weights` itself is ''. Raises ValueError, naming the path, for a node that is no
  dict, a key that is no string, is empty or holds '/', a leaf that is no array, or its dtype.
  """
  leaves: dict[str, np.ndarray] = {}
  empty: list[str] = []
  _visit(weights, '', leaves, empty)
  return dict(sorted(leaves.items())), sorted(empty)


def unflatten(leaves: dict[str, Any], empty: list[str]) -> dict[str, Any]:
  """Inverse of `flatten`: the nested dict of these leaves and empty dicts."""
  root: dict[str, Any] = {}
  for path, leaf in leaves.items():
    *parents, name = path.split('/')
    node = root
    for key in parents:
      node = node.setdefault(key, {})
    node[name] = leaf
  for path in empty:
    node = root
    for key in path.split('/') if path else ():
      node = node.setdefault(key, {})
  return root


def _visit(node: Any, path: str, leaves: dict[str, np.ndarray], empty: list[str]) -> None:
  if not isinstance(node, dict):
    if not path:
      raise ValueError(f'weights is a {type(node).__name__}; pass a nested dict of arrays')
    leaves[path] = _host_array(path, node)
    return
  if not node:
    empty.append(path)
  for key, child in node.items():
    where = f'under {path!r}' if path else 'at the top of weights'
    if not isinstance(key, str):
      raise ValueError(f'key {key!r} {where} is a {type(key).__name__}; keys must be strings')
    if not key or '/' in key:
      raise ValueError(f"key {key!r} {where} is empty or holds '/', which joins paths; rename it")
    try:
      key.encode()
    except UnicodeEncodeError:
      raise ValueError(f'key {key!r} {where} is not valid Unicode; rename it') from None
    _visit(child, f'{path}/{key}' if path else key, leaves, empty)


def _host_array(path: str, leaf: Any) -> np.ndarray:
  if not isinstance(leaf, (np.ndarray, np.generic, jax.Array)):
    raise ValueError(f'{path} is a {type(leaf).__name__}; leaves must be NumPy or JAX arrays, '
                     'and nodes plain dicts (unbox Flax metadata, unfreeze a FrozenDict)')
  if DTYPES.get(getattr(leaf.dtype, 'name', '')) != leaf.dtype:
    raise ValueError(f'{path} has dtype {leaf.dtype!r}; the file holds {", ".join(DTYPES)} in '
                     'native byte order; convert it with astype')
  return np.array(leaf, order='C', copy=None)
