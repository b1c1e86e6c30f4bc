"""Layouts worked by hand, and their laws on random patterns."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsejax.kernels.block_sparse.layout import (capacity_for, layout_of_indices,
                                                   layout_of_mask)

MASK = np.array([[0, 0, 1],
                 [1, 0, 1],
                 [0, 0, 0]], bool)
layout_in_jit = jax.jit(layout_of_mask, static_argnums=1)


def test_a_pattern_by_hand():
  # Column 0 holds row 1, column 1 a filler in row 0, column 2 rows 0 and 1; two entries are spare.
  layout = layout_of_mask(MASK, 6)
  np.testing.assert_array_equal(layout.row, [1, 0, 0, 1, 2, 2])
  np.testing.assert_array_equal(layout.col, [0, 1, 2, 2, 2, 2])
  np.testing.assert_array_equal(layout.ptr, [0, 1, 2, 4])
  np.testing.assert_array_equal(layout.perm, [1, 2, 0, 3, 4, 5])
  np.testing.assert_array_equal(layout.row_ptr, [0, 2, 4, 4])
  np.testing.assert_array_equal(layout.live, [1, 0, 1, 1, 0, 0])
  assert {a.dtype for a in layout[:5]} == {jnp.dtype('int32')}
  assert capacity_for(MASK) == 4


def test_an_empty_pattern_is_fillers():
  mask = np.zeros((2, 3), bool)
  assert capacity_for(mask) == 3
  layout = layout_of_mask(mask, 3)
  np.testing.assert_array_equal(layout.row, [0, 0, 0])
  np.testing.assert_array_equal(layout.col, [0, 1, 2])
  assert not np.any(layout.live)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=3, max_size=3))
def test_every_pattern_keeps_the_laws(rows):
  mask, capacity = np.array(rows), 14     # room for all 12, so that one compilation serves all
  layout = jax.tree.map(np.asarray, layout_in_jit(mask, capacity))
  used = layout.ptr[-1]
  assert used == capacity_for(mask)
  # By column and then by row; padding last, at the last row and column, in both orders.
  place = layout.col[:used] * 3 + layout.row[:used]
  assert np.all(np.diff(place) > 0)
  assert np.all(layout.row[used:] == 2) and np.all(layout.col[used:] == 3)
  np.testing.assert_array_equal(np.sort(layout.perm), np.arange(capacity))
  by_row = layout.perm[:used]
  assert np.all(np.diff(layout.row[by_row] * 4 + layout.col[by_row]) > 0)
  np.testing.assert_array_equal(layout.perm[used:], np.arange(used, capacity))
  # The offsets count the entries, every column has one, and the live ones are the pattern.
  np.testing.assert_array_equal(np.diff(layout.ptr), np.bincount(layout.col[:used], minlength=4))
  np.testing.assert_array_equal(np.diff(layout.row_ptr),
                                np.bincount(layout.row[:used], minlength=3))
  assert np.all(np.diff(layout.ptr) >= 1)
  found = np.zeros((3, 4), bool)
  found[layout.row[layout.live], layout.col[layout.live]] = True
  np.testing.assert_array_equal(found, mask)
  assert layout.live.sum() == mask.sum()


def test_indices_give_the_layout_of_their_pattern():
  layout = layout_of_indices(np.array([1, 0, 0, 1]), np.array([0, 1, 2, 2]), (3, 3))
  filled = MASK.copy()
  filled[0, 1] = True
  for a, b in zip(layout, layout_of_mask(filled, 4)):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('row, col, message', [
    ([[0]], [[0]], r'row has shape \(1, 1\) and col \(1, 1\); both must be \(n,\)'),
    ([0, 1], [0], r'row has shape \(2,\) and col \(1,\)'),
    ([], [], r'with n at least 1'),
    ([0.0, 0.0], [0, 1], 'row has dtype float64; block indices are integers'),
    ([0, 2], [0, 1], r'row\[1\] = 2 is out of range: the matrix has 2 blocks there'),
    ([0, 0], [0, -1], r'col\[1\] = -1 is out of range'),
    ([0, 0], [1, 0], r'blocks 0 and 1 at \(row, col\) \(0, 1\) and \(0, 0\) are out of order'),
    ([1, 0, 0], [0, 0, 1], 'out of order or repeated; sort by column, then by row'),
    ([1, 1, 0], [0, 0, 1], 'blocks 0 and 1 .* repeated'),
    ([0, 1], [1, 1], 'output block column 0 has no block; give it one zero block'),
])
def test_bad_indices_are_named(row, col, message):
  with pytest.raises(ValueError, match=message):
    layout_of_indices(np.array(row), np.array(col), (2, 2))
