"""`pack`: what it stores, what it leaves dense, and what it says about it."""

import jax
import numpy as np
import pytest

import sparsejax
from sparsejax import BlockSparse, packing
from sparsejax.kernels.block_sparse import cost


def table(per_entry):
  """A made-up device: a dense product costs 100 us at 64 x 64 and 8 rows, an entry `per_entry`."""
  grid = {(8, 8): 1.0, (16, 8): 1.0}
  forms = [(operation, form) for operation in cost.OPERATIONS
           for form in ('gather', 'gather_t', 'scan', 'scan_t')]
  dense = {operation: {(4096, 8): 100.0, (8192, 8): 100.0} for operation in cost.OPERATIONS}
  return cost.Table('made up', 128, 2**20, 2**24, dict.fromkeys(forms, grid),
                    *2 * [dict.fromkeys(forms, {key: per_entry for key in grid})], dense, dense)


@pytest.fixture
def weights():
  rng = np.random.default_rng(0)
  kernel = rng.standard_normal((64, 64)).astype(np.float32)
  mask = np.kron(rng.random((8, 8)) < 0.25, np.ones((8, 8)))
  return {'a': {'kernel': kernel * mask.astype(np.float32), 'bias': np.zeros(64, np.float32)},
          'b': {'kernel': kernel}}


def test_what_gains_is_packed_and_the_rest_left_alone(weights, monkeypatch):
  monkeypatch.setattr(cost, 'table_for', lambda *device: table(per_entry=2.0))
  packed, report = sparsejax.pack(weights, {'./kernel': 8}, rows=8)
  assert isinstance(packed['a']['kernel'], BlockSparse)
  np.testing.assert_array_equal(packed['a']['kernel'].to_dense(), weights['a']['kernel'])
  np.testing.assert_array_equal(packed['b']['kernel'], weights['b']['kernel'])
  assert packed['a']['bias'] is weights['a']['bias']
  sparse, dense = report
  # 1 us fixed and 2 us an entry, against 100 us.
  assert sparse.sparse_microseconds == pytest.approx(1 + 2 * packed['a']['kernel'].capacity)
  assert (sparse.packed, dense.packed) == (True, False)
  assert 'left dense, nothing would be gained: 129 us against 100 us dense' in dense.reason
  assert dense.density == 1.0


def test_training_counts_all_three_products(weights, monkeypatch):
  monkeypatch.setattr(cost, 'table_for', lambda *device: table(per_entry=2.0))
  _, (found,) = sparsejax.pack(weights, {'a/kernel': 8}, rows=8, purpose='training')
  assert found.dense_microseconds == pytest.approx(300)


def test_what_is_packed_already_comes_back_dense_below_the_crossing(weights, monkeypatch):
  forced, _ = sparsejax.pack(weights, {'b/kernel': 8}, rows=8, force=True)
  assert isinstance(forced['b']['kernel'], BlockSparse)
  monkeypatch.setattr(cost, 'table_for', lambda *device: table(per_entry=2.0))
  back, _ = sparsejax.pack(forced, {'b/kernel': 8}, rows=8)
  assert isinstance(back['b']['kernel'], jax.Array)


def test_without_a_table_the_rule_of_thumb_is_named(weights, monkeypatch):
  monkeypatch.setattr(cost, 'table_for', lambda *device: None)
  _, report = sparsejax.pack(weights, {'./kernel': 8}, rows=8)
  assert [found.packed for found in report] == [True, False]
  assert all('no cost table' in found.reason for found in report)


@pytest.mark.parametrize('rules, options, message', [
    ({'c/kernel': 8}, {}, "the rule 'c/kernel' matches no weight; paths are a/bias, a/kernel"),
    ({'a/kernel': 8, './kernel': 8}, {}, 'a/kernel is matched by the rules'),
    ({'a/kernel': 24}, {}, 'a/kernel: blocks of 24 x 24 do not divide a matrix of 64 x 64'),
    ({'a/kernel': 8}, {'purpose': 'fun'}, "purpose='fun' is not 'inference' or 'training'"),
])
def test_bad_rules_are_named(weights, rules, options, message):
  with pytest.raises(ValueError, match=message):
    packing.pack(weights, rules, rows=8, **options)
