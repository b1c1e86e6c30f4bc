"""Integers of a fixed number of bits, most significant bit first, no space between them."""
from __future__ import annotations

import numpy as np

# Whole bytes for any width, and a bounded number of bits in memory at one byte each.
_CHUNK = 1 << 14


# The same bytes, without going through bits.
_WHOLE: dict[int, np.dtype] = {8: np.dtype('u1'), 16: np.dtype('>u2')}


def packed_bytes(count: int, width: int) -> int:
  """Returns the bytes that `count` integers of `width` bits take."""
  return (count * width + 7) // 8


def pack(values: np.ndarray, width: int) -> bytes:
  """Packs non-negative integers (n,) below 2**width; width 0 to 62 (0 takes no space)."""
  if not width or not len(values):
    return b''
  if width in _WHOLE:
    return values.astype(_WHOLE[width]).tobytes()
  parts = []
  for start in range(0, len(values), _CHUNK):
    chunk = values[start:start + _CHUNK].astype(np.int64)
    binary = np.empty((len(chunk), width), np.uint8)
    for column in range(width):
      binary[:, column] = (chunk >> (width - 1 - column)) & 1
    parts.append(np.packbits(binary).tobytes())
  return b''.join(parts)


def unpack(data: bytes | memoryview, count: int, width: int) -> np.ndarray:
  """The inverse of `pack`: (count,), in the smallest unsigned type that holds `width` bits.

  Raises:
    ValueError: if `data` is not of the length that they take, or the last bits are not 0.
  """
  if len(data) != packed_bytes(count, width):
    raise ValueError(f'{count} integers of {width} bits take {packed_bytes(count, width)} bytes, '
                     f'but the stream has {len(data)}')
  values = np.zeros(count, smallest_unsigned((1 << width) - 1))
  if not width or not count:
    return values
  if width in _WHOLE:
    return np.frombuffer(data, _WHOLE[width]).astype(values.dtype)
  stored = np.frombuffer(data, np.uint8)
  for start in range(0, count, _CHUNK):
    number = min(_CHUNK, count - start)
    first = start * width // 8
    binary = np.unpackbits(stored[first:first + packed_bytes(number, width)])
    if binary[number * width:].any():
      raise ValueError('the bits behind the last integer are not 0')
    chunk = np.zeros(number, np.int64)
    for column in binary[:number * width].reshape(number, width).T:
      chunk = (chunk << 1) | column
    values[start:start + number] = chunk
  return values


def smallest_unsigned(largest: int) -> np.dtype:
  """Returns the smallest unsigned dtype that holds `largest`."""
  return np.min_scalar_type(largest)
