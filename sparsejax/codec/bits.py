"""Integers of a fixed number of bits, most significant bit first, no space between them."""
from __future__ import annotations

import numpy as np

# Whole bytes for any width, and a bounded number of bits in memory at one byte each.
_CHUNK = 1 << 15


def packed_bytes(count: int, width: int) -> int:
  """Returns the bytes that `count` integers of `width` bits take."""
  return (count * width + 7) // 8


def pack(values: np.ndarray, width: int) -> bytes:
  """Packs non-negative integers (n,) below 2**width; width 0 to 62 (0 takes no space)."""
  if not width or not len(values):
    return b''
  shifts = np.arange(width - 1, -1, -1, dtype=np.int64)
  parts = []
  for start in range(0, len(values), _CHUNK):
    chunk = values[start:start + _CHUNK].astype(np.int64)
    parts.append(np.packbits((chunk[:, None] >> shifts) & 1).tobytes())
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
