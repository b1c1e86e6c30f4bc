"""The table of Deep Compression: what each layer takes in the paper's format, byte by byte.

Han, Mao, Dally, 2016, arXiv:1510.00149, tables 2 and 3. A layer is its codebook, a code for each
stored entry and a step to it from the one before, of `INDEX_BITS` bits with fillers where it is
longer (`codec/relative_index.py`); codes and steps each of fixed width ('P+Q') or by a Huffman code
of their own ('P+Q+H'). All numbers are lengths of streams that were made: codebooks, code tables
and fillers are in them. A code has the width that its codebook needs, the filler's zero included.
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from sparsejax.codec import relative_index, symbols
from sparsejax.paths import Tree, flatten

INDEX_BITS = 5
FLOAT_BITS = 32


class LayerCode(NamedTuple):
  """A row of the table; bits are means over the stored entries, tables of codes included.

  Attributes:
    weights, kept: entries of the dense leaf, and those that are not 0.
    fillers: stored zeros that bridge gaps. codebook: distinct stored values.
    weight_bits, index_bits: of fixed width. weight_bits_huffman, index_bits_huffman: as coded.
    bytes_fixed, bytes_huffman: of the layer, codebook included.
  """

  layer: str
  weights: int
  kept: int
  fillers: int
  codebook: int
  weight_bits: float
  weight_bits_huffman: float
  index_bits: float
  index_bits_huffman: float
  bytes_fixed: int
  bytes_huffman: int

  @property
  def kept_percent(self) -> float:
    return 100 * self.kept / self.weights

  @property
  def fixed_percent(self) -> float:
    """Size in percent of float32, codes of fixed width."""
    return 100 * self.bytes_fixed / (self.weights * FLOAT_BITS / 8)

  @property
  def huffman_percent(self) -> float:
    """Size in percent of float32, Huffman codes."""
    return 100 * self.bytes_huffman / (self.weights * FLOAT_BITS / 8)

  def row(self) -> dict[str, Any]:
    """Returns the numbers as a flat dict, for JSON."""
    return {**self._asdict(), 'kept_percent': self.kept_percent,
            'fixed_percent': self.fixed_percent, 'huffman_percent': self.huffman_percent}


def layer_code(layer: str, weight: np.ndarray, dense_size: int | None = None,
               index_bits: int = INDEX_BITS) -> LayerCode:
  """Codes one leaf in the paper's format, both ways.

  Args:
    weight: dense, of few distinct values, with exact zeros.
    dense_size: weights of the layer before units were cut out; all of `weight` by default.
    index_bits: of a step, 1 to 16.
  """
  flat = np.asarray(weight).reshape(-1)
  alive = np.flatnonzero(flat)
  steps, is_filler = relative_index.with_fillers(alive, index_bits)
  stored = np.zeros(len(steps), flat.dtype)
  stored[~is_filler] = flat[alive]
  book, codes = np.unique(stored, return_inverse=True)
  coded = {coder: [len(symbols.encode(stream, alphabet, (coder,)).data) if len(steps) else 0
                   for stream, alphabet in ((codes, max(1, len(book))), (steps, 1 << index_bits))]
           for coder in ('fixed', 'huffman')}
  per_entry = 8 / max(1, len(steps))
  return LayerCode(
      layer, dense_size or flat.size, len(alive), int(is_filler.sum()), len(book),
      weight_bits=max(0, len(book) - 1).bit_length(),
      weight_bits_huffman=coded['huffman'][0] * per_entry,
      index_bits=index_bits, index_bits_huffman=coded['huffman'][1] * per_entry,
      bytes_fixed=book.nbytes + sum(coded['fixed']),
      bytes_huffman=book.nbytes + sum(coded['huffman']))


def layer_table(weights: Tree, dense_sizes: dict[str, int] | None = None,
                index_bits: int = INDEX_BITS) -> list[LayerCode]:
  """Returns a row for each leaf with two axes or more, in the order of the tree.

  Args:
    dense_sizes: {path: weights before units were cut out}, for leaves where units were.
  """
  sizes = dense_sizes or {}
  return [layer_code(path, np.asarray(leaf), sizes.get(path), index_bits)
          for path, leaf in flatten(weights).items() if np.ndim(leaf) >= 2]


def total(rows: Iterable[LayerCode]) -> LayerCode:
  """Returns the row of all layers together; bits are means over all stored entries."""
  rows = list(rows)
  stored = [row.kept + row.fillers for row in rows]
  everything = max(1, sum(stored))

  def mean(field):
    return sum(getattr(row, field) * n for row, n in zip(rows, stored)) / everything
  sums = {name: sum(getattr(row, name) for row in rows)
          for name in ('weights', 'kept', 'fillers', 'codebook', 'bytes_fixed', 'bytes_huffman')}
  return LayerCode(layer='total', **sums, **{
      name: mean(name) for name in ('weight_bits', 'weight_bits_huffman', 'index_bits',
                                    'index_bits_huffman')})
