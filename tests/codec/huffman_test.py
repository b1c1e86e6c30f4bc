"""Huffman codes: no prefix code is shorter, every bit pattern is decoded, streams come back."""
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsejax.codec import huffman


def shortest(counts):
  """Least total bits over all full prefix codes of these counts, by trying every tree."""
  if len(counts) == 1:
    return 0
  best = math.inf
  # A tree is a split of the symbols into two; the first symbol goes left.
  rest = range(1, len(counts))
  for size in range(len(counts) - 1):
    for left in itertools.combinations(rest, size):
      sides = ([counts[0], *(counts[i] for i in left)],
               [counts[i] for i in rest if i not in left])
      best = min(best, sum(counts) + sum(map(shortest, sides)))
  return best


@pytest.mark.parametrize('counts', [
    [1, 1], [5, 1], [1, 1, 1], [8, 4, 2, 1, 1], [1, 2, 3, 5, 8, 13], [7, 7, 7, 7, 7, 7],
    [100, 1, 1, 1, 1, 50], [3, 1, 4, 1, 5, 9],
])
def test_no_prefix_code_is_shorter(counts):
  lengths = huffman.code_lengths(np.array(counts))
  assert huffman.encoded_bits(counts, lengths) == shortest(counts)
  assert sum(2.0**-length for length in lengths) == 1               # Kraft: no code is left over


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=80).filter(
    lambda counts: np.count_nonzero(counts) > 1))
def test_entropy_kraft_and_order(counts):
  counts = np.array(counts)
  lengths = huffman.code_lengths(counts)
  used = counts > 0
  assert ((lengths > 0) == used).all()
  assert (2.0**-lengths[used]).sum() == 1
  shares = counts[used] / counts.sum()
  entropy = -(shares * np.log2(shares)).sum()
  mean = (shares * lengths[used]).sum()
  # Within a bit of the entropy (Huffman, 1952); the limit adds at most phi^-(16 - 7 - 1) for 80
  # symbols, as 7 = ceil(log2(80 + ceil(log2(80)) - 16)) (Milidiu and Laber, 2001).
  assert entropy - 1e-9 <= mean < entropy + 1 + ((1 + 5**0.5) / 2)**-8
  order = np.argsort(-counts[used], kind='stable')
  assert (np.diff(lengths[used][order]) >= 0).all() or len(set(counts[used])) < used.sum()
  text = [f'{code:0{length}b}' for code, length in zip(huffman.codes_of(lengths)[used],
                                                        lengths[used])]
  assert not any(a != b and b.startswith(a) for a in text for b in text)


def test_lengths_stay_within_the_limit_and_are_best_there():
  fibonacci = [1, 1]
  while len(fibonacci) < 24:
    fibonacci.append(fibonacci[-1] + fibonacci[-2])
  lengths = huffman.code_lengths(np.array(fibonacci))
  assert lengths.max() == huffman.MAX_LENGTH           # without a limit it would be 23
  assert (2.0**-lengths).sum() == 1
  # Four symbols in at most two bits have one code alone.
  np.testing.assert_array_equal(huffman.code_lengths(np.array([100, 10, 1, 1]), 2), [2, 2, 2, 2])


def test_canonical_codes_by_hand():
  codes = huffman.codes_of(np.array([2, 1, 3, 3]))
  assert [f'{code:b}' for code in codes] == ['10', '0', '110', '111']


def naive_decode(data, lengths, count):
  """Bit by bit, with a dict of codes."""
  codes = huffman.codes_of(lengths)
  table = {(int(n), int(code)): symbol for symbol, (n, code) in enumerate(zip(lengths, codes)) if n}
  bits = np.unpackbits(np.frombuffer(data[huffman.table_bytes(len(lengths)):], np.uint8))
  found, length, code = [], 0, 0
  for bit in bits:
    length, code = length + 1, 2 * code + int(bit)
    if (length, code) in table and len(found) < count:
      found.append(table[length, code])
      length, code = 0, 0
  return found


@pytest.mark.parametrize('count', [1, 7, 1000, 200_000])
def test_streams_come_back(count):
  rng = np.random.default_rng(count)
  symbols = rng.choice(40, count, p=rng.dirichlet(np.full(40, 0.3))).astype(np.uint8)
  lengths = huffman.code_lengths(np.bincount(symbols, minlength=40))
  data = huffman.encode(symbols, lengths)
  bits = huffman.encoded_bits(np.bincount(symbols, minlength=40), lengths)
  assert len(data) == huffman.table_bytes(40) + (bits + 7) // 8
  np.testing.assert_array_equal(huffman.decode(data, 40, count), symbols)
  if count <= 1000:
    assert naive_decode(data, lengths, count) == symbols.tolist()


def test_one_symbol_alone_takes_a_bit_each():
  symbols = np.full(9, 2)
  data = huffman.encode(symbols, huffman.code_lengths(np.bincount(symbols, minlength=3)))
  assert len(data) == 2 + 2
  np.testing.assert_array_equal(huffman.decode(data, 3, 9), symbols)


def test_damage_is_named():
  symbols = np.array([0, 1, 2, 1, 0, 0])
  data = huffman.encode(symbols, huffman.code_lengths(np.bincount(symbols)))
  with pytest.raises(ValueError, match='the stream has'):
    huffman.decode(data + b'\0', 3, 6)
  with pytest.raises(ValueError, match='the stream'):
    huffman.decode(data[:-1], 3, 6)
  with pytest.raises(ValueError, match='no.* prefix code|full prefix code'):
    huffman.decode(bytes(2) + data[2:], 3, 6)
  with pytest.raises(ValueError, match='no code of at most 16 bits'):
    huffman.code_lengths(np.zeros(3, int))
