"""Which words, inputs, hidden units and gates of a recurrent network stay, as its papers count.

Chirkova, Lobacheva, Vetrov, 2018, arXiv:1810.10927, and Lobacheva et al., 2020, arXiv:1911.05585,
from the authors' code. Read off the zeros of deployed weights:

* a word goes if its row of the embedding is empty;
* an input (a dimension of the embedding) goes if its column of the embedding is empty, or its rows
  in all input kernels of the first cell are;
* a hidden unit goes if nothing reads it: its rows in all recurrent kernels of its cell are empty,
  and those in the next cell's input kernels or in the output layer;
* then rows and columns of what is gone are set to zero, and a gate of a hidden unit that stays is
  constant, f(b), if its columns of both kernels are empty.

compression = all weights / weights left, over embedding, kernels of the cells and of the output
layer. Biases, and group variables, which are folded in, are not counted. This is a count for tables
of those papers; what a deployed network really holds and costs is for `compact` and the ledger.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from sparsejax.cell_paths import CELLS, cell_kernels
from sparsejax.paths import flatten

Mask = np.ndarray  # bool, True for what stays


class StructureCount(NamedTuple):
  """What stays of a recurrent network.

  Attributes:
    words: (rows,) bool, of the embedding; None without one, where words are inputs.
    inputs: (features,) bool, of the first cell's inputs.
    hidden: {cell: (units,) bool}.
    gates: {cell: {letter of the gate: (units,) bool}}.
    total, remaining: weights of the kernels before and after.
  """

  words: Mask | None
  inputs: Mask
  hidden: dict[str, Mask]
  gates: dict[str, dict[str, Mask]]
  total: int
  remaining: int

  @property
  def compression(self) -> float:
    """total / remaining; infinite if nothing is left."""
    return self.total / self.remaining if self.remaining else float('inf')

  def counts(self) -> dict[str, tuple[int, int]]:
    """Returns {'words', 'inputs', 'hidden', 'gates': (how many stay, of how many)}, all cells."""
    hidden = list(self.hidden.values())
    gates = [mask for cell in self.gates.values() for mask in cell.values()]
    parts = {'inputs': [self.inputs], 'hidden': hidden, 'gates': gates}
    if self.words is not None:
      parts = {'words': [self.words], **parts}
    return {name: (sum(int(mask.sum()) for mask in masks), sum(mask.size for mask in masks))
            for name, masks in parts.items()}


def structure_count(weights: Mapping[str, Any], *, cells: str = CELLS,
                    embedding: str | None = 'embed/embedding',
                    head: str | None = 'head/kernel') -> StructureCount:
  """Counts what stays of a recurrent network.

  Args:
    weights: the deployed weights, plain arrays; not changed.
    cells, embedding, head: patterns of paths, as for `bayesian_rnn`.

  Raises:
    ValueError: if a pattern does not match one leaf, or no cell.
  """
  leaves = flatten(weights)
  layers = cell_kernels(leaves, cells)
  names = list(layers)
  table = None if embedding is None else _only(leaves, embedding, 'embedding')
  output = None if head is None else _only(leaves, head, 'head')
  counted = [path for path in (table, output) if path] + [
      path for sides in layers.values() for side in sides.values() for path in side.values()]
  used = {path: np.array(np.asarray(leaves[path]) != 0) for path in counted}

  def inward(cell):
    return [used[path] for path in layers[cell]['i'].values()]

  def recurrent(cell):
    return [used[path] for path in layers[cell]['h'].values()]

  # Who reads the units of each cell; a last cell without an output layer is read from outside.
  readers = {cell: inward(following) for cell, following in zip(names, names[1:])}
  readers[names[-1]] = [used[output]] if output else []
  inputs = _any_row(inward(names[0]))
  words: Mask | None = None
  if table:
    words = _any_row([used[table]])
    inputs = inputs & used[table].any(axis=0)
  hidden = {}
  for cell in names:
    reading = recurrent(cell) + readers[cell]
    outside = cell == names[-1] and not output
    hidden[cell] = np.ones(len(reading[0]), bool) if outside else _any_row(reading)

  if table and words is not None:
    used[table][~words] = False
    used[table][:, ~inputs] = False
  for kernel in inward(names[0]):
    kernel[~inputs] = False
  for cell, alive in hidden.items():
    for kernel in recurrent(cell) + readers[cell]:
      kernel[~alive] = False
    for kernel in inward(cell) + recurrent(cell):
      kernel[:, ~alive] = False
  gates = {
      cell: {letter: _any_row([used[sides['i'][letter]].T, used[sides['h'][letter]].T])
             for letter in sides['h']}
      for cell, sides in layers.items()
  }
  return StructureCount(words, inputs, hidden, gates, sum(mask.size for mask in used.values()),
                        int(sum(mask.sum() for mask in used.values())))


def _any_row(masks: list[Mask]) -> Mask:
  """Returns which rows have an entry in any of the masks (rows, columns)."""
  return np.asarray(np.concatenate(masks, axis=1).any(axis=1))


def _only(leaves: Mapping[str, Any], pattern: str, name: str) -> str:
  found = [path for path in leaves if re.fullmatch(pattern, path)]
  if len(found) != 1:
    raise ValueError(f'{name}={pattern!r} matches {len(found)} parameters of {", ".join(leaves)}; '
                     f'exactly one must match, or set {name}=None')
  return found[0]
