"""Symmetric int8: half a step of error, exact zeros, and bytes that come back."""
import numpy as np
import pytest

from sparsejax.paths import flatten
from sparsejax.post_training import int8


def weights():
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(30, 7)).astype(np.float32)
  kernel[:, 3] = 0
  kernel[5] = 0
  return {'dense': {'kernel': kernel, 'bias': rng.normal(size=7).astype(np.float32)},
          'conv': {'kernel': rng.normal(size=(3, 3, 2, 4)).astype(np.float32)}}


def test_every_weight_moves_by_at_most_half_a_step_of_its_channel():
  before, after = flatten(weights()), flatten(int8.dequantise(int8.quantise(weights())))
  assert before.keys() == after.keys()
  np.testing.assert_array_equal(after['dense/bias'], before['dense/bias'])
  for path in ('dense/kernel', 'conv/kernel'):
    step = np.abs(before[path]).max(tuple(range(before[path].ndim - 1))) / 127
    # float32 rounding of the scale and of the product: 127 units in the last place at most
    assert np.all(np.abs(after[path] - before[path]) <= step * (0.5 + 127 * 2**-23))
    assert np.all(after[path][before[path] == 0] == 0)


def test_the_largest_of_each_channel_is_127():
  tensors = int8.quantise(weights())
  assert tensors['dense/kernel//int8'].dtype == np.int8
  largest = np.abs(tensors['dense/kernel//int8'].astype(int)).max(0)
  np.testing.assert_array_equal(largest, [127, 127, 127, 0, 127, 127, 127])


def test_bytes_come_back_and_damage_is_seen():
  tensors = int8.quantise(weights())
  data = int8.compress(tensors)
  back = int8.decompress(data)
  assert back.keys() == tensors.keys()
  for name in tensors:
    np.testing.assert_array_equal(back[name], tensors[name])
  with pytest.raises(ValueError, match='no compressed weights'):
    int8.decompress(data[:-9])


def test_what_is_not_finite_is_refused():
  with pytest.raises(ValueError, match='dense/kernel holds values that are not finite'):
    int8.quantise({'dense': {'kernel': np.array([[1.0, np.nan]])}})
