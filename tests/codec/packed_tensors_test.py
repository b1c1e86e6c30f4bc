"""Packed weights in files: what is read back is the same weight."""

import numpy as np
import pytest
import safetensors

from sparsejax import BlockSparse, LowRank, codec, densify
from sparsejax.codec import packed_tensors
from sparsejax.paths import flatten

RNG = np.random.default_rng(0)


@pytest.fixture
def weights():
  mask = RNG.random((8, 12)) < 0.2
  mask[:, 3] = False
  kernel = RNG.standard_normal((60, 96)).astype(np.float32)
  block_sparse = BlockSparse.from_dense(kernel, 8, mask=mask, pad=True, capacity=60)
  low_rank = LowRank(RNG.standard_normal((5, 2)).astype(np.float32), np.ones((2, 4), np.float32))
  return {'a': {'kernel': block_sparse, 'bias': np.zeros(96, np.float32)},
          'b': {'kernel': low_rank}, 'empty': {}}


def test_every_kind_comes_back(weights, tmp_path):
  path = tmp_path / 'weights.safetensors'
  assert codec.write(path, weights, seed=1) == path.stat().st_size
  read = codec.read(path)
  kernel = read['a']['kernel']
  assert isinstance(kernel, BlockSparse) and isinstance(read['b']['kernel'], LowRank)
  assert kernel.shape == (60, 96) and kernel.block_size == (8, 8)
  # Spare capacity is gone: what is left are the live blocks and one filler for each empty column.
  empty = int((~np.asarray(kernel.mask()).any(axis=0)).sum())
  assert empty and kernel.capacity == kernel.num_blocks() + empty
  for name, leaf in flatten(densify(weights)).items():
    if name != 'empty':
      np.testing.assert_array_equal(flatten(densify(read))[name], leaf)
  assert 'empty' in read


def test_a_file_holds_live_blocks_and_one_bit_for_each_place(tmp_path):
  path = tmp_path / 'weights.safetensors'
  weight = BlockSparse.from_dense(RNG.standard_normal((64, 96)).astype(np.float32), 8,
                                  density=0.2, capacity=60)
  codec.write(path, {'a': {'kernel': weight}})
  stored = dict(safetensors.deserialize(path.read_bytes()))
  blocks = weight.num_blocks()
  assert stored['a/kernel//blocks']['shape'] == [blocks, 8, 8]
  assert stored['a/kernel//pattern']['shape'] == [8 * 12 // 8]
  assert not any('row' in name or 'ptr' in name for name in stored)


def test_bfloat16_blocks_keep_their_bits(tmp_path):
  import jax.numpy as jnp
  weight = BlockSparse.from_dense(RNG.standard_normal((16, 16)).astype(jnp.bfloat16), 8,
                                  density=0.5)
  codec.write(tmp_path / 'net', {'kernel': weight})
  read = codec.read(tmp_path / 'net')['kernel']
  assert read.dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.asarray(read.to_dense()), np.asarray(weight.to_dense()))


def test_a_damaged_block_is_seen(weights, tmp_path):
  path = tmp_path / 'weights.safetensors'
  codec.write(path, weights)
  data = bytearray(path.read_bytes())
  data[-7] ^= 1
  path.write_bytes(data)
  with pytest.raises(ValueError, match='damaged'):
    codec.read(path)


def test_an_unknown_kind_is_named():
  with pytest.raises(ValueError, match='a/kernel is a Fancy weight; this process knows .*LowRank'):
    packed_tensors.from_leaves({'a/kernel//x': 0}, {
        'a/kernel': {'kind': 'Fancy', 'tensors': ['x'], 'facts': {}}})
