"""The named shapes are what their names say, and their integers are small enough to be exact."""
import numpy as np
import pytest

from sparsejax.kernels.block_sparse.arg_specs import (BENCHMARKS, CORRECTNESS, MIXED, NOTHING,
                                                      arguments, pattern)


def test_names_are_unique():
  names = [spec.name for spec in (*CORRECTNESS, *BENCHMARKS)]
  assert len(set(names)) == len(names) == len(CORRECTNESS) + 125


def test_the_corners_are_there():
  by_name = {spec.name: pattern(spec) for spec in CORRECTNESS}
  mixed = by_name['mixed']
  assert not mixed[:, 0].any() and not mixed[-1].any() and mixed.any()
  assert MIXED.inputs % MIXED.block[0] and MIXED.outputs % MIXED.block[1] and MIXED.spare
  assert not by_name['nothing'].any() and by_name['full'].all()
  assert by_name['one_block_of_many'].sum() == 1 and by_name['one_block'].shape == (1, 1)
  assert not by_name['empty_columns'][:, :2].any() and not by_name['empty_rows'][-2:].any()
  blocks = {spec.block for spec in CORRECTNESS}
  assert {(b, b) for b in (8, 16, 32, 64, 128, 256)} <= blocks


def test_benchmarks_hold_as_many_blocks_as_their_density_says():
  for spec in BENCHMARKS:
    if spec.block[0] >= 32:
      mask = pattern(spec)
      assert mask.sum() == max(1, round(spec.density * mask.size))


@pytest.mark.parametrize('spec', CORRECTNESS, ids=lambda spec: spec.name)
def test_every_sum_of_integers_is_exact_in_float32(spec):
  # All factors are multiples of 1/2 up to 3, at most four in a term: activation (x, gate, weight)
  # and gate, or the way back. So sums are multiples of 1/16, exact below 2**24 / 16 = 2**20. The
  # longest is the input gate's: over rows and outputs, of x times weight times gated cotangent.
  entries = np.kron(pattern(spec), np.ones(spec.block)).sum(axis=1).max()
  assert spec.m * entries * 3 * 3 * 3 < 2**20
  assert 3 * (3 * 3 * spec.inputs + 3) * spec.m < 2**20


def test_the_same_numbers_every_time_and_others_for_another_seed():
  first, again = arguments(MIXED), arguments(MIXED)
  np.testing.assert_array_equal(first.x, again.x)
  np.testing.assert_array_equal(first.weight.to_dense(), again.dense)
  assert np.any(np.asarray(first.x) != np.asarray(arguments(MIXED._replace(seed=5)).x))
  assert not np.any(arguments(NOTHING).dense)
