"""Which entries of a leaf are stored: all, by a bitmask, by gaps, or by steps with fillers.

The facts of each, for the header:
  {'kind': 'all'}                                        every entry
  {'kind': 'bitmask'}                                    one bit an entry, raw
  {'kind': 'gaps', 'count', 'symbols'}                   `gaps.py`
  {'kind': 'relative', 'count', 'symbols', 'width'}      `relative_index.py`; with fillers
"""
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sparsejax.codec import bits, facts, gaps, relative_index, symbols

KINDS = ('all', 'bitmask', 'gaps', 'relative')
_FIELDS = {'all': ('kind',), 'bitmask': ('kind',), 'gaps': ('kind', 'count', 'symbols'),
           'relative': ('kind', 'count', 'symbols', 'width')}


class Coded(NamedTuple):
  """Facts for the header, bytes, and the bits an ideal coder of the same symbols would need."""
  facts: dict[str, Any]
  data: bytes
  entropy_bits: float


def everything() -> Coded:
  """All entries are stored, nothing is written."""
  return Coded({'kind': 'all'}, b'', 0.0)


def bitmask(kept: np.ndarray) -> Coded:
  """One bit for each entry of `kept` (n,), bool."""
  data = np.packbits(kept).tobytes()
  return Coded({'kind': 'bitmask'}, data, float(len(kept)))


def by_gaps(kept: np.ndarray, coders: tuple[str, ...]) -> Coded:
  """The gaps between the entries of `kept` (n,), entropy-coded."""
  between = gaps.between(np.flatnonzero(kept))
  coded = gaps.encode(between, coders)
  entry = {'kind': 'gaps', 'count': len(between), 'symbols': coded.facts}
  return Coded(entry, coded.data, coded.entropy_bits)


def relative(kept: np.ndarray, width: int, coders: tuple[str, ...]
             ) -> tuple[Coded, np.ndarray]:
  """Steps of `width` bits with fillers; returns the places of the stored entries beside them."""
  steps, _ = relative_index.with_fillers(np.flatnonzero(kept), width)
  coded = symbols.encode(steps, 1 << width, coders)
  entry = {'kind': 'relative', 'count': len(steps), 'symbols': coded.facts, 'width': width}
  return Coded(entry, coded.data, coded.entropy_bits), relative_index.places(steps)


def decode(entry: Any, data: memoryview, size: int) -> np.ndarray | None:
  """Returns the places (k,) of the stored entries among `size`, ascending; None for all of them.

  Raises:
    ValueError: for facts or bytes that nothing here writes.
  """
  kind = facts.one_of(entry, 'kind', KINDS)
  facts.fields(entry, _FIELDS[kind], f'positions of kind {kind}')
  if kind == 'all':
    facts.exact_bytes(data, 0, 'positions of all entries')
    return None
  if kind == 'bitmask':
    facts.exact_bytes(data, bits.packed_bytes(size, 1), f'a bitmask of {size} entries')
    return np.flatnonzero(bits.unpack(data, size, 1))
  count = facts.whole(entry, 'count', 0, size)
  if kind == 'gaps':
    places = relative_index.places(gaps.decode(entry['symbols'], data, count))
  else:
    width = facts.whole(entry, 'width', 1, 16)
    steps = symbols.decode(entry['symbols'], data, count)
    facts.exact_bytes(data, entry['symbols']['bytes'], 'relative indices')
    if entry['symbols']['alphabet'] != 1 << width:
      raise ValueError(f'steps of {width} bits have an alphabet of {entry["symbols"]["alphabet"]}')
    places = relative_index.places(steps)
  if count and int(places[-1]) >= size:
    raise ValueError(f'an entry is stored at {int(places[-1])} of {size}')
  return places
