"""Codes that anybody must decode to the same bits."""
import hashlib
import math

import jax
import numpy as np
import pytest
from scipy import special, stats

from sparsejax import codec
from sparsejax.packed.random_code import (STEPS, WORDS, RandomCode, blocks_of, candidates, decode,
                                   normal_table)


def code(shape=(5, 7), bits=11, length=4, seed=3):
  blocks = blocks_of(math.prod(shape), length)
  indices = np.random.default_rng(0).integers(0, 2 ** bits, blocks).astype(np.uint32)
  return RandomCode(indices, np.float32(0.3), shape, bits, length, seed)


def test_no_entry_of_the_normal_table_hangs_on_the_last_bits_of_an_inverse_error_function():
  quantiles = special.ndtri((np.arange(WORDS) + 0.5) / WORDS) * STEPS
  to_middle = np.abs(np.abs(quantiles - np.floor(quantiles)) - 0.5)
  # Implementations of ndtri differ by some 1e-15 relative, here by less than 1e-10.
  assert to_middle.min() > 1e-7
  np.testing.assert_array_equal(normal_table(), (np.rint(quantiles) / STEPS).astype(np.float32))
  np.testing.assert_array_equal(normal_table(), -normal_table()[::-1])


def test_candidates_are_what_they_always_were():
  """The digest is that of this table on the day the format was made: files depend on it."""
  table = candidates(seed=7, bits=10, length=30)
  assert table.shape == (1024, 30) and table.dtype == np.float32
  assert hashlib.sha256(table.astype('<f4').tobytes()).hexdigest() == (
      'cc33c6aee3849b45b490bf8cac9791c45f8133cc0998f99b9c32e768c45c0073')


def test_candidates_are_standard_normal():
  table = candidates(seed=1, bits=12, length=25)
  # Rounding to 2^-12 moves the distribution function by at most 0.4 * 2^-13.
  assert stats.kstest(table.reshape(-1), stats.norm.cdf).statistic < 1.63 / math.sqrt(
      table.size) + 5e-5                               # 1 % level
  assert abs(np.corrcoef(table[:, 0], table[:, 1])[0, 1]) < 4 / math.sqrt(len(table))


@pytest.mark.parametrize('shape, length', [((5, 7), 4), ((3,), 8), ((2, 3, 4), 24), ((7, 1), 1)])
def test_decoding_is_a_loop_over_entries(shape, length):
  made = code(shape, length=length)
  table, blocks = candidates(3, 11, length), len(made.indices)
  wanted = [table[made.indices[i % blocks], i // blocks] * np.float32(0.3)
            for i in range(math.prod(shape))]
  np.testing.assert_array_equal(made.to_dense(), np.reshape(wanted, shape))
  np.testing.assert_array_equal(
      decode(made.indices, np.float32(0.3), shape, 11, length, 3), made.to_dense())


@pytest.mark.parametrize('bits', [1, 8, 11, 16])
def test_a_file_holds_the_indices_bit_by_bit(tmp_path, bits):
  made = code(bits=bits)
  tensors, _ = made.to_tensors()
  assert tensors['code'].nbytes == math.ceil(len(made.indices) * bits / 8)
  codec.write(tmp_path / 'w.safetensors', {'dense': {'kernel': made}})
  read = codec.read(tmp_path / 'w.safetensors')['dense']['kernel']
  assert isinstance(read, RandomCode)
  np.testing.assert_array_equal(read.indices, made.indices)
  np.testing.assert_array_equal(np.asarray(read.to_dense()), np.asarray(made.to_dense()))
  assert (read.shape, read.ndim, read.entries()) == ((5, 7), 2, 35)
  assert read.dtype == np.float32


@pytest.mark.parametrize('change', [{'bits': 21}, {'bits': 0}, {'bits': 2.0}, {'length': 0},
                                    {'length': 2000},
                                    {'seed': -1}, {'shape': [5, 0]}, {'shape': None}])
def test_facts_out_of_range_are_refused(change):
  tensors, facts = code().to_tensors()
  with pytest.raises(ValueError, match='cannot be'):
    RandomCode.from_tensors(tensors, {**facts, **change})


def test_a_code_of_another_length_is_refused():
  tensors, facts = code().to_tensors()
  with pytest.raises(ValueError, match='takes 13 bytes, found uint8'):
    RandomCode.from_tensors({**tensors, 'code': tensors['code'][:-1]}, facts)


def test_it_is_a_tree_of_its_indices_and_scale():
  assert len(jax.tree.leaves(code())) == 2
