"""Gaps between non-zero entries as symbols: short ones exactly, long ones by size and extra bits.

Gap g < 32 is its own symbol. A longer one lies in an octave [2^e, 2^(e+1)), cut into four parts;
the symbol names the part, and the e - 2 bits that say where in it follow in a stream of their own,
octave after octave. So the alphabet stays small however long the gaps, and within a part gaps are
nearly equally likely.
"""
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sparsejax.codec import bits, facts, symbols

_DIRECT = 32
_FIRST_OCTAVE = 5
_PARTS = 4
_LAST_OCTAVE = 31
MAX_GAP = (1 << _LAST_OCTAVE) - 1


class Coded(NamedTuple):
  """Facts for the header, bytes, and the bits an ideal coder of the same symbols would need."""
  facts: dict[str, Any]
  data: bytes
  entropy_bits: float


def between(positions: np.ndarray) -> np.ndarray:
  """Returns how many entries lie before each position (k,), ascending, behind the one before."""
  gaps = positions.copy()
  gaps[1:] -= positions[:-1] + 1
  return gaps


def encode(gaps: np.ndarray, coders: tuple[str, ...] = symbols.CODERS) -> Coded:
  """Codes gaps (k,), integers from 0 to `MAX_GAP`."""
  symbol = np.minimum(gaps, _DIRECT).astype(np.uint8)
  at = np.flatnonzero(gaps >= _DIRECT)
  long = gaps[at].astype(np.int64)
  octave = np.frexp(long.astype(np.float64))[1] - 1          # floor(log2), exact below 2**53
  symbol[at] += (_PARTS * (octave - _FIRST_OCTAVE) + (long >> (octave - 2)) % _PARTS).astype(
      np.uint8)
  stream = symbols.encode(symbol, int(symbol.max(initial=0)) + 1, coders)
  parts, extra = [stream.data], 0
  for e in np.unique(octave).tolist():
    chosen = long[octave == e]
    parts.append(bits.pack(chosen & ((1 << (e - 2)) - 1), e - 2))
    extra += (e - 2) * len(chosen)
  return Coded(stream.facts, b''.join(parts), stream.entropy_bits + extra)


def decode(entry: Any, data: memoryview, count: int) -> np.ndarray:
  """The inverse of `encode`: gaps (count,), int32; `data` is the whole stream.

  Raises:
    ValueError: for what `encode` does not write.
  """
  symbol = symbols.decode(entry, data, count)
  place = entry['bytes']
  at = np.flatnonzero(symbol >= _DIRECT)
  part = symbol[at].astype(np.int64) - _DIRECT
  octave = part // _PARTS + _FIRST_OCTAVE
  if octave.max(initial=0) >= _LAST_OCTAVE:
    raise ValueError(f'a gap of 2**{int(octave.max())} entries or more')
  gaps = symbol.astype(np.int32)
  for e in np.unique(octave).tolist():
    chosen = octave == e
    number = int(chosen.sum())
    size = bits.packed_bytes(number, e - 2)
    extra = bits.unpack(data[place:place + size], number, e - 2).astype(np.int64)
    place += size
    gaps[at[chosen]] = ((_PARTS + part[chosen] % _PARTS) << (e - 2)) + extra
  facts.exact_bytes(data, place, 'gaps')
  return gaps
