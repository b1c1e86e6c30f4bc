"""Nested dicts addressed by '/'-joined paths, and random keys folded by name.

A tree of weights is a nested dict with string keys; its leaves are arrays or structured weights
(`structured.py`). Keys for leaves and rules are folded with a checksum of the name: Python's own
`hash` is salted per process and would draw other noise in every run.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import traverse_util

Tree = dict[str, Any]


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
  """Returns {'a/b': leaf}; only dicts are opened, so a structured weight stays one leaf."""
  return traverse_util.flatten_dict(tree, sep='/')


def unflatten(flat: Mapping[str, Any]) -> Tree:
  """The inverse of `flatten`."""
  return traverse_util.unflatten_dict(dict(flat), sep='/')


def map_leaves(function: Callable[..., Any], tree: Mapping[str, Any], *others: Any) -> Tree:
  """Returns the tree of function(path, leaf, *leaves of the other trees at that path)."""
  rest = [flatten(other) for other in others]
  return unflatten({
      path: function(path, leaf, *(other[path] for other in rest))
      for path, leaf in flatten(tree).items()
  })


def fold(key: jax.Array | None, name: str) -> jax.Array | None:
  """Returns a key of its own for `name`; None (no noise wanted) stays None."""
  return None if key is None else jax.random.fold_in(key, zlib.crc32(name.encode()))
