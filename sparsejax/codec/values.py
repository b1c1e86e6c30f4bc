"""The bits of stored entries: raw, by zstandard, byte by byte, or as codes into a codebook.

Entries come as unsigned integers of their own width, so that NaNs and signs of zero are bits like
others. The facts of each kind, for the header:
  {'kind': 'raw'}
  {'kind': 'zstd'}
  {'kind': 'planes', 'planes': [symbols, ...]}     each byte of an entry apart, the lowest first
  {'kind': 'codebook', 'codes': symbols}           the distinct entries, ascending, then the codes
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import zstandard

from sparsejax.codec import facts, frequencies, symbols

KINDS = ('raw', 'zstd', 'planes', 'codebook')
_FIELDS = {'raw': ('kind',), 'zstd': ('kind',), 'planes': ('kind', 'planes'),
           'codebook': ('kind', 'codes')}
ZSTD_LEVEL = 3            # 19 gains about a percent on weights at a tenth of the speed
MAX_CODEBOOK = 4096       # of entries wider than two bytes; larger tables rarely pay
_CHUNK = 1 << 16
_SAMPLE = 1 << 15
_NOISE = 0.99             # of its bits: a plane of more entropy is not worth the time to decode it
_WINDOW_LOG = 27          # what zstandard itself refuses to exceed unasked


class Coded(NamedTuple):
  """Facts for the header, bytes, and the bits an ideal coder of the same symbols would need."""
  facts: dict[str, Any]
  data: bytes
  entropy_bits: float


class Codebook(NamedTuple):
  """Values a leaf may take, as bits and ascending, with probabilities to code them by."""
  entries: np.ndarray
  probabilities: np.ndarray | None = None


def little_endian(width: int) -> np.dtype:
  """Returns the dtype of an entry's bits in a file."""
  return np.dtype(f'<u{width}')


def codebook_of(dtype: np.dtype, entries: Any, probabilities: Any) -> Codebook:
  """Returns the codebook of values (k,) of this dtype with their probabilities (k,).

  Raises:
    ValueError: for shapes that differ, values that repeat, or probabilities that are none.
  """
  stored = np.asarray(entries, dtype).reshape(-1).view(f'u{dtype.itemsize}')
  shares = np.asarray(probabilities, np.float64).reshape(-1)
  order = np.argsort(stored, kind='stable')
  if stored.shape != shares.shape or len(np.unique(stored)) < len(stored):
    raise ValueError(f'{len(stored)} values with {len(shares)} probabilities are no codebook; give '
                     'as many of each and no value twice')
  if not np.isfinite(shares).all() or (shares <= 0).any() or abs(shares.sum() - 1) > 1e-3:
    raise ValueError(f'probabilities must be positive and add up to 1, not {shares.sum():g}')
  return Codebook(stored[order], shares[order] / shares.sum())


def raw(entries: np.ndarray) -> Coded:
  """The bits as they are."""
  data = entries.astype(little_endian(entries.itemsize), copy=False).tobytes()
  return Coded({'kind': 'raw'}, data, 8.0 * len(data))


def zstd(entries: np.ndarray) -> Coded:
  """The bits through zstandard."""
  stored = entries.astype(little_endian(entries.itemsize), copy=False)
  data = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(
      np.ascontiguousarray(stored).view(np.uint8).data)
  return Coded({'kind': 'zstd'}, data, 8.0 * len(data))


def planes(entries: np.ndarray, coders: tuple[str, ...]) -> Coded:
  """Each byte of the entries coded apart: exponents repeat, low bits of mantissas do not."""
  coded = []
  for plane in _planes(entries):
    counts = frequencies.count(plane, 256)
    noise = frequencies.entropy_bits(counts) > _NOISE * 8 * len(plane)
    coded.append(symbols.encode(plane, 256, ('fixed',) if noise else coders))
  return Coded({'kind': 'planes', 'planes': [plane.facts for plane in coded]},
               b''.join(plane.data for plane in coded), sum(p.entropy_bits for p in coded))


def codebook(entries: np.ndarray, book: Codebook, coders: tuple[str, ...]) -> Coded:
  """Codes into `book`, which holds every entry.

  Raises:
    ValueError: for an entry that the book does not hold.
  """
  codes = np.empty(len(entries), np.min_scalar_type(len(book.entries)))
  look_up = _index_of(book.entries)
  for start in range(0, len(entries), _CHUNK):
    chunk = entries[start:start + _CHUNK]
    code = look_up(chunk)
    if (book.entries[code] != chunk).any():
      raise ValueError(f'a weight is none of the {len(book.entries)} values of its codebook')
    codes[start:start + _CHUNK] = code
  stream = symbols.encode(codes, len(book.entries), coders, book.probabilities)
  table = raw(book.entries)
  return Coded({'kind': 'codebook', 'codes': stream.facts}, table.data + stream.data,
               stream.entropy_bits + table.entropy_bits)


