"""Streams of small integers: fixed width, Huffman or ANS, whichever takes the fewest bytes.

The facts of a stream, for the header: {'coder', 'alphabet', 'bits', 'bytes'}. `bits` is the width
of fixed codes, the precision of ANS frequencies, and 0 for Huffman.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sparsejax.codec import ans, bits, facts, frequencies, huffman

CODERS = ('fixed', 'huffman', 'ans')
MAX_ALPHABET = 1 << 16
# Beside ANS, Huffman wins only by its shorter table, so only where symbols are few.
_HUFFMAN_BELOW = 4096


class Coded(NamedTuple):
  """A stream: what the header says of it, its bytes, and the least its symbols could take.

  Attributes:
    entropy_bits: of all symbols with their own frequencies, tables apart.
  """
  facts: dict[str, Any]
  data: bytes
  entropy_bits: float


def encode(symbols: np.ndarray, alphabet: int, coders: tuple[str, ...] = CODERS,
           probabilities: np.ndarray | None = None) -> Coded:
  """Codes `symbols` (n,), integers in [0, alphabet), by the smallest of `coders`.

  Args:
    probabilities: (alphabet,) to code with in place of the frequencies found: ANS alone, and
      `entropy_bits` is then -sum log2 of the probabilities given.

  Raises:
    ValueError: for a symbol that occurs with probability 0, or an alphabet too large.
  """
  if not 1 <= alphabet <= MAX_ALPHABET:
    raise ValueError(f'an alphabet of {alphabet} symbols; 1 to {MAX_ALPHABET} can be coded')
  counts = frequencies.count(symbols, alphabet)
  options: list[tuple[float, str, int, Callable[[], bytes]]] = []   # bits, coder, fact, encoder
  width = (alphabet - 1).bit_length()
  entropy = frequencies.entropy_bits(counts)
  if probabilities is not None:
    coders = ('ans',)
    if np.shape(probabilities) != (alphabet,):
      raise ValueError(f'{np.shape(probabilities)} probabilities for {alphabet} symbols')
    shares = np.asarray(probabilities, np.float64)
    entropy = frequencies.cross_entropy_bits(counts, shares)
  if 'fixed' in coders:
    options.append((8 * bits.packed_bytes(len(symbols), width), 'fixed', width,
                    lambda: bits.pack(symbols, width)))
  if 'huffman' in coders and 'ans' in coders and len(symbols) > _HUFFMAN_BELOW:
    coders = tuple(coder for coder in coders if coder != 'huffman')
  if 'huffman' in coders and len(symbols) and alphabet <= huffman.MAX_ALPHABET:
    lengths = huffman.code_lengths(counts)
    total = 8 * huffman.table_bytes(alphabet) + huffman.encoded_bits(counts, lengths)
    options.append((total, 'huffman', 0, lambda: huffman.encode(symbols, lengths)))
  if 'ans' in coders and len(symbols):
    precision, table, cost = frequencies.best_table(counts, probabilities)
    options.append((cost + 32, 'ans', precision, lambda: (
        frequencies.to_bytes(table, precision) + ans.encode(symbols, table))))
  if not options:      # no symbols: nothing to code, whatever the coder
    options.append((0, 'fixed', width, lambda: b''))
  _, coder, number, run = min(options, key=lambda option: option[0])
  data = run()
  return Coded({'coder': coder, 'alphabet': alphabet, 'bits': number, 'bytes': len(data)}, data,
               entropy)


def decode(entry: Any, data: memoryview, count: int) -> np.ndarray:
  """The inverse of `encode`: (count,) in a small unsigned type; `data` starts with the stream.

  Raises:
    ValueError: for facts or bytes that `encode` does not write.
  """
  facts.fields(entry, ('coder', 'alphabet', 'bits', 'bytes'), 'a stream of symbols')
  coder = facts.one_of(entry, 'coder', CODERS)
  alphabet = facts.whole(entry, 'alphabet', 1, MAX_ALPHABET)
  data = data[:facts.whole(entry, 'bytes', 0, len(data))]
  if coder == 'fixed':
    width = (alphabet - 1).bit_length()
    facts.whole(entry, 'bits', width, width)
    symbols = bits.unpack(data, count, width)
  elif coder == 'huffman':
    facts.whole(entry, 'bits', 0, 0)
    facts.whole(entry, 'alphabet', 1, huffman.MAX_ALPHABET)
    symbols = huffman.decode(data, alphabet, count)
  else:
    precision = facts.whole(entry, 'bits', frequencies.TABLE_BITS[0], frequencies.TABLE_BITS[-1])
    size = bits.packed_bytes(alphabet - 1, precision)
    table = frequencies.from_bytes(data[:size], alphabet, precision)
    symbols = ans.decode(data[size:], table, count)
  if count and int(symbols.max()) >= alphabet:
    raise ValueError(f'symbol {int(symbols.max())} is outside the alphabet of {alphabet}')
  return symbols
