"""`BlockSparse`: what it stores, what it gives back, and what it refuses."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax import BlockSparse
from sparsejax.kernels.block_sparse.arg_specs import MIXED, NOTHING, arguments
from sparsejax.structured import Packed, densify

RNG = np.random.default_rng(0)
MATRIX = RNG.standard_normal((6, 8)).astype(np.float32)
MASK = np.array([[1, 0, 0, 1],
                 [0, 0, 1, 1],
                 [0, 0, 0, 0]], bool)
KEPT = MATRIX * np.kron(MASK, np.ones((2, 2), np.float32))


def small(**options):
  return BlockSparse.from_dense(MATRIX, 2, mask=MASK, **options)


def test_a_mask_keeps_its_blocks():
  weight = small(capacity=8)
  np.testing.assert_array_equal(weight.to_dense(), KEPT)
  np.testing.assert_array_equal(weight.mask(), MASK)
  assert (weight.block_size, weight.grid, weight.matrix_shape) == ((2, 2), (3, 4), (6, 8))
  assert (weight.capacity, weight.num_blocks(), weight.density()) == (8, 4, 4 / 12)
  assert (weight.shape, weight.ndim, weight.dtype) == ((6, 8), 2, jnp.float32)
  # Column 0, a filler, column 2, column 3 twice, padding.
  np.testing.assert_array_equal(weight.blocks[0], MATRIX[:2, :2])
  np.testing.assert_array_equal(weight.blocks[2], MATRIX[2:4, 4:6])
  assert not np.any(weight.blocks[1]) and not np.any(weight.blocks[5:])


def test_density_keeps_the_largest_blocks():
  scaled = MATRIX * np.kron(np.arange(12).reshape(3, 4) ** 2, np.ones((2, 2))).astype(np.float32)
  norms = np.square(scaled.reshape(3, 2, 4, 2)).sum(axis=(1, 3))
  weight = BlockSparse.from_dense(scaled, 2, density=0.25)
  np.testing.assert_array_equal(weight.mask(), norms >= np.sort(norms.reshape(-1))[-3])
  assert BlockSparse.from_dense(MATRIX, 2, density=1e-6).num_blocks() == 1
  np.testing.assert_array_equal(BlockSparse.from_dense(MATRIX, 2, density=1.0).to_dense(), MATRIX)


def test_without_either_the_blocks_that_hold_something_are_kept():
  np.testing.assert_array_equal(BlockSparse.from_dense(KEPT, 2).mask(), MASK)


def test_ragged_edges_are_padded_and_cut_off_again():
  for spec in (MIXED, NOTHING):
    args = arguments(spec)
    np.testing.assert_array_equal(args.weight.to_dense(), args.dense)
    assert args.weight.num_blocks() == args.mask.sum()
    assert args.weight.density() == args.mask.mean()


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_half_precision_is_kept(dtype):
  weight = BlockSparse.from_dense(jnp.asarray(MATRIX, dtype), 2, mask=MASK)
  assert weight.dtype == dtype
  np.testing.assert_array_equal(weight.to_dense(), jnp.asarray(KEPT, dtype))


def test_a_kernel_of_more_axes_is_a_matrix():
  kernel = MATRIX.reshape(2, 3, 4, 2)
  weight = BlockSparse.from_dense(kernel, (3, 4), input_axes=2, density=0.5)
  assert weight.matrix_shape == (6, 8) and weight.grid == (2, 2)
  dense = np.asarray(weight.to_dense())
  assert dense.shape == kernel.shape
  np.testing.assert_array_equal(dense[dense != 0], kernel[dense != 0])


def test_blocks_and_indices_make_a_weight():
  blocks = jnp.asarray(RNG.standard_normal((2, 2, 3)), jnp.float32)
  weight = BlockSparse.from_blocks(blocks, np.array([1, 0]), np.array([0, 1]), (4, 6))
  dense = np.zeros((4, 6), np.float32)
  dense[2:, :3], dense[:2, 3:] = blocks
  np.testing.assert_array_equal(weight.to_dense(), dense)


def test_with_layout_keeps_values_and_starts_new_blocks_at_zero():
  weight = small(capacity=7)
  new = np.array([[1, 1, 0, 0],
                  [0, 0, 1, 0],
                  [0, 0, 0, 1]], bool)
  wanted = KEPT * np.kron(new, np.ones((2, 2), np.float32))
  moved = weight.with_layout(new)
  np.testing.assert_array_equal(moved.to_dense(), wanted)
  np.testing.assert_array_equal(moved.mask(), new)
  assert moved.capacity == 7 and moved.num_blocks() == 4
  traced = jax.jit(BlockSparse.with_layout)(weight, jnp.asarray(new))
  for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(traced)):
    np.testing.assert_array_equal(a, b)
  # Back again: what was dropped is gone.
  np.testing.assert_array_equal(moved.with_layout(MASK).to_dense(),
                                wanted * np.kron(MASK, np.ones((2, 2))))


def test_merge_makes_larger_blocks_of_the_same_matrix():
  weight = small().merge((4, 4))
  np.testing.assert_array_equal(weight.to_dense(), KEPT)
  np.testing.assert_array_equal(weight.mask(), [[True, True], [False, False]])
  assert weight.block_size == (4, 4) and weight.shape == (6, 8)


def test_transpose():
  weight = BlockSparse.from_dense(MATRIX, (3, 2), density=0.5).transpose()
  assert weight.block_size == (2, 3)
  np.testing.assert_array_equal(weight.to_dense(), BlockSparse.from_dense(
      MATRIX, (3, 2), density=0.5).to_dense().T)


def test_split_cuts_the_outputs():
  parts = small().split(2)
  assert parts.shape == (6, 4) and parts.blocks.ndim == 4
  for i in range(2):
    part = jax.tree.map(lambda a: a[i], parts)
    np.testing.assert_array_equal(part.to_dense(), KEPT[:, 4 * i:4 * i + 4])
    np.testing.assert_array_equal(part.mask(), MASK[:, 2 * i:2 * i + 2])


def test_it_is_a_tree_and_a_packed_weight():
  weight = small()
  leaves, structure = jax.tree.flatten(weight)
  assert len(leaves) == 7 and isinstance(weight, Packed)
  again = jax.tree.unflatten(structure, leaves)
  assert again.shape == weight.shape and again.input_axes == 1
  np.testing.assert_array_equal(densify({'kernel': weight})['kernel'], KEPT)
  np.testing.assert_array_equal(jax.jit(lambda w: w.to_dense())(weight), KEPT)


def test_it_prints_what_it_is():
  assert repr(small(capacity=9)) == (
      'BlockSparse((6, 8), float32, 9 entries of 2x2 in a grid of 3x4)')
  assert sparsejax.BlockSparse is BlockSparse


@pytest.mark.parametrize('call, message', [
    (lambda: BlockSparse.from_dense(MATRIX, 4),
     'blocks of 4 x 4 do not divide a matrix of 6 x 8;.*pass pad=True'),
    (lambda: BlockSparse.from_dense(MATRIX, 0), r'block_size=0 must be a number from 1 on'),
    (lambda: BlockSparse.from_dense(MATRIX, (2, 2, 2)), r'block_size=\(2, 2, 2\) must be'),
    (lambda: BlockSparse.from_dense(MATRIX, 2, mask=MASK.T), r'mask has shape \(4, 3\); 6 x 8 in '
     r'blocks of 2 x 2 is a grid of \(3, 4\)'),
    (lambda: BlockSparse.from_dense(MATRIX, 2, mask=MASK, density=0.5),
     'mask or density, not both'),
    (lambda: BlockSparse.from_dense(MATRIX, 2, density=0.0), r'density=0.0 must lie in \(0, 1\]'),
    (lambda: BlockSparse.from_dense(MATRIX, 2, density=1.5), r'density=1.5 must lie in \(0, 1\]'),
    (lambda: small(capacity=4), 'the pattern takes 5 entries .* more than the capacity 4'),
    (lambda: BlockSparse.from_dense(MATRIX[0], 2), r'shape \(8,\) with input_axes=1 is no matrix'),
    (lambda: BlockSparse.from_dense(MATRIX, 2, input_axes=2), 'input_axes=2 is no matrix'),
    (lambda: small().with_layout(MASK.T),
     r'mask has shape \(4, 3\); the grid of blocks is \(3, 4\)'),
    (lambda: small().with_layout(np.ones((3, 4), bool)), 'takes 12 entries .* the capacity 5'),
    (lambda: small().merge(3), r'blocks of \(2, 2\) do not merge into \(3, 3\)'),
    (lambda: small().split(3), '3 parts do not cut the outputs of BlockSparse.* between whole'),
    (lambda: small().split(0), '0 parts do not cut'),
    (lambda: BlockSparse.from_dense(MATRIX.reshape(6, 4, 2), 2, mask=MASK).transpose(),
     r'a kernel of shape \(6, 4, 2\) has no one transpose'),
    (lambda: BlockSparse.from_blocks(jnp.ones((2, 2, 2)), np.array([0]), np.array([0]), (2, 2)),
     r'blocks has shape \(2, 2, 2\); 1 indices need'),
    (lambda: BlockSparse.from_blocks(jnp.ones((1, 2, 2)), np.array([1]), np.array([0]), (2, 2)),
     r'row\[0\] = 1 is out of range'),
])
def test_what_is_wrong_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()
