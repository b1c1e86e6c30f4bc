"""Streams of symbols and their frequency tables: exact, small, the same on every machine."""
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsejax.codec import ans, bits, frequencies, gaps, symbols

SOME = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@SOME
@given(st.integers(0, 40), st.data())
def test_bits_come_back_in_as_many_bytes_as_they_take(width, data):
  values = np.array(data.draw(st.lists(st.integers(0, 2**width - 1), max_size=40)), np.int64)
  stored = bits.pack(values, width)
  assert len(stored) == -(-len(values) * width // 8)
  expected = ''.join(f'{value:0{width}b}' for value in values) if width else ''
  assert ''.join(f'{byte:08b}' for byte in stored).startswith(expected)
  np.testing.assert_array_equal(bits.unpack(stored, len(values), width), values)


def test_bits_longer_than_a_chunk_come_back():
  values = np.random.default_rng(0).integers(0, 2**11, 100_003)
  np.testing.assert_array_equal(bits.unpack(bits.pack(values, 11), 100_003, 11), values)
  with pytest.raises(ValueError, match='not 0'):
    bits.unpack(b'\x01', 1, 3)
  with pytest.raises(ValueError, match='take 2 bytes'):
    bits.unpack(b'\x01', 3, 3)


@SOME
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=64).filter(any),
       st.sampled_from(frequencies.TABLE_BITS))
def test_tables_sum_to_a_power_of_two_and_forget_no_symbol(counts, table_bits):
  counts = np.array(counts)
  table = frequencies.quantise(counts, table_bits)
  assert table.sum() == 2**table_bits and (table[counts > 0] > 0).all()
  # One for each live symbol, the rest in proportion, rounded to one at most.
  ideal = counts / counts.sum() * (2**table_bits - np.count_nonzero(counts))
  assert (np.abs(table - ideal - (counts > 0)) <= 1 + 1e-6).all()
  stored = frequencies.to_bytes(table, table_bits)
  assert 8 * len(stored) == frequencies.stored_bits(len(table), table_bits)
  np.testing.assert_array_equal(
      frequencies.from_bytes(stored, len(table), table_bits), table)


@pytest.mark.parametrize('weights', [[0, 0], [1, -1], [np.nan, 1], [np.inf, 1], [1] * 65])
def test_what_is_no_frequency_is_refused(weights):
  with pytest.raises(ValueError, match='do not make a table of sum 64'):
    frequencies.quantise(np.array(weights), 6)


@SOME
@given(st.integers(1, 300), st.integers(0, 400), st.integers(0, 2**32 - 1), st.floats(0.01, 3),
       st.sampled_from([('fixed',), ('huffman',), ('ans',), symbols.CODERS]))
def test_any_stream_comes_back(alphabet, count, seed, concentration, coders):
  rng = np.random.default_rng(seed)
  drawn = rng.choice(alphabet, count, p=rng.dirichlet(np.full(alphabet, concentration)))
  coded = symbols.encode(drawn, alphabet, coders)
  assert coded.facts['bytes'] == len(coded.data)
  behind = memoryview(coded.data + b'behind')
  np.testing.assert_array_equal(symbols.decode(coded.facts, behind, count), drawn)


def test_ans_is_near_the_entropy():
  rng = np.random.default_rng(0)
  shares = rng.dirichlet(np.ones(64))
  drawn = rng.choice(64, 100_000, p=shares)
  counts = np.bincount(drawn, minlength=64)
  found = counts[counts > 0] / counts.sum()
  entropy = -(counts[counts > 0] * np.log2(found)).sum()
  coded = symbols.encode(drawn, 64)
  assert coded.facts['coder'] == 'ans'
  np.testing.assert_allclose(coded.entropy_bits, entropy, rtol=1e-12)
  # The table takes 63 frequencies of at most 20 bits; besides, a tenth of a percent.
  assert entropy <= 8 * len(coded.data) <= 1.001 * entropy + 63 * 20 + 64


def test_ans_gives_the_bytes_that_files_hold():
  """A golden value: another version of constriction must read what this one wrote."""
  table = np.array([1, 2, 5, 56])
  drawn = np.arange(3000) * 7919 % 64
  drawn = np.searchsorted(np.cumsum(table), drawn, side='right')
  data = ans.encode(drawn, table)
  assert hashlib.sha256(data).hexdigest()[:16] == '62a7648e3e58f8e7'
  np.testing.assert_array_equal(ans.decode(data, table, 3000), drawn)


def test_probabilities_given_are_those_coded_with():
  drawn = np.array([0] * 900 + [1] * 100)
  coded = symbols.encode(drawn, 2, probabilities=np.array([0.5, 0.5]))
  assert coded.entropy_bits == 1000 and 125 <= len(coded.data) <= 125 + 3 + 8
  with pytest.raises(ValueError, match='symbol 1 occurs, but its frequency is 0'):
    symbols.encode(drawn, 2, probabilities=np.array([1.0, 0.0]))


@pytest.mark.parametrize('facts, match', [
    ({'coder': 'zip'}, "coder='zip' is unknown"), ({'alphabet': 0}, 'alphabet=0 must be'),
    ({'alphabet': 1 << 20}, 'alphabet=1048576 must be'), ({'bytes': 10**6}, 'bytes=1000000 must'),
    ({'bits': 63}, 'bits=63 must be'), ({'coder': 'fixed'}, 'bits=.* must be'),
])
def test_facts_that_no_stream_has(facts, match):
  coded = symbols.encode(np.arange(5000) % 3, 3, ('ans',))
  with pytest.raises(ValueError, match=match):
    symbols.decode({**coded.facts, **facts}, memoryview(coded.data), 5000)


@SOME
@given(st.lists(st.one_of(st.integers(0, 100), st.integers(0, gaps.MAX_GAP)), max_size=60))
def test_any_gaps_come_back(drawn):
  found = np.array(drawn, np.int64)
  coded = gaps.encode(found)
  np.testing.assert_array_equal(gaps.decode(coded.facts, memoryview(coded.data), len(found)), found)


def test_gaps_of_an_independent_mask_are_near_its_entropy():
  rng = np.random.default_rng(0)
  kept = rng.random(300_000) < 0.05
  n, k = len(kept), int(kept.sum())
  mask_bits = -(k * np.log2(k / n) + (n - k) * np.log2(1 - k / n))
  coded = gaps.encode(gaps.between(np.flatnonzero(kept)))
  # Gaps in a part of an octave count as equally likely; the table takes at most 60 x 20 bits.
  assert abs(8 * len(coded.data) / mask_bits - 1) < 0.01
