"""Asymmetric numeral systems by constriction, with one integer table for all symbols.

Duda, 2013, arXiv:1311.2540; constriction: Bamler, 2022, arXiv:2201.01741.
"""
from __future__ import annotations

import constriction
import numpy as np

# Bounds the 32-bit copies of symbols that constriction takes and gives.
_CHUNK = 1 << 20
_WORD = np.dtype('<u4')


def encode(symbols: np.ndarray, table: np.ndarray) -> bytes:
  """Returns the code of `symbols` (n,), each below len(table) and of positive frequency.

  Args:
    table: (k,) integers that sum to a power of two (`frequencies.quantise`).
  """
  model = _model(table)
  coder = constriction.stream.stack.AnsCoder()
  for start in reversed(range(0, len(symbols), _CHUNK)):     # a stack: last in, first out
    coder.encode_reverse(symbols[start:start + _CHUNK].astype(np.int32), model)
  return coder.get_compressed().astype(_WORD).tobytes()


def decode(data: bytes | memoryview, table: np.ndarray, count: int) -> np.ndarray:
  """The inverse of `encode`: (count,) symbols in the smallest unsigned type.

  Raises:
    ValueError: if `data` is no code, or holds more than these symbols.
  """
  if len(data) % _WORD.itemsize:
    raise ValueError(f'a code of {len(data)} bytes is no whole number of 32-bit words')
  symbols = np.empty(count, np.min_scalar_type(max(0, len(table) - 1)))
  coder = constriction.stream.stack.AnsCoder(np.frombuffer(data, _WORD).astype(np.uint32))
  model = _model(table)
  for start in range(0, count, _CHUNK):
    number = min(_CHUNK, count - start)
    symbols[start:start + number] = coder.decode(model, number)
  if not coder.is_empty():
    raise ValueError(f'the code goes on behind its {count} symbols')
  if len(table) == 1 and symbols.any():
    raise ValueError('the code holds a symbol outside its alphabet')
  return symbols


def _model(table: np.ndarray) -> constriction.stream.model.Categorical:
  # The sum is a power of two, so the quotients are exact. An alphabet has two symbols at least.
  shares = np.append(table, 0)[:max(2, len(table))] / table.sum()
  return constriction.stream.model.Categorical(shares.astype(np.float64), perfect=False)
