"""The ledger of a network whose compact form holds packed weights."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from sparsejax import BlockSparse, codec, ledger


class Pair(nn.Module):
  """Two dense layers on (n, 16)."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(4, name='head')(nn.relu(nn.Dense(32, name='wide')(x)))


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
  model = Pair()
  images = np.asarray(jax.random.normal(jax.random.key(0), (5, 16)))
  params = jax.tree.map(np.array, model.init(jax.random.key(1), images)['params'])
  mask = np.array([[1, 0, 0, 1], [0, 0, 1, 0]], bool)
  kernel = BlockSparse.from_dense(params['wide']['kernel'], 8, mask=mask, capacity=8)
  params['wide']['kernel'] = np.asarray(kernel.to_dense())
  packed = {**params, 'wide': {**params['wide'], 'kernel': kernel}}
  path = tmp_path_factory.mktemp('packed') / 'net.safetensors'
  return ledger.measure(model, {'params': params}, model, {'params': packed}, images, path,
                        repeats=2, warmup=1), path


def test_sizes_count_what_is_stored(measured):
  result, path = measured
  blocks, head, biases = 3 * 64, 32 * 4, 32 + 4
  assert result['parameters_dense'] == 16 * 32 + head + biases
  assert result['parameters_compact'] == blocks + head + biases
  assert result['weights_kept'] == blocks + head
  assert result['flops_dense'] == 2 * (16 * 32 + head)
  assert result['flops_compact'] == 2 * (blocks + head)
  assert result['bytes_file'] == path.stat().st_size
  assert isinstance(codec.read(path)['params']['wide']['kernel'], BlockSparse)


def test_the_packed_network_computes_the_same_function(measured):
  # Sums of 16 and 32 terms: 48 roundings of 2^-24 are 3e-6.
  assert measured[0]['compact_relative_difference'] <= 1e-5
