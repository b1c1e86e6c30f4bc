"""Counts against the ones trick, XLA's own analysis, and networks counted by hand.

The ones trick: with every input and kernel entry 1 and no bias, each product is 1, so the sum of
the outputs is the number of multiply-adds.
"""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import ledger
from sparsejax.ledger import count


def ones(model, example, **kwargs):
  """The variables of `model`, all entries 1."""
  shapes = jax.eval_shape(lambda key: model.init(key, jnp.ones(example.shape, example.dtype),
                                                 **kwargs), jax.random.key(0))
  return jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)


def row_of(model, example):
  [row] = ledger.count_layers(model, ones(model, example), example)
  return row


def products(model, example):
  """Multiply-adds of `model` on `example` by the ones trick."""
  return int(np.asarray(model.apply(ones(model, example), jnp.ones_like(example))).sum())


VALID_LAYERS = {
    'conv': (nn.Conv(6, (3, 2), padding='VALID'), (1, 7, 6, 4)),
    'strided': (nn.Conv(6, (3, 3), strides=(2, 3), padding='VALID'), (1, 9, 8, 4)),
    'dilated': (nn.Conv(6, (3, 3), kernel_dilation=2, padding='VALID'), (1, 9, 8, 4)),
    'grouped': (nn.Conv(6, (3, 3), feature_group_count=2, padding='VALID'), (1, 9, 8, 4)),
    'depthwise': (nn.Conv(8, (3,), feature_group_count=4, strides=2, padding='VALID'), (1, 9, 4)),
    'one_dimension': (nn.Conv(5, (4,), padding='VALID'), (1, 9, 3)),
    'dense': (nn.Dense(5), (1, 7)),
    'dense_on_a_sequence': (nn.Dense(5), (1, 3, 7)),
    'general': (nn.DenseGeneral((2, 3), axis=(-2, -1)), (1, 4, 5)),
    'general_batched': (nn.DenseGeneral((2, 3), axis=-1, batch_dims=0), (1, 4, 5)),
}
TRANSPOSED_LAYERS = {
    'transposed': (nn.ConvTranspose(6, (3, 2), padding='VALID'), (1, 5, 4, 3)),
    'transposed_strided': (nn.ConvTranspose(6, (3, 3), strides=(2, 3), padding='VALID'),
                           (1, 5, 4, 3)),
    'transposed_dilated': (nn.ConvTranspose(6, (3, 3), strides=(2, 2), kernel_dilation=2,
                                            padding='VALID'), (1, 5, 4, 3)),
    'transposed_kernel': (nn.ConvTranspose(6, (2, 2), strides=(2, 2), transpose_kernel=True,
                                           padding='VALID'), (1, 5, 4, 3)),
}


@pytest.mark.parametrize('name', [*VALID_LAYERS, *TRANSPOSED_LAYERS])
def test_flops_match_the_ones_trick_and_xla(name):
  layer, shape = (VALID_LAYERS | TRANSPOSED_LAYERS)[name]
  layer = layer.clone(use_bias=False)
  example = jnp.ones(shape)
  flops = row_of(layer, example)['flops']
  assert flops == 2 * products(layer, example)
  variables = ones(layer, example)
  analysis = jax.jit(layer.apply).lower(variables, example).cost_analysis()
  assert flops == analysis['flops']


