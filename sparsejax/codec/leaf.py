"""One leaf of a tree as a stream of bytes, in the form that takes the fewest, lossless.

A form is a pair: which entries are stored (`positions.py`) and their bits (`values.py`). Only an
entry whose bits are all 0 (+0.0, not -0.0) is ever left out.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from sparsejax.codec import facts, positions, symbols, values
from sparsejax.codec.tree_paths import DTYPES

CODINGS = ('smallest', 'ans', 'huffman', 'deep_compression', 'raw')
MAX_ENTRIES = 1 << 31
MAX_AXES = 16
RELATIVE_WIDTHS = (3, 5, 8)
DEEP_COMPRESSION_WIDTH = 5   # Han et al., 2016, tables 2 and 3
_SMALL = 1 << 12             # entries; above, entropy-coded gaps are smaller than fixed steps
FIELDS = ('bytes', 'dtype', 'position_bytes', 'positions', 'shape', 'values')
# Decoded bytes that a file may promise beyond that: zeros cost next to nothing.
ALLOWANCE = 1 << 28
_BYTES_A_PLACE = 24           # while gaps become places
# Decoded bytes per stored byte that a form may reach before it draws on the file's allowance.
MAX_EXPANSION = {'raw': 1, 'zstd': 1 << 10, 'planes': 1 << 10, 'codebook': 1 << 10}


class Coded(NamedTuple):
  """A coded leaf.

  Attributes:
    facts: `FIELDS`, for the header.
    data: the stream: positions, then values.
    bound_bits: what an ideal coder would need for the same symbols, codebook included and
      frequency tables not.
  """
  facts: dict[str, Any]
  data: bytes
  bound_bits: float


def encode(array: np.ndarray, coding: str = 'smallest',
           book: values.Codebook | None = None, allowance: int = ALLOWANCE) -> Coded:
  """Codes an array of any dtype of `tree_paths.DTYPES`.

  Args:
    coding: 'smallest' of all forms, with 'ans' or 'huffman' symbols alone, 'deep_compression'
      (5-bit relative indices with fillers, codebook, Huffman codes for both), or 'raw'.
    book: values with probabilities to code all entries by, zeros too; then `coding` does not count.
    allowance: what `excess_bytes` of the leaf may be, for a reader's sake.

  Raises:
    ValueError: for a coding that is not known, or an array too large, or not of the book's values.
  """
  if coding not in CODINGS:
    raise ValueError(f'coding={coding!r} is unknown; use one of {", ".join(CODINGS)}')
  if array.size >= MAX_ENTRIES or array.ndim > MAX_AXES:
    raise ValueError(f'an array of shape {array.shape} exceeds {MAX_ENTRIES} entries or {MAX_AXES} '
                     'axes; split it')
  flat = np.ascontiguousarray(array).reshape(-1).view(f'u{array.dtype.itemsize}')
  best: tuple[dict[str, Any], positions.Coded, values.Coded] | None = None
  for place, value in _forms(flat, coding, book):    # one by one: two at most are in memory
    entry = {'bytes': len(place.data) + len(value.data), 'dtype': array.dtype.name,
             'position_bytes': len(place.data), 'positions': place.facts,
             'shape': list(array.shape), 'values': value.facts}
    if (best is None or entry['bytes'] < best[0]['bytes']) and excess_bytes(entry) <= allowance:
      best = entry, place, value
  if best is None:
    raise ValueError(f'an array of shape {array.shape} becomes so small by coding={coding!r} that '
                     "no reader trusts it; leave the choice to 'smallest'")
  entry, place, value = best
  return Coded(entry, place.data + value.data, place.entropy_bits + value.entropy_bits)


def _forms(flat: np.ndarray, coding: str, book: values.Codebook | None
           ) -> Iterator[tuple[positions.Coded, values.Coded]]:
  """The candidate forms, those that cost nothing to find first."""
  everything = positions.everything()
  if book is not None:
    yield everything, values.codebook(flat, book, ('ans',))
    return
  if coding == 'raw':
    yield everything, values.raw(flat)
    return
  kept = flat != 0
  number = int(np.count_nonzero(kept))
  if coding == 'deep_compression':
    if flat.size:
      steps, places = positions.relative(kept, DEEP_COMPRESSION_WIDTH, ('huffman',))
      yield steps, _values(flat[places], ('huffman',), ('codebook', 'raw'))
      return
    yield everything, values.raw(flat)
    return
  coders = symbols.CODERS if coding == 'smallest' else (coding,)
  # Byte by byte, zeros among other entries cost more than their places.
  known = tuple(kind for kind in values.KINDS if kind != 'zstd' or coding == 'smallest')
  kinds = tuple(kind for kind in known if kind != 'planes' or 2 * number > flat.size)
  yield everything, _values(flat, coders, kinds)
  if number < flat.size:
    stored = _values(flat[kept], coders, known)
    yield positions.bitmask(kept), stored
    yield positions.by_gaps(kept, coders), stored
    if flat.size <= _SMALL:
      for width in RELATIVE_WIDTHS:
        steps, places = positions.relative(kept, width, coders)
        yield steps, _values(flat[places], coders, known)


def _values(entries: np.ndarray, coders: tuple[str, ...],
            kinds: tuple[str, ...] = values.KINDS) -> values.Coded:
  """The smallest of these kinds of values."""
  best = None
  book = values.distinct(entries) if 'codebook' in kinds else None
  if book is not None:
    best = values.codebook(entries, values.Codebook(book), coders)
  elif 'planes' in kinds and len(entries):     # with few distinct values, their codes are smaller
    best = values.planes(entries, coders)
  if best is None or len(best.data) >= entries.nbytes:
    best = values.raw(entries)
  if 'zstd' in kinds and values.zstd_may_win(entries, len(best.data)):
    best = min(best, values.zstd(entries), key=lambda option: len(option.data))
  return best


def shape_and_dtype(entry: Any) -> tuple[tuple[int, ...], np.dtype]:
  """Returns what the facts of a leaf promise, checked.

  Raises:
    ValueError: for sizes below 0, too many axes or entries, or a dtype that is not known.
  """
  dtype = DTYPES[facts.one_of(entry, 'dtype', DTYPES)]
  shape = entry.get('shape')
  if not isinstance(shape, list) or len(shape) > MAX_AXES:
    raise ValueError(f'shape={shape!r} must be a list of at most {MAX_AXES} sizes')
  for size in shape:
    facts.whole({'size': size}, 'size', 0, MAX_ENTRIES)
  if math.prod(max(1, size) for size in shape) >= MAX_ENTRIES:
    raise ValueError(f'shape={shape} exceeds {MAX_ENTRIES} entries')
  return tuple(shape), dtype


def excess_bytes(entry: Any) -> int:
  """Returns the decoded bytes beyond `MAX_EXPANSION` times the stored; takes no memory.

  Raises:
    ValueError: as `shape_and_dtype`, or for a kind that is not known.
  """
  shape, dtype = shape_and_dtype(entry)
  kind = facts.one_of(entry['values'], 'kind', values.KINDS)
  if facts.one_of(entry['positions'], 'kind', positions.KINDS) != 'all' and kind == 'raw':
    kind = 'zstd'
  if 'count' in entry['positions']:
    facts.whole(entry['positions'], 'count', 0, math.prod(shape))
  working = _BYTES_A_PLACE * entry['positions'].get('count', 0)
  size = math.prod(shape) * dtype.itemsize + working
  return max(0, size - MAX_EXPANSION[kind] * entry['bytes'])


def bound_bits(entry: Any, array: np.ndarray) -> float:
  """Returns what an ideal coder needs for the symbols of a coded leaf, in bits.

  Positions and codes by their own frequencies, order 0; codebook and raw bits as they are.
  """
  flat = np.ascontiguousarray(array).reshape(-1).view(f'u{array.dtype.itemsize}')
  kept = flat != 0
  place, stored = positions.everything(), flat
  if entry['positions']['kind'] == 'bitmask':
    place, stored = positions.bitmask(kept), flat[kept]
  elif entry['positions']['kind'] == 'gaps':
    place, stored = positions.by_gaps(kept, ('fixed',)), flat[kept]
  elif entry['positions']['kind'] == 'relative':
    place, places = positions.relative(kept, entry['positions']['width'], ('fixed',))
    stored = flat[places]
  kind = entry['values']['kind']
  if kind == 'codebook':
    return place.entropy_bits + values.codebook(
        stored, values.Codebook(np.unique(stored)), ('fixed',)).entropy_bits
  if kind == 'planes':
    return place.entropy_bits + values.planes(stored, ('fixed',)).entropy_bits
  return place.entropy_bits + 8.0 * (entry['bytes'] - entry['position_bytes'])


def decode(entry: Any, data: memoryview) -> np.ndarray:
  """The inverse of `encode`: a writable array.

  Raises:
    ValueError: for facts or bytes that `encode` does not write.
  """
  shape, dtype = shape_and_dtype(entry)
  size = math.prod(shape)
  split = facts.whole(entry, 'position_bytes', 0, len(data))
  places = positions.decode(entry['positions'], data[:split], size)
  count = size if places is None else len(places)
  stored = values.decode(entry['values'], data[split:], count, dtype.itemsize)
  if places is None:
    flat = stored if stored.flags.writeable else stored.copy()
  else:
    flat = np.zeros(size, stored.dtype)
    flat[places] = stored
  if dtype == np.bool_ and flat.max(initial=0) > 1:
    raise ValueError(f'a bool of {int(flat.max())}')
  return flat.view(dtype).reshape(shape)
