"""Stock layers on BlockSparse kernels against the same layers on the dense arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import sparsejax
from sparsejax import BlockSparse
from sparsejax.paths import map_leaves

KEY = jax.random.key(0)
ATTENTION = {f'{name}/kernel': axes for name, axes in
             (('query', 1), ('key', 1), ('value', 1), ('out', 2))}

CASES = {
    'dense': (nn.Dense(40), (5, 3, 30), {'kernel': 1}),
    'dense_general': (nn.DenseGeneral((4, 6), axis=(-1, -3)), (5, 3, 2, 8), {'kernel': 2}),
    'attention': (nn.MultiHeadDotProductAttention(4, qkv_features=32), (2, 6, 32), ATTENTION),
    'strided_conv': (nn.Conv(16, (3, 3), strides=2), (2, 9, 9, 8), {'kernel': 3}),
    'circular_conv': (nn.Conv(16, (3,), padding='CIRCULAR'), (2, 9, 8), {'kernel': 2}),
    'conv_of_one_image': (nn.Conv(16, (3, 3), padding='VALID'), (9, 9, 8), {'kernel': 3}),
}


def packed(weights, input_axes, block=8):
  return map_leaves(
      lambda path, leaf: (BlockSparse.from_dense(leaf, block, density=0.4,
                                                 input_axes=input_axes[path], pad=True)
                          if path in input_axes else leaf), weights)


@pytest.mark.parametrize('name', CASES)
def test_the_layer_computes_what_it_does_with_the_dense_kernel(name):
  model, shape, input_axes = CASES[name]
  inputs = jax.random.normal(KEY, shape)
  weights = packed(model.init(KEY, inputs)['params'], input_axes)
  ours = jax.jit(lambda w: sparsejax.apply(model, {'params': w}, inputs))(weights)
  dense = model.apply({'params': sparsejax.densify(weights)}, inputs)
  # The longest sum has 72 terms of float32; they differ by its rounding, 72 * 2^-24, and the
  # attention's softmax passes such an error on.
  np.testing.assert_allclose(ours, dense, atol=1e-5 * np.abs(dense).max())


def test_the_layers_dtype_is_kept():
  model = nn.Dense(16, dtype=jnp.bfloat16)
  inputs = jnp.ones((2, 16))
  weights = packed(model.init(KEY, inputs)['params'], {'kernel': 1})
  assert sparsejax.apply(model, {'params': weights}, inputs).dtype == jnp.bfloat16


def test_a_cell_scanned_over_time_runs_its_blocks():
  model = nn.RNN(nn.LSTMCell(16, name='cell'))
  inputs = jax.random.normal(KEY, (2, 3, 8))
  weights = model.init(KEY, inputs)['params']
  paths = {f'cell/{name}/kernel': 1 for name, leaves in weights['cell'].items()
           if 'kernel' in leaves}
  weights = packed(weights, paths)
  ours = sparsejax.apply(model, {'params': weights}, inputs)
  dense = model.apply({'params': sparsejax.densify(weights)}, inputs)
  np.testing.assert_allclose(ours, dense, atol=1e-5)


@pytest.mark.parametrize('model, shape, input_axes, message', [
    (nn.Conv(16, (3, 3), feature_group_count=2), (2, 9, 9, 8), 3, 'cannot pass through this Conv'),
    (nn.ConvTranspose(16, (3, 3)), (2, 9, 9, 8), 3, 'cannot pass through this ConvTranspose'),
    (nn.Conv(16, (3, 3), kernel_dilation=2), (2, 9, 9, 8), 3, 'takes no dilated convolution'),
    (nn.DenseGeneral((4, 4)), (2, 16), 2, 'pack it with input_axes=1'),
])
def test_a_layer_it_cannot_pass_is_named(model, shape, input_axes, message):
  inputs = jnp.ones(shape)
  weights = packed(model.init(KEY, inputs)['params'], {'kernel': input_axes}, block=4)
  with pytest.raises(ValueError, match=f'(?s)kernel.*{message}'):
    sparsejax.apply(model, {'params': weights}, inputs)


def test_a_table_of_embeddings_is_named():
  model = nn.Embed(16, 8)
  weights = packed(model.init(KEY, jnp.zeros((2,), int))['params'], {'embedding': 1})
  with pytest.raises(ValueError, match='embedding cannot pass through this Embed'):
    sparsejax.apply(model, {'params': weights}, jnp.zeros((2,), int))
