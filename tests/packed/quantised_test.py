"""Quantised weights through stock layers, stacks and files, against NumPy's own decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import sparsejax
from sparsejax import codec
from sparsejax.packed.quantised import Quantised

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def weight(shape, axis=None, zero=False, stack=()):
  codes = RNG.integers(0, 256, stack + shape).astype(np.uint8)
  size = stack + (() if axis is None else (shape[axis],))
  scale = RNG.uniform(0.01, 0.02, size).astype(np.float32)
  zero_point = RNG.integers(100, 150, size).astype(np.int32) if zero else None
  return Quantised(codes, scale, zero_point, axis)


def decoded(packed):
  zero = 0 if packed.zero_point is None else packed.zero_point
  scale = packed.scale
  if packed.axis is not None:
    shape = [1] * packed.codes.ndim
    shape[packed.axis] = -1
    scale, zero = np.reshape(scale, shape), np.reshape(zero, shape) if np.ndim(zero) else zero
  return ((packed.codes.astype(np.int64) - zero) * scale.astype(np.float64)).astype(np.float32)


@pytest.mark.parametrize('layer, inputs, shape, axis', [
    (nn.Dense(3), (2, 4), (4, 3), None),
    (nn.Dense(3), (2, 4), (4, 3), -1),
    (nn.Dense(3), (2, 4), (4, 3), -2),
    (nn.DenseGeneral((2, 3)), (2, 4), (4, 2, 3), -1),
    (nn.Conv(4, (3,), strides=2), (2, 5, 2), (3, 2, 4), -1),
])
def test_a_stock_layer_computes_what_it_does_with_the_array(layer, inputs, shape, axis):
  x = jax.random.normal(KEY, inputs)
  params = layer.init(KEY, x)['params']
  packed = weight(shape, axis, zero=True)
  ours = jax.jit(lambda p: sparsejax.apply(layer, {'params': {**params, 'kernel': p}}, x))(packed)
  plain = layer.apply({'params': {**params, 'kernel': decoded(packed)}}, x)
  # sums of at most 8 float32 terms of magnitude 8, by patches and not
  np.testing.assert_allclose(ours, plain, atol=64 * 8 * 2**-24)


@pytest.mark.parametrize('axis', [None, -1, -2])
def test_a_table_is_looked_up_and_attended_to(axis):
  table = weight((5, 3), axis, zero=True)
  embed, tokens = nn.Embed(5, 3), jnp.array([[0, 4, -1], [2, 2, 5]])
  ours = sparsejax.apply(embed, {'params': {'embedding': table}}, tokens)
  wanted = embed.apply({'params': {'embedding': decoded(table)}}, tokens)
  np.testing.assert_allclose(ours, wanted, rtol=2**-22)
  assert np.isnan(ours[1, 2]).all()
  query = jax.random.normal(KEY, (2, 3))
  ours = sparsejax.apply(embed, {'params': {'embedding': table}}, query, method='attend')
  np.testing.assert_allclose(ours, query @ decoded(table).T, atol=1e-5)     # sums of 3 terms


@pytest.mark.parametrize('axis', [None, -1])
def test_a_stack_is_taken_apart_by_layers(axis):
  stack = weight((4, 3), axis, zero=True, stack=(2,))
  for i in range(2):
    one = jax.tree.map(lambda leaf: leaf[i], stack)
    np.testing.assert_allclose(np.asarray(stack.to_dense())[i], decoded(one), rtol=2**-22)


def test_bfloat16_stays():
  packed = Quantised(np.int8([[1, -1]]), np.float32(0.3), None, None, jnp.dtype('bfloat16'))
  assert packed.to_dense().dtype == packed.dtype == jnp.bfloat16


@pytest.mark.parametrize('name', ['weights.safetensors', 'weights.sjx'])
@pytest.mark.parametrize('zero', [False, True])
def test_a_file_gives_it_back(tmp_path, zero, name):
  packed = weight((40, 30), -1, zero)
  assert codec.write(tmp_path / name, {'dense': {'kernel': packed}}) < 40 * 30 + 2000
  back = codec.read(tmp_path / name)['dense']['kernel']
  assert isinstance(back, Quantised) and back.codes.dtype == np.uint8 and back.axis == -1
  np.testing.assert_array_equal(back.to_dense(), packed.to_dense())
  assert (back.zero_point is not None) == zero


def test_signs_take_a_bit_each_in_a_container(tmp_path):
  signs = np.where(RNG.normal(size=(200, 100)) >= 0, 1, -1).astype(np.int8)
  size = codec.write(tmp_path / 'w.sjx', {'kernel': Quantised(signs, np.float32(0.1))})
  assert size < 200 * 100 / 8 + 1500


@pytest.mark.parametrize('changes, facts, message', [
    ({'scale': np.ones(4, np.float32)}, {}, r'scales of shape \(4,\) with axis=-1 do not fit'),
    ({}, {'axis': -3}, 'axis=-3 do not fit'),
    ({}, {'axis': True}, 'axis=True do not fit'),
    ({'zero_point': np.int32(3)}, {}, 'do not fit'),
    ({'scale': np.ones(3)}, {}, 'scales float64'),
    ({'codes': np.ones((2, 3), np.float32)}, {}, 'codes are float32'),
    ({}, {'dtype': 'object'}, "dtype 'object' is no floating weight"),
])
def test_arrays_that_do_not_belong_together_are_refused(changes, facts, message):
  tensors, known = weight((2, 3), -1).to_tensors()
  with pytest.raises(ValueError, match=message):
    Quantised.from_tensors({**tensors, **changes}, {**known, **facts})