def distinct(entries: np.ndarray) -> np.ndarray | None:
  """Returns the distinct entries, ascending, or None where they are too many for a codebook."""
  limit = min(MAX_CODEBOOK, max(1, len(entries) // 2)) if entries.itemsize > 2 else 1 << 16
  found = np.unique(entries[:_SAMPLE])
  for start in range(0, len(entries), _CHUNK):
    if not 0 < len(found) <= limit:
      return None
    chunk = entries[start:start + _CHUNK]
    new = chunk[found[_index_of(found)(chunk)] != chunk]
    if len(new):
      found = np.union1d(found, new)
  return found if 0 < len(found) <= limit else None


def _index_of(book: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
  """Returns entries -> their index in `book`; for an entry that it does not hold, any index.

  Where 16 neighbouring bits tell the book's entries apart, it is a table look-up, five times as
  fast as a search.
  """
  for shift in range(0, 8 * book.itemsize - 15, 8):
    keys = (book >> book.dtype.type(shift)).astype(np.uint16)
    if len(np.unique(keys)) == len(book):
      table = np.zeros(1 << 16, np.uint16)
      table[keys] = np.arange(len(book))
      amount = book.dtype.type(shift)
      return lambda entries: table[(entries >> amount).astype(np.uint16)]
  return lambda entries: np.minimum(np.searchsorted(book, entries), len(book) - 1)


def zstd_may_win(entries: np.ndarray, size: int) -> bool:
  """Returns whether zstandard may need fewer than `size` bytes; judges many entries by a part."""
  part = entries[len(entries) // 2:][:_SAMPLE]
  if not len(part) or 2 * _SAMPLE > len(entries):
    return bool(len(entries))
  return len(zstd(part).data) * len(entries) < 1.05 * size * len(part)


def decode(entry: Any, data: memoryview, count: int, width: int) -> np.ndarray:
  """Returns the entries (count,), unsigned integers of `width` bytes.

  Raises:
    ValueError: for facts or bytes that nothing here writes.
  """
  kind = facts.one_of(entry, 'kind', KINDS)
  facts.fields(entry, _FIELDS[kind], f'values of kind {kind}')
  native = np.dtype(f'u{width}')
  if kind == 'zstd':
    data = memoryview(unzstd(data, count * width))
  if kind in ('raw', 'zstd'):
    facts.exact_bytes(data, count * width, f'{count} entries of {width} bytes')
    return np.frombuffer(data, little_endian(width)).astype(native, copy=False)
  if kind == 'planes':
    return _from_planes(entry['planes'], data, count, native)
  facts.fields(entry['codes'], ('coder', 'alphabet', 'bits', 'bytes'), 'codes of a codebook')
  size = facts.whole(entry['codes'], 'alphabet', 1, symbols.MAX_ALPHABET)
  if len(data) < size * width:
    raise ValueError(f'a codebook of {size} entries of {width} bytes exceeds the stream')
  book = np.frombuffer(data[:size * width], little_endian(width)).astype(native, copy=False)
  codes = symbols.decode(entry['codes'], data[size * width:], count)
  facts.exact_bytes(data, size * width + entry['codes']['bytes'], 'a codebook and its codes')
  return book[codes]


def _planes(entries: np.ndarray) -> Iterator[np.ndarray]:
  stored = entries.astype(little_endian(entries.itemsize), copy=False)
  yield from np.ascontiguousarray(stored).view(np.uint8).reshape(-1, entries.itemsize).T


def _from_planes(streams: Any, data: memoryview, count: int, native: np.dtype) -> np.ndarray:
  if not isinstance(streams, list) or len(streams) != native.itemsize:
    raise ValueError(f'entries of {native.itemsize} bytes need as many planes')
  stored = np.empty((count, native.itemsize), np.uint8)
  for plane, stream in enumerate(streams):
    stored[:, plane] = symbols.decode(stream, data, count)
    data = data[stream['bytes']:]
  facts.exact_bytes(data, 0, 'what is left behind the last plane')
  return stored.view(little_endian(native.itemsize)).reshape(-1).astype(native, copy=False)


def unzstd(data: memoryview, size: int) -> bytes:
  """Decompresses one frame, whose own size must be the one expected before memory is taken."""
  try:
    frame = zstandard.get_frame_parameters(data)
    if frame.content_size != size or frame.window_size > 1 << _WINDOW_LOG:
      raise ValueError(f'a frame of {frame.content_size} bytes in the place of {size}')
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=max(size, 1),
                                                   allow_extra_data=False)
  except zstandard.ZstdError as error:
    raise ValueError(f'values are no zstandard frame: {error}') from error
