"""Grids of blocks against NumPy slices."""

import jax
import numpy as np
import pytest

from sparsejax.block_grid import block_grid, block_pair, recorded_shape, shape_record


@pytest.mark.parametrize('shape, input_axes, block, pad', [
    ((6, 8), None, (2, 4), False), ((6, 8), None, (6, 8), False), ((7, 5), None, (3, 2), True),
    ((2, 3, 4, 6), None, (8, 3), False), ((6, 2, 4), 1, (3, 4), False),
    ((3, 5), None, (4, 8), True)])
def test_tiles_are_the_slices_of_the_matrix_and_go_back(shape, input_axes, block, pad):
  kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  grid = block_grid('w', shape, block, input_axes, pad)
  inputs = int(np.prod(shape[:-1 if input_axes is None else input_axes]))
  matrix = kernel.reshape(inputs, -1)
  padded = np.zeros((grid.grid[0] * block[0], grid.grid[1] * block[1]), np.float32)
  padded[:matrix.shape[0], :matrix.shape[1]] = matrix
  tiles = grid.tiles(kernel)
  for row in range(grid.grid[0]):
    for column in range(grid.grid[1]):
      np.testing.assert_array_equal(tiles[row, column], padded[
          row * block[0]:(row + 1) * block[0], column * block[1]:(column + 1) * block[1]])
  np.testing.assert_array_equal(grid.kernel(np.asarray(tiles)), kernel)
  assert sum(grid.inputs_of_rows()) == inputs and len(grid.inputs_of_rows()) == grid.grid[0]


def test_a_shape_goes_through_jit_and_vmap_in_its_record():
  record = shape_record((3, 5))
  seen = []
  jax.jit(lambda record: seen.append(recorded_shape(record)))(record)
  many = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), record)
  jax.vmap(lambda record: seen.append(recorded_shape(record)))(many)
  assert seen == [(3, 5), (3, 5)]


def test_what_is_no_grid_is_refused_by_name():
  with pytest.raises(ValueError, match=r'a/bias \(6,\) with 0 input axes is no matrix'):
    block_grid('a/bias', (6,), (2, 2))
  with pytest.raises(ValueError, match=r'2 x 3 do not divide a/kernel \(6, 8\), a matrix of 6 x 8'):
    block_grid('a/kernel', (6, 8), (2, 3))
  for wrong in (0, (2, 0), (1, 2, 3), (2.0, 2)):
    with pytest.raises(ValueError, match='must be a number from 1 on, or a pair'):
      block_pair(wrong)
