"""Tests of the linear rules, each against an oracle that knows nothing of the rule.

* Gaussian: the outputs are linear in the kernel, so their variance is sum (dy/dw)^2 var, with the
  Jacobian of the stock layer; draws are compared with it within the error of their number.
* Gated: the stock layer on each example alone, with that example's gates folded into the kernel.
* LowRank: the stock layer on the product.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import sparsejax
from sparsejax import Gated, Gaussian, LowRank
from sparsejax.linear_rules import VARIANCE_EPSILON, has_rule, linear_rule
from sparsejax.structured import RowGaussian

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def normal(*shape):
  return jnp.asarray(RNG.normal(size=shape), jnp.float32)


# name: layer, inputs, shapes of kernel and bias (None: no bias), method
LAYERS = {
    'dense': (nn.Dense(3), normal(2, 4), (4, 3), (3,), '__call__'),
    'dense_several_axes': (nn.Dense(3, use_bias=False), normal(2, 3, 4), (4, 3), None, '__call__'),
    'dense_general_heads': (nn.DenseGeneral((2, 3)), normal(2, 2, 4), (4, 2, 3), (2, 3),
                            '__call__'),
    'dense_general_out': (nn.DenseGeneral(3, axis=(-2, -1)), normal(2, 3, 2, 4), (2, 4, 3), (3,),
                          '__call__'),
    'dense_general_turned': (nn.DenseGeneral(3, axis=(-1, 1)), normal(2, 3, 2, 4), (3, 4, 3), (3,),
                             '__call__'),     # Flax sorts the axes
    'dense_general_batch': (nn.DenseGeneral(3, batch_dims=(0,)), normal(2, 2, 4), (2, 4, 3),
                            (2, 3), '__call__'),
    'conv_strided': (nn.Conv(3, (2, 3), strides=2), normal(2, 4, 5, 2), (2, 3, 2, 3), (3,),
                     '__call__'),
    'conv_circular_dilated': (nn.Conv(3, (3,), padding='CIRCULAR', kernel_dilation=2),
                              normal(2, 6, 2), (3, 2, 3), (3,), '__call__'),
    'conv_grouped_causal': (nn.Conv(4, (3,), padding='CAUSAL', feature_group_count=2),
                            normal(2, 5, 4), (3, 2, 4), (4,), '__call__'),
    'conv_transpose': (nn.ConvTranspose(3, (2,), strides=(3,)), normal(2, 3, 2), (2, 2, 3), (3,),
                       '__call__'),
    'conv_transpose_kernel': (nn.ConvTranspose(3, (3,), strides=(2,), transpose_kernel=True),
                              normal(2, 3, 2), (3, 3, 2), (3,), '__call__'),
    'embed': (nn.Embed(5, 3), jnp.array([[0, 2, 2], [4, 1, 0]]), (5, 3), None, '__call__'),
    'attend': (nn.Embed(5, 3), normal(2, 4, 3), (5, 3), None, 'attend'),
}


def kernel_name(layer):
  return 'embedding' if isinstance(layer, nn.Embed) else 'kernel'


def params_of(layer, kernel, bias):
  return {'params': {kernel_name(layer): kernel} | ({} if bias is None else {'bias': bias})}


@pytest.mark.parametrize('name', LAYERS)
def test_gaussian_outputs_have_the_moments_of_drawn_weights(name):
  layer, x, shape, bias_shape, method = LAYERS[name]
  draws, limit = 1000, 6
  mean, var = normal(*shape), normal(*shape) ** 2
  bias = None if bias_shape is None else Gaussian(normal(*bias_shape), normal(*bias_shape) ** 2)

  def stock(kernel, bias):
    return layer.apply(params_of(layer, kernel, bias), x, method=method)

  @jax.jit
  def moments():
    b_mean = None if bias is None else bias.mean
    total = jnp.sum(jax.jacobian(stock)(mean, b_mean) ** 2 * var, range(-len(shape), 0))
    if bias is not None:
      slopes = jax.jacobian(stock, 1)(mean, b_mean)
      total += jnp.sum(slopes**2 * bias.var, range(-bias.var.ndim, 0))
    return stock(mean, b_mean), total

  @jax.jit
  @jax.vmap
  def draw(key):
    weights = params_of(layer, Gaussian(mean, var), bias)
    return sparsejax.apply(layer, weights, x, method=method, rngs={'noise': key})

  with jax.numpy_rank_promotion('allow'):
    expected, total = moments()
  z = (draw(jax.random.split(KEY, draws)) - expected[None]) / jnp.sqrt(total + 1e-8)[None]
  assert jnp.abs(z.mean(0)).max() < limit / np.sqrt(draws)
  # The variance of draws squares of a standard normal is 2 / draws.
  assert jnp.abs((z**2).mean(0) - 1).max() < limit * np.sqrt(2 / draws)


def spread(gates, rank, axis):
  shape = [1] * rank
  shape[axis] = -1
  return gates.reshape(shape)


GATED = [
    ('dense', -2), ('dense', -1), ('dense_several_axes', -2), ('dense_several_axes', -1),
    ('dense_general_heads', -3), ('dense_general_heads', -2), ('dense_general_heads', -1),
    ('dense_general_out', -3), ('dense_general_out', -2), ('dense_general_out', -1),
    ('dense_general_turned', -3), ('dense_general_turned', -2),
    ('conv_strided', -2), ('conv_strided', -1), ('conv_circular_dilated', -2),
    ('conv_grouped_causal', -1), ('conv_transpose', -2), ('conv_transpose', -1),
    ('conv_transpose_kernel', -2), ('conv_transpose_kernel', -1),
    ('embed', -2), ('embed', -1), ('attend', -2), ('attend', -1),
]


def table(key, shape, values):
  """Gates that are known: row e of `values` for example e."""
  del key
  assert shape == values.shape
  return values


@pytest.mark.parametrize('name, axis', GATED)
def test_gates_per_example_equal_each_example_alone(name, axis):
  layer, x, shape, bias_shape, method = LAYERS[name]
  kernel, bias = normal(*shape), None if bias_shape is None else normal(*bias_shape)
  gates = normal(x.shape[0], shape[axis])
  boxed = Gated(kernel, (gates,), KEY, table, axis)
  got = sparsejax.apply(layer, params_of(layer, boxed, bias), x, method=method)
  for e in range(x.shape[0]):
    alone = params_of(layer, kernel * spread(gates[e], kernel.ndim, axis), bias)
    expected = layer.apply(alone, x[e:e + 1], method=method)
    np.testing.assert_allclose(got[e:e + 1], expected, rtol=2e-5, atol=2e-5)


def test_gates_with_positions_gate_a_flattened_image():
  # 2 positions of 3 channels, channel fastest: input unit p * 3 + c has the gate of channel c.
  gates = jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
  kernel, x = normal(6, 4), normal(2, 6)
  boxed = Gated(kernel, (gates,), KEY, table, -2, positions=2)
  got = sparsejax.apply(nn.Dense(4, use_bias=False), {'params': {'kernel': boxed}}, x)
  np.testing.assert_allclose(got, (x * jnp.tile(gates, (1, 2))) @ kernel, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('structured_kernel', [True, False])
def test_gated_bias_shares_the_draw_of_its_filter(structured_kernel):
  layer = nn.Conv(3, (2,))
  gates = jnp.array([[1.0, 0.0, 0.5], [0.0, 0.0, 1.0]])
  kernel, bias, x = normal(2, 2, 3), normal(3), normal(2, 4, 2)
  boxed = Gated(bias, (gates,), KEY, table, -1)
  params = {'kernel': Gated(kernel, (gates,), KEY, table, -1) if structured_kernel else kernel,
            'bias': boxed}
  got = sparsejax.apply(layer, {'params': params}, x)
  own = layer.apply({'params': {'kernel': kernel, 'bias': jnp.zeros(3)}}, x)
  if structured_kernel:
    own = own * gates[:, None]
  np.testing.assert_allclose(got, own + (bias[None] * gates)[:, None], rtol=1e-5, atol=1e-6)


def test_gaussian_bias_on_a_plain_kernel_is_drawn():
  x, kernel = normal(2, 4), normal(4, 3)
  bias = Gaussian(normal(3), jnp.zeros(3))
  run = sparsejax.apply(nn.Dense(3), {'params': {'kernel': kernel, 'bias': bias}}, x,
                        rngs={'noise': KEY})
  exact = x @ kernel + bias.mean[None]
  assert jnp.abs(run - exact).max() < 6 * np.sqrt(VARIANCE_EPSILON)
  assert jnp.abs(run - exact).max() > 0


@pytest.mark.parametrize('name', ['dense', 'dense_several_axes', 'embed', 'attend'])
def test_low_rank_equals_the_product(name):
  layer, x, shape, bias_shape, method = LAYERS[name]
  u, v = normal(shape[0], 2), normal(2, shape[1])
  bias = None if bias_shape is None else normal(*bias_shape)
  got = sparsejax.apply(layer, params_of(layer, LowRank(u, v), bias), x, method=method)
  expected = layer.apply(params_of(layer, u @ v, bias), x, method=method)
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_low_rank_passes_a_dense_general_of_one_axis():
  layer, x = nn.DenseGeneral(3, axis=1), normal(2, 4, 5)
  u, v, bias = normal(4, 2), normal(2, 3), normal(3)
  got = sparsejax.apply(layer, {'params': {'kernel': LowRank(u, v), 'bias': bias}}, x)
  expected = layer.apply({'params': {'kernel': u @ v, 'bias': bias}}, x)
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_low_rank_in_a_convolution_is_named():
  weights = {'params': {'kernel': LowRank(normal(4, 2), normal(2, 3)), 'bias': jnp.zeros(3)}}
  with pytest.raises(ValueError, match='LowRank weight at kernel is a matrix .* Conv cannot take'):
    sparsejax.apply(nn.Conv(3, (1,)), weights, normal(2, 5, 4))


@pytest.mark.parametrize('name, axis', [
    ('conv_strided', -3), ('dense_general_batch', -2), ('conv_grouped_causal', -2),
    ('conv_transpose', -3)])
def test_an_axis_that_is_no_input_or_output_is_named(name, axis):
  layer, x, shape, bias_shape, method = LAYERS[name]
  boxed = Gated(normal(*shape), (normal(2, shape[axis]),), KEY, table, axis)
  with pytest.raises(ValueError, match=f"axis {axis} of kernel belong to no input or output"):
    sparsejax.apply(layer, params_of(layer, boxed, normal(*bias_shape)), x, method=method)


def test_noise_without_a_stream_is_named():
  weights = {'params': {'kernel': Gaussian(normal(4, 3), jnp.ones((4, 3))), 'bias': jnp.zeros(3)}}
  with pytest.raises(ValueError, match="weight at kernel is drawn .* rngs={'noise': key}"):
    sparsejax.apply(nn.Dense(3), weights, normal(2, 4))


@pytest.mark.debug_nans
def test_gradient_is_finite_at_zero_rows_and_zero_variance():
  def loss(mean, var, x):
    weights = {'params': {'kernel': Gaussian(mean, var), 'bias': jnp.zeros(3)}}
    return sparsejax.apply(nn.Dense(3), weights, x, rngs={'noise': KEY}).sum()

  x = jnp.concatenate([jnp.zeros((1, 4)), normal(1, 4)])
  for var in (jnp.zeros((4, 3)), jnp.ones((4, 3))):
    for g in jax.grad(loss, (0, 1, 2))(jnp.zeros((4, 3)), var, x):
      assert jnp.isfinite(g).all()


def test_noise_of_two_calls_of_one_layer_differs():
  class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
      layer = nn.Dense(3, use_bias=False, name='layer')
      return layer(x), layer(x)

  kernel = Gaussian(normal(4, 3), jnp.ones((4, 3)))
  a, b = sparsejax.apply(Twice(), {'params': {'layer': {'kernel': kernel}}}, normal(2, 4),
                         rngs={'noise': KEY})
  assert (a != b).all()


def test_a_new_kind_registers_one_rule():
  from flax import struct

  from sparsejax.structured import Packed

  @struct.dataclass
  class Scaled(Packed):
    value: jax.Array
    scale: jax.Array
    shape = property(lambda self: self.value.shape)
    dtype = property(lambda self: self.value.dtype)

  boxed = Scaled(jnp.ones((4, 3)), jnp.asarray(2.0))
  assert not has_rule(boxed) and has_rule(LowRank(jnp.ones((4, 1)), jnp.ones((1, 3))))
  with pytest.raises(TypeError, match='no linear rule for Scaled'):
    linear_rule(boxed, type('Layer', (), {'path': 'kernel'}), normal(2, 4))

  @linear_rule.register
  def _(weight: Scaled, layer, inputs):
    return layer(weight.value, inputs) * weight.scale

  x = normal(2, 4)
  got = sparsejax.apply(nn.Dense(3), {'params': {'kernel': boxed, 'bias': jnp.ones(3)}}, x)
  np.testing.assert_allclose(got, 2 * x @ jnp.ones((4, 3)) + 1, rtol=1e-5)


def test_integer_inputs_are_squared_for_the_variance():
  x = jnp.full((1, 4), 200, jnp.uint8)      # 200^2 overflows uint8
  weights = {'params': {'kernel': Gaussian(jnp.zeros((4, 500)), jnp.ones((4, 500))),
                        'bias': jnp.zeros(500)}}
  y = sparsejax.apply(nn.Dense(500), weights, x, rngs={'noise': KEY})
  # 500 draws of N(0, 4 * 200^2); the variance of their mean square is 2 / 500 of its square.
  assert abs((y**2).mean() / (4 * 200**2) - 1) < 5 * np.sqrt(2 / 500)


@pytest.mark.parametrize('groups', [3, 4])     # 3 is also the length of the free axis
def test_bias_of_batch_axes_stands_on_them(groups):
  layer, x = nn.DenseGeneral(2, batch_dims=(0,)), normal(groups, 3, 4)
  kernel, bias = normal(groups, 4, 2), normal(groups, 2)
  boxed = Gaussian(kernel, jnp.zeros(kernel.shape))
  got = sparsejax.apply(layer, {'params': {'kernel': boxed, 'bias': bias}}, x, rngs={'noise': KEY})
  expected = jnp.einsum('gni,gio->gno', x, kernel) + bias[:, None]
  assert jnp.abs(got - expected).max() < 6 * np.sqrt(VARIANCE_EPSILON)


@pytest.mark.parametrize('name', ['dense', 'conv_strided', 'dense_general_out', 'conv_transpose',
                                  'embed', 'attend'])
def test_the_dtype_of_the_layer_is_kept(name):
  layer, x, shape, bias_shape, method = LAYERS[name]
  layer = layer.clone(dtype=jnp.bfloat16)
  kernel, bias = normal(*shape), None if bias_shape is None else normal(*bias_shape)

  def kinds(weight):
    gated = [Gated(weight, (normal(2, weight.shape[axis]),), KEY, table, axis)
             for axis in (-1, -2)[:weight.ndim]]
    return [Gaussian(weight, jnp.ones(weight.shape)), *gated]

  low_rank = [LowRank(normal(shape[0], 2), normal(2, shape[1]))] if len(shape) == 2 else []
  for boxed in [*kinds(kernel), *low_rank]:
    y = sparsejax.apply(layer, params_of(layer, boxed, bias), x, method=method, rngs={'noise': KEY})
    assert y.dtype == jnp.bfloat16, type(boxed)
  for boxed in [] if bias is None else kinds(bias):
    y = sparsejax.apply(layer, params_of(layer, kernel, boxed), x, rngs={'noise': KEY})
    assert y.dtype == jnp.bfloat16, type(boxed)


@pytest.mark.parametrize('layer, x', [
    (nn.Dense(3), normal(4)), (nn.Conv(3, (2, 2)), normal(5, 6, 4)),
    (nn.ConvTranspose(3, (2,)), normal(5, 4)), (nn.DenseGeneral(3, axis=0), normal(4, 5))])
def test_gates_per_example_of_one_example_alone_are_named(layer, x):
  # Under jax.vmap the key would be the same for all: one draw per batch, in silence.
  params = layer.init(KEY, x)['params']
  boxed = Gated(params['kernel'], (jnp.ones(()),), KEY, lambda key, shape, one: one, -1)
  with pytest.raises(ValueError, match='kernel need a leading axis of examples'):
    sparsejax.apply(layer, {'params': {**params, 'kernel': boxed}}, x)
  if x.ndim > 1 and not isinstance(layer, nn.DenseGeneral):
    boxed = Gated(params['bias'], (jnp.ones(()),), KEY, lambda key, shape, one: one, -1)
    with pytest.raises(ValueError, match='need a leading axis of examples'):
      sparsejax.apply(layer, {'params': {**params, 'bias': boxed}}, x)


# --- boxes in boxes, rows, noise shared by positions ----------------------------------------------


@pytest.mark.parametrize('name', ['dense', 'dense_several_axes', 'conv_strided', 'embed'])
def test_gates_on_two_axes_equal_each_example_alone(name):
  layer, x, shape, bias_shape, method = LAYERS[name]
  kernel, bias = normal(*shape), None if bias_shape is None else normal(*bias_shape)
  rows, columns = normal(x.shape[0], shape[-2]), normal(x.shape[0], shape[-1])
  boxed = Gated(Gated(kernel, (rows,), KEY, table, -2), (columns,), KEY, table, -1)
  got = sparsejax.apply(layer, params_of(layer, boxed, bias), x, method=method)
  for e in range(x.shape[0]):
    folded = kernel * spread(rows[e], kernel.ndim, -2) * spread(columns[e], kernel.ndim, -1)
    expected = layer.apply(params_of(layer, folded, bias), x[e:e + 1], method=method)
    np.testing.assert_allclose(got[e:e + 1], expected, rtol=2e-5, atol=2e-5)


def test_gates_over_local_noise_scale_mean_and_variance():
  n = 20_000
  x, gates = jnp.ones((2, 2)), jnp.array([[2.0, 0.0], [1.0, 3.0]])
  mean, var = jnp.ones((2, n)), jnp.full((2, n), 0.25)
  y = sparsejax.apply(nn.Dense(n, use_bias=False), {'params': {'kernel': Gated(
      Gaussian(mean, var), (gates,), KEY, table, -2)}}, x, rngs={'noise': KEY})
  wanted_mean, wanted_var = gates.sum(1), 0.25 * (gates**2).sum(1)
  assert (abs(y.mean(1) - wanted_mean) < 5 * jnp.sqrt(wanted_var / n)).all()
  assert (abs(y.var(1) / wanted_var - 1) < 5 * np.sqrt(2 / n)).all()


def test_gated_bias_over_a_structured_one():
  gates, x = jnp.array([[2.0, 0.0, 1.0], [1.0, 3.0, 0.5]]), normal(2, 4)
  bias = Gated(Gated(normal(3), (gates,), KEY, table, -1), (gates,), KEY, table, -1)
  kernel = normal(4, 3)
  got = sparsejax.apply(nn.Dense(3), {'params': {'kernel': kernel, 'bias': bias}}, x)
  np.testing.assert_allclose(got, x @ kernel + gates**2 * bias.value.value[None], rtol=1e-5,
                             atol=1e-6)


def test_shared_noise_is_one_draw_per_example_at_all_positions():
  n = 4000
  x = jnp.array([1.0, 2.0]).reshape(1, 2, 1) * jnp.array([1.0, 3.0, 1.0]).reshape(3, 1, 1)
  boxed = Gaussian(jnp.zeros((1, n)), jnp.full((1, n), 4.0), shared=True)
  bias = Gaussian(jnp.zeros(n), jnp.zeros(n), shared=True)
  y = sparsejax.apply(nn.Dense(n), {'params': {'kernel': boxed, 'bias': bias}}, x,
                      rngs={'noise': KEY})
  # sqrt(VARIANCE_EPSILON) of noise is added to each.
  np.testing.assert_allclose(y[:, 1], 2 * y[:, 0], atol=50 * np.sqrt(VARIANCE_EPSILON))
  assert (jnp.abs(y[0, 0] - y[2, 0]) > 0).all()
  assert (abs((y**2).mean(-1) / (4 * x[..., 0]**2) - 1) < 5 * np.sqrt(2 / n)).all()
  flat = sparsejax.apply(nn.Dense(n), {'params': {'kernel': boxed, 'bias': jnp.zeros(n)}}, x[:, 0],
                         rngs={'noise': KEY})
  assert len(np.unique(flat)) > 2 * n       # (B, units): nothing to share


def test_rows_are_the_same_wherever_and_however_they_are_looked_up():
  embed = nn.Embed(40, 3)
  boxed = RowGaussian(normal(40, 3), normal(40, 3), KEY)
  tokens = jnp.array([[0, 7, 7], [39, 7, 0]])
  few = sparsejax.apply(embed, {'params': {'embedding': boxed}}, tokens)
  many = sparsejax.apply(embed, {'params': {'embedding': boxed}}, jnp.tile(tokens, (1, 20)))
  np.testing.assert_allclose(jnp.tile(few, (1, 20, 1)), many, rtol=1e-6)
  np.testing.assert_array_equal(few[0, 1], few[1, 1])
  np.testing.assert_allclose(boxed.table()[tokens], few, rtol=1e-6)
  query = normal(2, 3)
  attended = sparsejax.apply(embed, {'params': {'embedding': boxed}}, query, method='attend')
  np.testing.assert_allclose(attended, query @ boxed.table().T, rtol=1e-5, atol=1e-5)
  noise = (boxed.table() - boxed.mean) / jnp.exp(0.5 * boxed.log_var)
  assert abs(noise).max() < 5.5 and abs((noise**2).mean() - 1) < 5 * np.sqrt(2 / 120)


def test_rows_have_one_gradient_whichever_way_they_are_drawn():
  embed, tokens, mean, log_var = nn.Embed(9, 2), jnp.array([[0, 7, 7]]), normal(9, 2), normal(9, 2)

  def loss(mean, log_var, tokens):
    boxed = RowGaussian(mean, log_var, KEY)
    y = sparsejax.apply(embed, {'params': {'embedding': boxed}}, tokens)
    return (y[:, :3] ** 2).sum()

  few = jax.grad(loss, (0, 1))(mean, log_var, tokens)
  many = jax.grad(loss, (0, 1))(mean, log_var, jnp.tile(tokens, (1, 3)))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), few, many)
  assert not few[0][1].any() and few[0][7].all()


def test_rows_outside_a_look_up_are_named():
  boxed = RowGaussian(normal(4, 3), normal(4, 3), KEY)
  with pytest.raises(ValueError, match="at kernel is a table .* Dense multiplies.*noise='weight'"):
    sparsejax.apply(nn.Dense(3), {'params': {'kernel': boxed, 'bias': jnp.zeros(3)}}, normal(2, 4))
  with pytest.raises(ValueError, match='rows of embedding are looked up by integers'):
    sparsejax.apply(nn.Embed(4, 3), {'params': {'embedding': boxed}}, normal(2, 4))
