"""Relative indices with fillers: the paper's example, a naive decoder, the expected fillers."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsejax.codec import leaf, relative_index


def naive_decode(steps, stored, size):
  """One entry after the other, as a device with a counter would do it."""
  dense, place = np.zeros(size, stored.dtype), -1
  for step, value in zip(steps, stored, strict=True):
    place += int(step) + 1
    dense[place] = value
  return dense


def test_the_figure_of_the_paper():
  """Han et al., figure 2: non-zeros at 1, 4, 15 with 3 bits; a filler bridges the long way.

  Its first difference is counted from 0 and ours from -1, and ours are written less 1.
  """
  steps, filler = relative_index.with_fillers(np.array([1, 4, 15]), 3)
  np.testing.assert_array_equal(steps, [1, 2, 7, 2])
  np.testing.assert_array_equal(filler, [False, False, True, False])
  np.testing.assert_array_equal(relative_index.places(steps), [1, 4, 12, 15])


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(hnp.arrays(np.bool_, st.integers(0, 300)), st.integers(1, 8))
def test_any_mask_comes_back(kept, width):
  dense = np.where(kept, np.arange(1, len(kept) + 1), 0)
  places = np.flatnonzero(kept)
  steps, filler = relative_index.with_fillers(places, width)
  assert (steps >= 0).all() and (steps < 2**width).all()
  assert filler.sum() == relative_index.count_fillers(places, width)
  stored = np.where(filler, 0, dense[relative_index.places(steps)])
  np.testing.assert_array_equal(naive_decode(steps, stored, len(kept)), dense)
  np.testing.assert_array_equal(relative_index.places(steps)[~filler], places)


@pytest.mark.parametrize('width', [1, 3, 5])
def test_fillers_of_an_independent_mask(width):
  """A step needs another filler with probability q^(2^width), so p n q^r / (1 - q^r) in all."""
  rng = np.random.default_rng(width)
  n, p = 400_000, 0.08
  places = np.flatnonzero(rng.random(n) < p)
  far = (1 - p)**(2**width)
  expected = len(places) * far / (1 - far)
  # Fillers of one entry are geometric: variance far / (1 - far)^2 each.
  spread = np.sqrt(len(places) * far) / (1 - far)
  assert abs(relative_index.count_fillers(places, width) - expected) < 5 * spread


@pytest.mark.parametrize('dense', [
    np.zeros(500, np.float32), np.eye(1, 500, 499, dtype=np.float32)[0],
    np.eye(1, 500, 0, dtype=np.float32)[0], np.ones(500, np.float32), np.zeros(0, np.float32),
])
def test_leaves_of_zeros_runs_and_nothing(dense):
  coded = leaf.encode(dense, 'deep_compression')
  found = leaf.decode(coded.facts, memoryview(coded.data))
  np.testing.assert_array_equal(found, dense)