@pytest.mark.parametrize('strides', [1, 2, 3])
def test_positions_in_the_padding_of_a_conv_count(strides):
  layer = nn.Conv(6, (3, 3), strides=strides, padding='SAME', use_bias=False)
  example = jnp.ones((1, 9, 9, 4))
  out = -(-9 // strides)
  before = after = 1 if strides != 3 else 0             # SAME: (out - 1) * stride + 3 - 9 in all
  padded = jnp.ones((1, 9 + before + after, 9 + before + after, 4))
  assert (padded.shape[1] - 3) // strides + 1 == out
  assert row_of(layer, example)['flops'] == 2 * products(layer.clone(padding='VALID'), padded)


@pytest.mark.parametrize('padding', ['SAME', 'VALID', 'CIRCULAR'])
def test_transposed_conv_multiplies_each_input_entry_by_each_kernel_entry(padding):
  layer = nn.ConvTranspose(6, (3, 3), strides=(2, 1), padding=padding)
  assert row_of(layer, jnp.ones((1, 5, 4, 3)))['flops'] == 2 * (5 * 4) * (3 * 3 * 3 * 6)


def test_input_dilation_counts_input_positions():
  layer = nn.Conv(6, (3, 3), input_dilation=(2, 2), padding=((2, 2), (2, 2)), use_bias=False)
  example = jnp.ones((1, 5, 4, 3))
  assert row_of(layer, example)['flops'] == 2 * products(layer, example)


class LeNet(nn.Module):
  """LeNet-5-Caffe."""

  @nn.compact
  def __call__(self, x, train=True):
    for name, features in (('conv0', 20), ('conv1', 50)):
      x = nn.Conv(features, (5, 5), padding='VALID', name=name)(x)
      x = nn.max_pool(x, (2, 2), strides=(2, 2))
    x = x.reshape(x.shape[0], -1)
    x = nn.Dropout(0.5, deterministic=not train)(nn.relu(nn.Dense(500, name='dense0')(x)))
    return nn.Dense(10, name='head')(x)


def test_lenet_as_in_the_literature():
  """430,500 weights, 2,293,000 multiply-adds (288 + 1600 + 400 + 5 thousand), 20-50-800-500."""
  image = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
  variables = ones(LeNet(), image, train=False)
  for leaves in variables['params'].values():
    leaves['bias'][...] = 0
  rows = ledger.count_layers(LeNet(), variables, image, apply_kwargs={'train': False})
  assert [row['layer'] for row in rows] == ['conv0', 'conv1', 'dense0', 'head']
  assert [row['kind'] for row in rows] == ['Conv', 'Conv', 'Dense', 'Dense']
  assert [row['flops'] for row in rows] == [576_000, 3_200_000, 800_000, 10_000]
  sums = ledger.totals(rows)
  assert sums['weights_total'] == sums['weights_kept'] == 430_500
  assert sums['biases'] == 20 + 50 + 500 + 10
  assert sums['parameters'] == 431_080
  assert sums['exact_zeros'] == 580                      # the biases
  assert ledger.architecture_kept(rows) == [20, 50, 800, 500]
  assert all(set(row) == set(ledger.LAYER_KEYS) for row in rows)


def test_kept_slices_of_a_dense_layer_by_hand():
  kernel = np.zeros((4, 3), np.float32)
  kernel[1, 0], kernel[1, 2], kernel[3, 2], kernel[0, 0] = 1, -2, np.nan, -0.0
  variables = {'params': {'kernel': kernel, 'bias': np.array([0.0, 1.0, 0.0], np.float32)}}
  [row] = ledger.count_layers(nn.Dense(3), variables, np.ones((1, 4), np.float32))
  assert row == {'layer': '', 'kind': 'Dense', 'kernel_shape': [4, 3], 'weights_total': 12,
                 'weights_kept': 3, 'parameters': 15, 'biases': 3, 'exact_zeros': 11,
                 'inputs_kept': 2, 'outputs_kept': 2, 'flops': 24}
  assert all(type(value) in (int, str, list) for value in row.values())


@pytest.mark.parametrize('groups', [1, 2, 3])
def test_kept_channels_of_grouped_convolutions_by_loops(groups):
  rng = np.random.default_rng(groups)
  inputs, outputs = 12, 18
  per_input, per_output = inputs // groups, outputs // groups
  kernel = (rng.random((2, 2, per_input, outputs)) < 0.02).astype(np.float32)
  read, written = set(), set()
  for *_, i, o in np.argwhere(kernel):
    read.add((o // per_output) * per_input + i)          # output o sees the inputs of its group
    written.add(o)
  layer = nn.Conv(outputs, (2, 2), feature_group_count=groups, use_bias=False)
  [row] = ledger.count_layers(layer, {'params': {'kernel': kernel}},
                              np.ones((1, 5, 5, inputs), np.float32))
  assert (row['inputs_kept'], row['outputs_kept']) == (len(read), len(written))
  assert len(read) < inputs and len(written) < outputs


def test_kept_slices_of_a_transposed_kernel():
  kernel = np.zeros((2, 2, 6, 3), np.float32)            # (out, in), as transpose_kernel has it
  kernel[:, :, 4, :] = 1
  layer = nn.ConvTranspose(6, (2, 2), transpose_kernel=True, use_bias=False)
  [row] = ledger.count_layers(layer, {'params': {'kernel': kernel}}, np.ones((1, 5, 5, 3), 'f4'))
  assert (row['inputs_kept'], row['outputs_kept']) == (3, 1)


def test_kept_slices_of_dense_general_and_embed():
  kernel = np.zeros((2, 3, 4, 5), np.float32)            # inputs (2, 3), outputs (4, 5)
  kernel[1, 2, 0, 0] = kernel[1, 2, 3, 4] = kernel[0, 0, 0, 0] = 1
  layer = nn.DenseGeneral((4, 5), axis=(-2, -1), use_bias=False)
  [row] = ledger.count_layers(layer, {'params': {'kernel': kernel}}, np.ones((1, 2, 3), 'f4'))
  assert (row['inputs_kept'], row['outputs_kept']) == (2, 2)
  layer = nn.DenseGeneral(4, axis=-1, batch_dims=(0,), use_bias=False)
  kernel = np.ones((1, 3, 4), np.float32)
  [row] = ledger.count_layers(layer, {'params': {'kernel': kernel}}, np.ones((1, 2, 3), 'f4'))
  assert (row['inputs_kept'], row['outputs_kept'], row['flops']) == (3, 4, 2 * 2 * 3 * 4)
  table = np.zeros((7, 4), np.float32)
  table[2, 1] = 1
  [row] = ledger.count_layers(nn.Embed(7, 4), {'params': {'embedding': table}},
                              np.zeros((1, 5), np.int32))
  assert (row['kind'], row['inputs_kept'], row['outputs_kept'], row['flops']) == ('Embed', 1, 1, 0)


class Tied(nn.Module):
  """An embedding that is also the output layer, and one dense layer applied twice."""

  @nn.compact
  def __call__(self, tokens):
    embed, dense = nn.Embed(11, 4, name='embed'), nn.Dense(4, name='dense')
    return embed.attend(dense(dense(embed(tokens))))


def test_a_layer_used_twice_counts_twice_in_flops_and_once_in_weights():
  tokens = jnp.zeros((1, 5), jnp.int32)
  variables = ones(Tied(), tokens)
  embed, dense = ledger.count_layers(Tied(), variables, tokens)
  assert (embed['layer'], embed['flops']) == ('embed', 2 * 5 * 4 * 11)      # attend
  assert (dense['flops'], dense['weights_total']) == (2 * 2 * 5 * 4 * 4, 16)
  assert ledger.architecture_kept([embed, dense]) == [4]


class Recurrent(nn.Module):
  cell: type

  @nn.compact
  def __call__(self, x):
    return nn.Dense(2, name='head')(nn.RNN(self.cell(6, name='cell'), name='rnn')(x)[:, -1])


@pytest.mark.parametrize('cell', [nn.LSTMCell, nn.OptimizedLSTMCell])
def test_recurrent_kernels_count_once_a_step(cell):
  x = jnp.ones((1, 9, 3))                                # 9 steps, 3 inputs, 6 hidden units
  model = Recurrent(cell)
  variables = ones(model, x)
  rows = {row['layer']: row for row in ledger.count_layers(model, variables, x)}
  assert len(rows) == 9
  for gate in 'ifgo':
    assert rows[f'cell/i{gate}']['flops'] == 9 * 2 * 3 * 6
    assert rows[f'cell/h{gate}']['flops'] == 9 * 2 * 6 * 6
    assert rows[f'cell/h{gate}']['biases'] == 6
  assert rows['head']['flops'] == 2 * 6 * 2


class Block(nn.Module):

  @nn.compact
  def __call__(self, x, _):
    return nn.relu(nn.Dense(4, use_bias=False, name='dense')(x)), None


class Stack(nn.Module):
  """Three scanned layers: one kernel (3, 4, 4)."""

  @nn.compact
  def __call__(self, x):
    scan = nn.scan(Block, variable_axes={'params': 0}, split_rngs={'params': True}, length=3)
    return scan(name='stack')(x, None)[0]


def test_a_scanned_stack_counts_each_of_its_layers():
  x = jnp.ones((1, 4))
  variables = ones(Stack(), x)
  kernel = np.array(variables['params']['stack']['dense']['kernel'])
  kernel[1, 2:] = 0
  [row] = ledger.count_layers(Stack(), {'params': {'stack': {'dense': {'kernel': kernel}}}}, x)
  assert row['layer'] == 'stack/dense' and row['kernel_shape'] == [3, 4, 4]
  assert row['flops'] == 3 * 2 * 4 * 4
  assert (row['inputs_kept'], row['outputs_kept']) == (4 + 2 + 4, 12)


class Branch(nn.Module):
  """Jitted, rematerialised and vmapped layers; equal shapes share a trace cache."""

  @nn.compact
  def __call__(self, x):
    x = nn.jit(nn.Dense)(4, name='first')(x)
    x = nn.jit(nn.Dense)(4, name='second')(x)
    x = nn.remat(nn.Dense)(4, name='third')(x)
    many = nn.vmap(nn.Dense, in_axes=None, out_axes=1, axis_size=5, variable_axes={'params': 0},
                   split_rngs={'params': True})
    return many(2, name='many')(x)


def test_lifted_layers_count_as_plain_ones():
  x = jnp.ones((1, 4))
  variables = ones(Branch(), x)
  rows = {row['layer']: row for row in ledger.count_layers(Branch(), variables, x)}
  assert {name: row['flops'] for name, row in rows.items()} == {
      'first': 32, 'second': 32, 'third': 32, 'many': 2 * 5 * 4 * 2}
  assert rows['many']['biases'] == 10 and rows['many']['outputs_kept'] == 10


class Attention(nn.Module):

  @nn.compact
  def __call__(self, x):
    return nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=6, name='attention')(x)


def test_attention_projections_are_counted_and_products_of_activations_are_not():
  x = jnp.ones((1, 5, 4))
  variables = ones(Attention(), x)
  rows = ledger.count_layers(Attention(), variables, x)
  assert {row['layer']: row['flops'] for row in rows} == {
      f'attention/{name}': 2 * 5 * 4 * 6 for name in ('query', 'key', 'value', 'out')}


class Unlisted(nn.Module):

  @nn.compact
  def __call__(self, x):
    return nn.Dense(2, name='dense')(x @ self.param('kernel', nn.initializers.ones, (4, 4)))


def test_a_kernel_of_no_listed_layer_is_an_error():
  x = jnp.ones((1, 4))
  variables = ones(Unlisted(), x)
  with pytest.raises(ValueError, match='kernels kernel belong to no linear layer'):
    ledger.count_layers(Unlisted(), variables, x)


def test_a_batch_of_more_than_one_is_refused():
  with pytest.raises(ValueError, match=r'\(2, 4\).*images\[:1\]'):
    row_of(nn.Dense(3), jnp.ones((2, 4)))


def test_parameters_and_zeros_of_a_tree():
  tree = {'a': np.array([0.0, -0.0, 1.0, np.nan]), 'b': {'c': jnp.zeros((2, 3), jnp.bfloat16)}}
  assert count.parameters(tree) == 10
  assert count.exact_zeros(tree) == 8
