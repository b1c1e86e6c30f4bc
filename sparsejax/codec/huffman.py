"""Huffman codes (1952), canonical, of at most 16 bits.

Code lengths by package-merge (Larmore and Hirschberg, 1990): the best prefix code under the limit,
which is Huffman's own wherever that is no longer than 16 bits. Codes of one length count up in the
order of symbols, so that lengths alone say the code.
"""
from __future__ import annotations

import numpy as np

from sparsejax.codec import bits

MAX_LENGTH = 16
MAX_ALPHABET = 4096
_LENGTH_BITS = 5
_CHUNK = 1 << 13


def code_lengths(counts: np.ndarray, max_length: int = MAX_LENGTH) -> np.ndarray:
  """Returns the code length of each symbol (k,), 0 where the count is 0, and 1 for a lone symbol.

  Raises:
    ValueError: if no count is positive, or more are than codes of `max_length` bits exist.
  """
  counts = np.asarray(counts)
  used = [int(symbol) for symbol in np.flatnonzero(counts)]
  lengths = np.zeros(len(counts), np.int64)
  if not used or len(used) > 1 << max_length:
    raise ValueError(f'{len(used)} symbols with positive counts have no code of at most '
                     f'{max_length} bits')
  if len(used) == 1:
    lengths[used] = 1
    return lengths
  leaves = sorted((int(counts[symbol]), (symbol,)) for symbol in used)
  packages: list[tuple[int, tuple[int, ...]]] = []
  for _ in range(max_length):
    row = sorted(leaves + packages, key=lambda package: package[0])
    packages = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(row[::2], row[1::2])]
  for _, members in packages[:len(used) - 1]:
    np.add.at(lengths, list(members), 1)
  return lengths


def codes_of(lengths: np.ndarray) -> np.ndarray:
  """Returns the canonical code of each symbol (k,), an integer of `lengths` bits.

  Raises:
    ValueError: if the lengths are those of no prefix code, or leave codes unused (but for one
      symbol alone).
  """
  lengths = np.asarray(lengths, np.int64)
  used = np.flatnonzero(lengths)
  space = int((1 << (MAX_LENGTH - lengths[used])).sum()) if (lengths <= MAX_LENGTH).all() else -1
  if space != 1 << MAX_LENGTH and not (len(used) == 1 and lengths[used[0]] == 1):
    raise ValueError('code lengths do not add up to a full prefix code of at most '
                     f'{MAX_LENGTH} bits')
  codes = np.zeros(len(lengths), np.int64)
  code, before = 0, 0
  for symbol in sorted(used, key=lambda symbol: (lengths[symbol], symbol)):
    code <<= int(lengths[symbol]) - before
    before = int(lengths[symbol])
    codes[symbol] = code
    code += 1
  return codes


def encoded_bits(counts: np.ndarray, lengths: np.ndarray) -> int:
  """Returns the bits of the symbols, without the table."""
  return int((np.asarray(counts) * lengths).sum())


def table_bytes(alphabet: int) -> int:
  """Returns the bytes of the lengths in a file."""
  return bits.packed_bytes(alphabet, _LENGTH_BITS)


def encode(symbols: np.ndarray, lengths: np.ndarray) -> bytes:
  """Returns the lengths and the codes of `symbols` (n,)."""
  codes = codes_of(lengths)
  parts = [bits.pack(lengths, _LENGTH_BITS)]
  left = np.zeros(0, np.uint8)
  columns = np.arange(MAX_LENGTH)
  for start in range(0, len(symbols), _CHUNK):
    chunk = symbols[start:start + _CHUNK]
    length = lengths[chunk]
    shift = length[:, None] - 1 - columns
    binary = ((codes[chunk][:, None] >> np.maximum(shift, 0)) & 1).astype(np.uint8)
    stream = np.concatenate([left, binary[shift >= 0]])
    whole = len(stream) // 8 * 8
    parts.append(np.packbits(stream[:whole]).tobytes())
    left = stream[whole:]
  return b''.join([*parts, np.packbits(left).tobytes()])


def decode(data: bytes | memoryview, alphabet: int, count: int) -> np.ndarray:
  """The inverse of `encode`: (count,) symbols in the smallest unsigned type.

  Raises:
    ValueError: if the lengths are no prefix code, or the stream is too short or too long.
  """
  size = table_bytes(alphabet)
  lengths = bits.unpack(data[:size], alphabet, _LENGTH_BITS).astype(np.int64)
  stream = np.frombuffer(data[size:], np.uint8)
  symbol_at, length_at = _window_tables(lengths)
  symbols = np.empty(count, np.min_scalar_type(max(0, alphabet - 1)))
  done, position, end = 0, 0, 8 * len(stream)
  while done < count:
    first = position // 8
    windows = _windows(stream[first:first + _CHUNK + 4])
    step = length_at[windows].tolist()
    places, at, limit = [], position - 8 * first, min(len(step), 8 * _CHUNK)
    if at >= limit:
      raise ValueError(f'the stream ends behind {done} of {count} symbols')
    room = count - done
    while at < limit and room:
      places.append(at)
      at += step[at]
      room -= 1
    symbols[done:done + len(places)] = symbol_at[windows[places]]
    done += len(places)
    position = 8 * first + at
  if position > end or end - position >= 8 or _tail(stream, position):
    raise ValueError(f'{count} symbols take {position} bits, but the stream has {end}')
  return symbols


def _window_tables(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """For each value of the next 16 bits, the symbol they start with and its length."""
  codes = codes_of(lengths)
  symbol_at = np.zeros(1 << MAX_LENGTH, np.uint16)
  length_at = np.ones(1 << MAX_LENGTH, np.uint8)
  for symbol in np.flatnonzero(lengths):
    spare = MAX_LENGTH - int(lengths[symbol])
    block = slice(int(codes[symbol]) << spare, (int(codes[symbol]) + 1) << spare)
    symbol_at[block] = symbol
    length_at[block] = lengths[symbol]
  return symbol_at, length_at


def _windows(stream: np.ndarray) -> np.ndarray:
  """The 16 bits from each bit of the stream on, zeros behind its end: (8 * bytes,) uint16."""
  padded = np.append(stream, np.zeros(2, np.uint8)).astype(np.uint32)
  word = (padded[:-2] << 16) | (padded[1:-1] << 8) | padded[2:]
  shifts = np.arange(8, 0, -1, dtype=np.uint32)
  return ((word[:, None] >> shifts) & 0xffff).astype(np.uint16).reshape(-1)


def _tail(stream: np.ndarray, position: int) -> bool:
  """Whether a bit behind the last symbol is set."""
  return bool(np.unpackbits(stream[position // 8:])[position % 8:].any())
