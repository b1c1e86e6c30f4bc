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

from sparsejax.codec import positions, relative_index, values
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
  flat = np.ascontiguousarray(weight).reshape(-1)
  alive = np.flatnonzero(flat)
  bits_of = flat.view(f'u{flat.dtype.itemsize}')
  found: dict[str, tuple[int, int, int]] = {}
  stored = codebook = 0
  for coder in ('fixed', 'huffman'):
    steps = positions.relative(flat != 0, index_bits, (coder,))
    entries = bits_of[steps.places]
    stored = len(entries)
    book = np.unique(entries)
    codebook = len(book)
    coded = values.codebook(entries, values.Codebook(book), (coder,)) if codebook else None
    table = book.nbytes
    codes = len(coded.data) - table if coded else 0
    found[coder] = (codes, len(steps.data), table)
  per_entry = 8 / max(1, stored)
  return LayerCode(
      layer, dense_size or flat.size, len(alive),
      relative_index.count_fillers(alive, index_bits), codebook,
      weight_bits=(codebook - 1).bit_length() if codebook else 0,
      weight_bits_huffman=found['huffman'][0] * per_entry,
      index_bits=index_bits, index_bits_huffman=found['huffman'][1] * per_entry,
      bytes_fixed=sum(found['fixed']), bytes_huffman=sum(found['huffman']))


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
