"""Codebooks: what they hold, through stock layers, jit, gradients and files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import sparsejax
from sparsejax import codec
from sparsejax.packed.codebook import Codebook
from sparsejax.paths import map_leaves

KEY = jax.random.key(0)
VALUES = np.array([0.0, -0.75, 0.5, 1.25], np.float32)
LAYERS = {
    'dense': (nn.Dense(3), (2, 4), '__call__'),
    'dense_general': (nn.DenseGeneral(3, axis=(-2, -1)), (2, 2, 4), '__call__'),
    'dense_general_batch': (nn.DenseGeneral(3, batch_dims=(0,)), (2, 2, 4), '__call__'),
    'conv': (nn.Conv(4, (3,), feature_group_count=2), (2, 5, 4), '__call__'),
    'conv_transpose': (nn.ConvTranspose(3, (2,), strides=(3,)), (2, 3, 2), '__call__'),
    'attend': (nn.Embed(5, 3), (2, 3), 'attend'),
}


def shared(shape, seed=0):
  return Codebook.from_codes(np.random.default_rng(seed).integers(0, 4, shape), VALUES)


def with_codebooks(params):
  return map_leaves(lambda path, leaf: leaf if path == 'bias' else shared(leaf.shape), params)


@pytest.mark.parametrize('name', LAYERS)
def test_a_stock_layer_computes_what_it_does_with_the_array(name):
  layer, shape, method = LAYERS[name]
  inputs = jax.random.normal(KEY, shape)
  start = inputs if method == '__call__' else jnp.zeros((2,), int)
  params = with_codebooks(layer.init(KEY, start)['params'])
  ours = jax.jit(lambda p: sparsejax.apply(layer, {'params': p}, inputs, method=method))(params)
  dense = map_leaves(lambda path, leaf: (jnp.asarray(VALUES[np.asarray(leaf.codes)])
                                         if isinstance(leaf, Codebook) else leaf), params)
  plain = sparsejax.apply(layer, {'params': dense}, inputs, method=method)
  # The same sums of at most 12 float32 terms, jitted and not.
  np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize('size', [4, 256])
def test_a_look_up_decodes_its_rows_and_marks_those_outside(size):
  table = Codebook.from_codes(np.arange(size).reshape(-1, 2) % size, np.arange(size) + 0.5)
  tokens = jnp.array([[0, 1, -1], [size // 2, -size // 2, -size // 2 - 1]])
  embed = nn.Embed(size // 2, 2)
  ours = sparsejax.apply(embed, {'params': {'embedding': table}}, tokens)
  np.testing.assert_array_equal(
      ours, embed.apply({'params': {'embedding': table.to_dense()}}, tokens))
  assert np.isnan(ours[1, 0]).all() and np.isfinite(ours[0]).all()


def test_a_look_up_wants_integers():
  with pytest.raises(ValueError, match='embedding are looked up by integers, not by float32'):
    sparsejax.apply(nn.Embed(5, 3), {'params': {'embedding': shared((5, 3))}}, jnp.ones((2,)))


def test_the_gradient_of_a_value_is_the_sum_over_its_members():
  weight = shared((4, 3))
  slopes = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
  grad = jax.grad(lambda values: (weight.replace(values=values).to_dense() * slopes).sum())(
      weight.values)
  wanted = [slopes[np.asarray(weight.codes) == k].sum() for k in range(4)]
  np.testing.assert_allclose(grad, wanted, atol=12 * 2**-24 * 12)     # 12 terms of about 1


def test_a_dense_array_comes_back_with_its_zero_first():
  array = np.array([[0.5, -2.0, 0.0], [-0.0, 0.5, 3.0]], np.float32)
  book = Codebook.from_dense(array)
  np.testing.assert_array_equal(book.values, [0.0, -2.0, 0.5, 3.0])
  np.testing.assert_array_equal(book.codes, [[2, 1, 0], [0, 2, 3]])
  np.testing.assert_array_equal(book.to_dense(), array)
  assert not np.signbit(np.asarray(book.to_dense())[1, 0])
  np.testing.assert_array_equal(Codebook.from_dense(array[array != 0]).values, [-2.0, 0.5, 3.0])


@pytest.mark.parametrize('count, dtype, width', [
    (1, np.uint8, 0), (2, np.uint8, 1), (3, np.uint8, 2), (256, np.uint8, 8), (257, np.uint16, 9)])
def test_codes_take_the_smallest_type(count, dtype, width):
  book = Codebook.from_codes(np.zeros((2, 2), int), np.arange(count, dtype=np.float32))
  assert book.codes.dtype == dtype and book.width == width and book.entries() == 4
  assert book.shape == (2, 2) and book.dtype == np.float32


def test_a_stack_of_layers_runs_under_scan():
  class Step(nn.Module):
    @nn.compact
    def __call__(self, x, _):
      return nn.Dense(3, use_bias=False, name='dense')(x), None
  model = nn.scan(Step, variable_axes={'params': 0}, split_rngs={'params': True}, length=2)()
  codes = np.random.default_rng(0).integers(0, 4, (2, 3, 3))
  stack = Codebook.from_codes(codes, np.stack([VALUES, 2 * VALUES]))
  x = jnp.ones((1, 3))
  ours, _ = sparsejax.apply(model, {'params': {'dense': {'kernel': stack}}}, x, None)
  first, second = VALUES[codes[0]], 2 * VALUES[codes[1]]
  np.testing.assert_allclose(ours, np.ones((1, 3)) @ first @ second, atol=1e-5)   # sums of 3
  np.testing.assert_array_equal(stack.to_dense(), np.stack([first, second]))


def test_a_cell_scanned_over_time_decodes_its_codes():
  model = nn.RNN(nn.GRUCell(3, name='cell'))
  inputs = jax.random.normal(KEY, (2, 4, 2))
  weights = map_leaves(lambda path, leaf: shared(leaf.shape) if leaf.ndim > 1 else leaf,
                       model.init(KEY, inputs)['params'])
  ours = jax.jit(lambda w: sparsejax.apply(model, {'params': w}, inputs))(weights)
  plain = model.apply({'params': sparsejax.densify(weights)}, inputs)
  np.testing.assert_allclose(ours, plain, atol=1e-5)      # four steps of sums of 3 terms


@pytest.mark.parametrize('name, bits', [('weights.safetensors', 8), ('weights.sjx', 2)])
def test_a_file_gives_it_back(tmp_path, name, bits):
  weights = {'dense': {'kernel': shared((80, 60)), 'bias': np.ones(60, np.float32)}}
  size = codec.write(tmp_path / name, weights)
  back = codec.read(tmp_path / name)
  assert size < 80 * 60 * bits / 8 + 1500
  kernel = back['dense']['kernel']
  assert isinstance(kernel, Codebook) and kernel.codes.dtype == np.uint8
  np.testing.assert_array_equal(kernel.codes, weights['dense']['kernel'].codes)
  np.testing.assert_array_equal(kernel.values, VALUES)


@pytest.mark.parametrize('codes, values, message', [
    ([[0, 4]], VALUES, 'codes lie between 0 and 4, but there are 4 values'),
    ([[-1, 0]], VALUES, 'codes lie between -1 and 0'),
    ([[0.0, 1.0]], VALUES, 'codes are float64'),
    ([[0, 1]], np.zeros((2, 3)), 'do not fit codes of shape'),
    ([[0, 1]], np.zeros(0), 'do not fit codes of shape'),
])
def test_codes_that_point_nowhere_are_refused(codes, values, message):
  with pytest.raises(ValueError, match=message):
    Codebook.from_codes(np.array(codes), values)


def test_what_is_not_finite_is_refused():
  with pytest.raises(ValueError, match='not finite'):
    Codebook.from_dense([1.0, np.nan])


@pytest.mark.parametrize('packed_kernel', [False, True])
def test_a_packed_bias_is_added(packed_kernel):
  """Soft weight-sharing owns biases too."""
  kernel, bias = np.asarray([[0.5, 0.0], [-0.5, 0.5]], np.float32), np.asarray([0.0, 0.25], 'f4')
  params = {'bias': Codebook.from_dense(bias),
            'kernel': Codebook.from_dense(kernel) if packed_kernel else jnp.asarray(kernel)}
  x = np.asarray([[1.0, 2.0]], np.float32)
  found = sparsejax.apply(nn.Dense(2), {'params': params}, x)
  np.testing.assert_array_equal(found, x @ kernel + bias[None])
