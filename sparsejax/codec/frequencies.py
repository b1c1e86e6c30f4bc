"""Frequencies of symbols as integers that add up to a power of two, and what they cost.

Probabilities in a file must decode alike on every machine and with every version of NumPy, so they
are integers; divided by their sum they are exact in floating point.
"""
from __future__ import annotations

import numpy as np

from sparsejax.codec import bits

_CHUNK = 1 << 17
TABLE_BITS = (6, 8, 10, 12, 14, 16, 18, 20)


def quantise(weights: np.ndarray, table_bits: int) -> np.ndarray:
  """Returns integers (k,) that sum to 2**table_bits: 1 for each symbol, the rest by `weights`.

  A weight of 0 gets 0, but where one symbol would get the whole sum the last gets 1 of it: no
  frequency but the last ever needs more than `table_bits` bits.

  Args:
    weights: (k,) counts or probabilities, not all zero.
    table_bits: 2**table_bits is at least the number of non-zero weights.

  Raises:
    ValueError: for weights that are negative, not finite, all zero, or too many.
  """
  weights = np.asarray(weights, np.float64)
  total = 1 << table_bits
  live = weights > 0
  if not np.isfinite(weights).all() or (weights < 0).any() or not 0 < live.sum() <= total:
    raise ValueError(f'{weights.size} frequencies, {int(live.sum())} of them positive, do not make '
                     f'a table of sum {total}; they must be finite, not negative, not all zero')
  ideal = weights / weights.sum() * (total - int(live.sum()))
  table = live + np.floor(ideal).astype(np.int64)
  missing = total - int(table.sum())         # floor took less than one from each
  table[np.argsort(np.floor(ideal) - ideal, kind='stable')[:missing]] += 1
  lone = np.flatnonzero(table[:-1] == total)
  table[lone] -= 1
  table[-1] += len(lone)
  return table


def count(symbols: np.ndarray, alphabet: int) -> np.ndarray:
  """Returns how often each symbol occurs, (alphabet,); bincount alone would take 8 bytes for each.

  Raises:
    ValueError: for a symbol outside the alphabet.
  """
  counts = np.zeros(alphabet, np.int64)
  for start in range(0, len(symbols), _CHUNK):
    found = np.bincount(symbols[start:start + _CHUNK], minlength=alphabet)
    if len(found) > alphabet:
      raise ValueError(f'symbol {len(found) - 1} is outside the alphabet of {alphabet}')
    counts += found
  return counts


def cross_entropy_bits(counts: np.ndarray, table: np.ndarray) -> float:
  """Returns -sum counts * log2(table / sum(table)): what an ideal coder needs with this table.

  Raises:
    ValueError: for a symbol that occurs and has frequency 0.
  """
  used = counts > 0
  if (table[used] == 0).any():
    raise ValueError(f'symbol {int(np.flatnonzero(used & (table == 0))[0])} occurs, but its '
                     'frequency is 0; give it some probability')
  shares = table[used] / table.sum()
  return float(-(counts[used] * np.log2(shares)).sum())


def entropy_bits(counts: np.ndarray) -> float:
  """Returns the empirical entropy of all symbols together, in bits: count times bits each."""
  return cross_entropy_bits(counts, counts) if counts.sum() else 0.0


def best_table(counts: np.ndarray, weights: np.ndarray | None = None
               ) -> tuple[int, np.ndarray, float]:
  """Returns (table_bits, table, bits of table and symbols) of the precision that takes fewest bits.

  Args:
    counts: (k,) how often each symbol occurs, not all zero.
    weights: (k,) probabilities to code with in place of the counts.
  """
  best = None
  for table_bits in TABLE_BITS:
    source = counts if weights is None else weights
    if np.count_nonzero(source) > 1 << table_bits:
      continue
    table = quantise(source, table_bits)
    cost = stored_bits(table.size, table_bits) + cross_entropy_bits(counts, table)
    if best is None or cost < best[2]:
      best = table_bits, table, cost
  if best is None:
    raise ValueError(f'{counts.size} symbols are more than a table of {TABLE_BITS[-1]} bits holds')
  return best


def stored_bits(alphabet: int, table_bits: int) -> int:
  """Returns the bits of a table in a file; the last frequency follows from the others."""
  return 8 * bits.packed_bytes(alphabet - 1, table_bits)


def to_bytes(table: np.ndarray, table_bits: int) -> bytes:
  """Returns all frequencies but the last, each in `table_bits` bits."""
  return bits.pack(table[:-1], table_bits)


def from_bytes(data: bytes | memoryview, alphabet: int, table_bits: int) -> np.ndarray:
  """The inverse of `to_bytes`.

  Raises:
    ValueError: if the frequencies exceed their sum, or the length is wrong.
  """
  first = bits.unpack(data, alphabet - 1, table_bits).astype(np.int64)
  rest = (1 << table_bits) - int(first.sum())
  if rest < 0:
    raise ValueError(f'frequencies exceed their sum of {1 << table_bits}')
  return np.append(first, rest)
