"""Packed weights (`structured.Packed`) as plain arrays of a file, and back.

A weight at `path` becomes the leaves `<path>//<name>` that its `to_tensors` gives, and an entry in
the metadata with its kind and facts. The kinds register themselves by being defined.
"""
from __future__ import annotations

from typing import Any

import numpy as np

from sparsejax.structured import PACKED_KINDS, Packed


def take_out(weights: Any) -> tuple[Any, dict[str, Packed]]:
  """Returns the tree without its packed weights, and those by path."""
  found: dict[str, Packed] = {}

  def rest(node, path):
    if not isinstance(node, dict):
      return node
    kept = {}
    for key, child in node.items():
      inside = f'{path}/{key}' if path else key
      if isinstance(child, Packed):
        found[inside] = child
      else:
        kept[key] = rest(child, inside)
    return kept
  return rest(weights, ''), found


def to_leaves(weights: dict[str, Packed]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Returns ({'<path>//<name>': array}, {path: {'kind', 'tensors', 'facts'}})."""
  leaves: dict[str, np.ndarray] = {}
  entries: dict[str, Any] = {}
  for path, weight in sorted(weights.items()):
    tensors, facts = weight.to_tensors()
    leaves |= {f'{path}//{name}': np.asarray(tensor) for name, tensor in tensors.items()}
    entries[path] = {'kind': type(weight).__name__, 'tensors': sorted(tensors), 'facts': facts}
  return leaves, entries


def from_leaves(leaves: dict[str, Any], entries: dict[str, Any]) -> dict[str, Any]:
  """The inverse: puts the weight of each entry in the place of its leaves.

  Raises:
    ValueError: for a kind that no module has defined.
  """
  leaves = dict(leaves)
  for path, entry in entries.items():
    if entry['kind'] not in PACKED_KINDS:
      raise ValueError(f'{path} is a {entry["kind"]} weight; this process knows '
                       f'{", ".join(sorted(PACKED_KINDS))}: import the module that defines it')
    tensors = {name: leaves.pop(f'{path}//{name}') for name in entry['tensors']}
    leaves[path] = PACKED_KINDS[entry['kind']].from_tensors(tensors, entry['facts'])
  return leaves
