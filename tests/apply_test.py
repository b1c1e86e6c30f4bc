"""Tests of apply: stock models on plain and structured weights, and traps of recurrent cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import core, struct
from flax import linen as nn

import sparsejax
from sparsejax import Gaussian, LowRank
from sparsejax.paths import flatten, map_leaves
from sparsejax.structured import Packed

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def normal(*shape):
  return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def random_weights(model, *args, **kwargs):
  """Returns variables of the model's shapes, from NumPy (jax.random compiles for each shape)."""
  shapes = jax.eval_shape(lambda: model.init({'params': KEY, 'dropout': KEY}, *args, **kwargs))
  return jax.tree.map(lambda s: abs(normal(*s.shape)).astype(s.dtype), core.unfreeze(shapes))


def boxed(weights, pattern, box):
  """Returns the weights with box(leaf) at paths that end in `pattern`."""
  return map_leaves(lambda path, w: box(w) if path.endswith(pattern) else w, weights)


def sharp(w):
  """A Gaussian without variance: its noise is sqrt(1e-8) per output."""
  return Gaussian(w, jnp.zeros(w.shape, jnp.float32))


# --- plain weights --------------------------------------------------------------------------------

PLAIN = {
    'dense': (nn.Dense(3), normal(2, 4)),
    'dense_bf16': (nn.Dense(3, dtype=jnp.bfloat16), normal(2, 4)),
    'dense_general': (nn.DenseGeneral((2, 3), axis=(1, -1)), normal(2, 4, 3, 5)),
    'conv_strided_batch_axes': (nn.Conv(3, (3, 2), strides=(2, 1)), normal(2, 2, 5, 4, 2)),
    'conv_single_example': (nn.Conv(3, (3,)), normal(5, 2)),
    'conv_int_arguments': (nn.Conv(3, 3, strides=2, padding=1), normal(2, 5, 2)),
    'conv_grouped': (nn.Conv(4, (3, 3), feature_group_count=2, padding='VALID'),
                     normal(2, 5, 4, 2)),
    'conv_dilated': (nn.Conv(3, (3,), kernel_dilation=2, input_dilation=3, padding=((2, 1),)),
                     normal(2, 5, 2)),
    'conv_circular': (nn.Conv(3, (3, 2), padding='CIRCULAR', strides=2), normal(2, 5, 4, 2)),
    'conv_reflect': (nn.Conv(3, (3,), padding='REFLECT'), normal(2, 5, 2)),
    'conv_causal': (nn.Conv(3, (3,), padding='CAUSAL', kernel_dilation=2), normal(2, 5, 2)),
    'conv_bf16': (nn.Conv(3, (3,), dtype=jnp.bfloat16), normal(2, 5, 2)),
    'conv_masked': (nn.Conv(3, (2,), mask=jnp.eye(3)[None].repeat(2, 0)), normal(2, 5, 3)),
    'transpose_wide_strides': (nn.ConvTranspose(3, (2, 3), strides=(4, 5)), normal(2, 3, 2, 2)),
    'transpose_valid': (nn.ConvTranspose(3, (3,), strides=(2,), padding='VALID', use_bias=False),
                        normal(2, 2, 4, 2)),
    'transpose_pairs_dilated': (
        nn.ConvTranspose(3, (3, 2), padding=(1, (0, 2)), kernel_dilation=(2, 1),
                         transpose_kernel=True), normal(2, 3, 4, 2)),
    'transpose_int_arguments': (nn.ConvTranspose(3, 3, strides=2), normal(2, 4, 2)),
    'transpose_lower_case': (nn.ConvTranspose(3, (2,), padding='same'), normal(2, 4, 2)),
    'transpose_circular': (nn.ConvTranspose(3, (3,), strides=(2,), padding='CIRCULAR'),
                           normal(2, 4, 2)),
    'embed': (nn.Embed(5, 3), jnp.array([[1, 4], [0, 1]])),
    'attention': (nn.MultiHeadDotProductAttention(2, qkv_features=4, deterministic=True),
                  normal(2, 3, 4)),
}


@pytest.mark.parametrize('name', PLAIN)
def test_plain_weights_equal_model_apply(name):
  model, x = PLAIN[name]
  v = random_weights(model, x)
  got, expected = sparsejax.apply(model, v, x), model.apply(v, x)
  assert got.shape == expected.shape and got.dtype == expected.dtype
  # At most 40 products per output; bfloat16 rounds the sum once, to 2^-8.
  rtol = 2**-7 if got.dtype == jnp.bfloat16 else 40 * 2**-23
  np.testing.assert_allclose(np.float32(got), np.float32(expected), rtol=rtol, atol=1e-5)


@pytest.mark.parametrize('name', ['dense_general', 'conv_circular', 'transpose_wide_strides',
                                  'attention', 'embed'])
def test_gaussians_without_variance_equal_model_apply(name):
  model, x = PLAIN[name]
  v = random_weights(model, x)
  weights = map_leaves(lambda path, w: sharp(w), v['params'])
  got = sparsejax.apply(model, {'params': weights}, x, rngs={'noise': KEY})
  # Noise of 1e-4 per kernel and bias: below 1e-3 on each of a few hundred outputs, also behind the
  # softmax and two more layers of attention.
  np.testing.assert_allclose(got, model.apply(v, x), atol=1e-2 if name == 'attention' else 1e-3)


def test_embed_and_attend_of_one_table():
  class Tied(nn.Module):
    @nn.compact
    def __call__(self, tokens):
      embed = nn.Embed(5, 3, name='embed')
      return embed.attend(jnp.tanh(embed(tokens)))

  tokens = jnp.array([[1, 4], [0, 1]])
  v = random_weights(Tied(), tokens)
  expected = Tied().apply(v, tokens)
  np.testing.assert_allclose(sparsejax.apply(Tied(), v, tokens), expected, rtol=1e-6)
  weights = boxed(v['params'], 'embedding', sharp)
  got = sparsejax.apply(Tied(), {'params': weights}, tokens, rngs={'noise': KEY})
  np.testing.assert_allclose(got, expected, atol=1e-2)


class Everything(nn.Module):
  """Batch-norm, dropout, sown and named intermediates, two methods."""

  def setup(self):
    self.conv = nn.Conv(3, (2,))
    self.norm = nn.BatchNorm(momentum=0.5)
    self.drop = nn.Dropout(0.5)
    self.head = nn.Dense(2)

  def __call__(self, x, train=False):
    h = self.norm(self.conv(x), use_running_average=not train)
    self.sow('intermediates', 'normed', h)
    return self.decode(self.drop(h, deterministic=not train))

  def decode(self, h):
    return self.head(h)


def test_batch_norm_dropout_intermediates_and_methods_as_in_model_apply():
  model, x = Everything(), normal(2, 5, 2)
  v = random_weights(model, x)
  arguments = {'train': True, 'rngs': {'dropout': KEY}, 'mutable': ['batch_stats', 'intermediates'],
               'capture_intermediates': True}
  expected, collections = model.apply(v, x, **arguments)
  got, ours = sparsejax.apply(model, v, x, **arguments)
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
  assert jax.tree.structure(ours) == jax.tree.structure(collections)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(collections), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
  weights = boxed(v['params'], 'kernel', sharp)
  arguments['rngs'] = {'dropout': KEY, 'noise': KEY}
  got, ours = sparsejax.apply(model, {**v, 'params': weights}, x, **arguments)
  np.testing.assert_allclose(got, expected, atol=1e-2)
  assert jax.tree.structure(ours) == jax.tree.structure(collections)
  h = normal(2, 3)
  for method in ('decode', Everything.decode):
    got = sparsejax.apply(model, {**v, 'params': weights}, h, method=method, rngs={'noise': KEY})
    np.testing.assert_allclose(got, model.apply(v, h, method=method), atol=1e-3)


def test_a_layer_called_by_keyword_meets_its_rule():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(3, name='dense')(inputs=x)

  x = normal(2, 4)
  v = random_weights(Net(), x)
  got = sparsejax.apply(Net(), {'params': boxed(v['params'], 'kernel', sharp)}, x,
                        rngs={'noise': KEY})
  np.testing.assert_allclose(got, Net().apply(v, x), atol=1e-3)


def test_mutable_params_come_back_as_they_were_given():
  model, x = Everything(), normal(2, 5, 2)
  v = random_weights(model, x)
  weights = boxed(v['params'], 'kernel', sharp)
  _, changed = sparsejax.apply(model, {**v, 'params': weights}, x, mutable=True,
                               rngs={'noise': KEY})
  assert jax.tree.structure(changed['params']) == jax.tree.structure(weights)
  assert set(changed) == {'params', 'batch_stats', 'intermediates'}


def test_params_may_be_frozen_and_other_collections_missing():
  model, x = nn.Dense(3), normal(2, 4)
  v = random_weights(model, x)
  np.testing.assert_allclose(sparsejax.apply(model, core.freeze(v), x), model.apply(v, x),
                             rtol=1e-6)
  assert sparsejax.apply(nn.Dropout(0.5, deterministic=True), {}, x) is x


# --- transformations ------------------------------------------------------------------------------


class Block(nn.Module):
  @nn.compact
  def __call__(self, x):
    return jnp.tanh(nn.Dense(4, name='dense')(x))


@pytest.mark.parametrize('transform', [nn.remat, nn.jit])
def test_transformed_blocks_and_layers(transform):
  block, dense = transform(Block), transform(nn.Dense)   # once: nn.jit keeps its cache in them

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = block(name='block')(x)
      return dense(3, name='head')(x)

  x = normal(2, 4)
  v = random_weights(Net(), x)
  weights = boxed(v['params'], 'kernel', sharp)

  def run(weights):
    return sparsejax.apply(Net(), {'params': weights}, x, rngs={'noise': KEY})

  for _ in range(2):      # the second time, nn.jit runs what it has compiled, unseen
    np.testing.assert_allclose(run(weights), Net().apply(v, x), atol=1e-2)
  grads = jax.grad(lambda w: run(w).sum())(weights)
  assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))


def stack(split_noise=True):
  """Three residual blocks in nn.scan, kernels (3, 4, 4)."""
  class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
      return x + nn.Dense(4, use_bias=False, name='dense')(x), None

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      scan = nn.scan(Layer, variable_axes={'params': 0},
                     split_rngs={'params': True, 'noise': split_noise}, length=3)
      return scan(name='layers')(x, None)[0]

  return Net()


def test_local_noise_in_a_scanned_stack_is_independent_in_each_layer():
  model, x = stack(), normal(1, 4)
  regulariser = sparsejax.partition(
      r=('layers/.*', sparsejax.stacked(sparsejax.sparse_variational_dropout(
          init_log_sigma2=-4.0))))
  params, state = regulariser.init(KEY, random_weights(model, x)['params'])
  theta = params['r']['theta']['layers']['dense']['kernel']

  @jax.jit
  @jax.vmap
  def draw(key):
    weights = regulariser.weights(params, state, key)
    return sparsejax.apply(model, {'params': weights}, x, rngs={'noise': key})[0]

  draws = draw(jax.random.split(KEY, 4000))
  # h + h W with W ~ N(theta, var): E h' = h (I + theta), E h' h'^T as below, layer after layer.
  var = np.exp(-4.0)
  mean, second = np.float64(x[0]), np.outer(x[0], x[0]).astype(np.float64)
  for layer in np.float64(theta):
    step = np.eye(4) + layer
    mean, second = mean @ step, step.T @ second @ step + np.trace(second) * var * np.eye(4)
  std = np.sqrt(np.diag(second) - mean**2)
  np.testing.assert_array_less(abs(np.float64(draws.mean(0)) - mean), 5 * std / np.sqrt(4000))
  # The outputs are products of Gaussians, with a kurtosis below 9: its error is sqrt(8 / draws).
  np.testing.assert_array_less(abs(np.float64(draws.std(0)) / std - 1), 5 * np.sqrt(8 / 4000) / 2)


@pytest.mark.parametrize('per', ['batch', 'example'])
def test_gates_in_a_scanned_stack_differ_by_layer(per):
  model, x = stack(), jnp.ones((50, 4))
  regulariser = sparsejax.partition(
      r=('layers/.*', sparsejax.stacked(sparsejax.l0_hard_concrete(0.1, per=per))))
  weights = random_weights(model, x)['params']
  params, state = regulariser.init(KEY, weights)
  drawn = regulariser.weights(params, state, KEY)
  got = sparsejax.apply(model, {'params': drawn}, x)
  kernel = drawn['layers']['dense']['kernel']
  expected = x
  for layer in range(3):
    if per == 'batch':
      expected = expected + expected @ kernel[layer]
    else:
      one = jax.tree.map(lambda leaf: leaf[layer], kernel)  # noqa: B023
      gates = one.draw(50)
      assert not (gates == gates[:1]).all()
      expected = expected + (expected * gates) @ one.value
  np.testing.assert_allclose(got, expected, rtol=1e-4)
  if per == 'example':
    firsts = [jax.tree.map(lambda leaf: leaf[i], kernel).draw(50) for i in (0, 1)]  # noqa: B023
    assert (firsts[0] != firsts[1]).any()


def test_typed_keys_in_gates_survive_jit_vmap_grad_and_scan():
  model, x = nn.Dense(3), normal(4, 5)
  regulariser = sparsejax.partition(
      r=('kernel', sparsejax.l0_hard_concrete(0.1, per='example')))
  params, state = regulariser.init(KEY, random_weights(model, x)['params'])

  def loss(params, key):
    weights = regulariser.weights(params, state, key)
    assert jnp.issubdtype(weights['kernel'].key.dtype, jax.dtypes.prng_key)
    return jnp.mean(sparsejax.apply(model, {'params': weights}, x) ** 2)

  keys = jax.random.split(KEY, 3)
  single = [jax.jit(loss)(params, k) for k in keys]
  np.testing.assert_allclose(jax.vmap(loss, (None, 0))(params, keys), jnp.stack(single), rtol=1e-5)
  _, scanned = jax.lax.scan(lambda c, k: (c, loss(params, k)), 0, keys)
  np.testing.assert_allclose(scanned, jnp.stack(single), rtol=1e-5)
  grads = jax.grad(loss)(params, KEY)
  assert jnp.abs(grads['r']['log_alpha']['kernel']).max() > 0
  # And through the box itself: integer leaves, such as keys, have no gradient.
  box = regulariser.weights(params, state, KEY)
  grads = jax.grad(lambda w: sparsejax.apply(model, {'params': w}, x).sum(), allow_int=True)(box)
  assert jnp.abs(grads['kernel'].value).max() > 0


# --- recurrent cells ------------------------------------------------------------------------------


class Recurrent(nn.Module):
  cell: type = nn.LSTMCell

  @nn.compact
  def __call__(self, x):
    return nn.RNN(self.cell(4, name='lstm'), name='rnn')(x)


@pytest.mark.parametrize('cell', [nn.LSTMCell, nn.OptimizedLSTMCell, nn.GRUCell])
def test_cells_run_unmodified_on_drawn_weights(cell):
  model, x = Recurrent(cell), normal(2, 3, 5)
  regulariser = sparsejax.partition(
      r=('lstm/.*kernel', sparsejax.sparse_variational_dropout(noise='weight')))
  params, state = regulariser.init(KEY, random_weights(model, x)['params'])
  weights = regulariser.weights(params, state, KEY)
  np.testing.assert_allclose(sparsejax.apply(model, {'params': weights}, x),
                             model.apply({'params': weights}, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('cell, message', [
    (nn.LSTMCell, "Gaussian weight in recurrent cell lstm/.*/kernel would be redrawn.*'weight'"),
    (nn.OptimizedLSTMCell, "Gaussian weight at lstm/.*/kernel is read by a module that has no"),
    (nn.ConvLSTMCell, 'Gaussian weight in recurrent cell'),
])
def test_local_noise_in_a_cell_is_named(cell, message):
  if cell is nn.ConvLSTMCell:
    model, x = nn.RNN(nn.ConvLSTMCell(3, (2,))), normal(2, 3, 5, 2)
  else:
    model, x = Recurrent(cell), normal(2, 3, 5)
  weights = boxed(random_weights(model, x)['params'], 'kernel', sharp)
  with pytest.raises(ValueError, match=message):
    sparsejax.apply(model, {'params': weights}, x, rngs={'noise': KEY})


def test_local_noise_on_a_bias_in_a_cell_is_named():
  model, x = Recurrent(), normal(2, 3, 5)
  weights = boxed(random_weights(model, x)['params'], 'bias', sharp)
  with pytest.raises(ValueError, match='recurrent cell lstm/.* would be redrawn'):
    sparsejax.apply(model, {'params': weights}, x, rngs={'noise': KEY})


def test_gates_per_example_in_a_cell_are_one_draw_per_sequence():
  model, x = Recurrent(), normal(3, 4, 5)
  regulariser = sparsejax.partition(
      r=('lstm/h./kernel', sparsejax.dropout(0.5, tied=True)))
  weights = random_weights(model, x)['params']
  params, state = regulariser.init(KEY, weights)
  drawn = regulariser.weights(params, state, KEY)
  got = sparsejax.apply(model, {'params': drawn}, x)
  gates = drawn['lstm']['hi']['kernel'].draw(3)
  assert not (gates == gates[:1]).all()
  for e in range(3):      # each sequence alone, its gates folded into all four kernels
    folded = map_leaves(lambda path, w: w * gates[e][:, None] if '/h' in path and  # noqa: B023
                        path.endswith('kernel') else w, weights)
    expected = model.apply({'params': folded}, x[e:e + 1])
    np.testing.assert_allclose(got[e:e + 1], expected, rtol=1e-5, atol=1e-6)


def test_gates_in_a_cell_of_raw_kernels_are_named():
  model, x = Recurrent(nn.OptimizedLSTMCell), normal(2, 3, 5)
  regulariser = sparsejax.partition(r=('lstm/h./kernel', sparsejax.dropout(0.5, tied=True)))
  params, state = regulariser.init(KEY, random_weights(model, x)['params'])
  with pytest.raises(ValueError, match="Gated weight at lstm/h./kernel .* per='batch'"):
    sparsejax.apply(model, {'params': regulariser.weights(params, state, KEY)}, x)


# --- attention ------------------------------------------------------------------------------------


def test_negative_axes_mean_different_things_in_attention():
  """Axis -2 is the heads of query, key and value, but head_dim of out, whose heads are -3."""
  model, x = PLAIN['attention']
  weights = random_weights(model, x)['params']
  heads = sparsejax.partition(r=('(query|key|value|out)/kernel', sparsejax.dropout(
      0.5, axis={'(query|key|value)/kernel': -2, 'out/kernel': -3}, tied=True)))
  params, state = heads.init(KEY, weights)
  drawn = heads.weights(params, state, KEY)
  got = sparsejax.apply(model, {'params': drawn}, x)
  gates = drawn['out']['kernel'].draw(2)
  for e in range(2):
    def fold(path, w):
      if not path.endswith('kernel'):
        return w
      g = gates[e]  # noqa: B023
      return w * (g[:, None, None] if path == 'out/kernel' else g[None, :, None])
    expected = model.apply({'params': map_leaves(fold, weights)}, x[e:e + 1])
    np.testing.assert_allclose(got[e:e + 1], expected, rtol=1e-4, atol=1e-5)
  shapes = {path: leaf.shape for path, leaf in flatten(weights).items()}
  assert shapes['query/kernel'] == (4, 2, 2) and shapes['out/kernel'] == (2, 2, 4)
  with pytest.raises(ValueError, match='tied gates need one length'):
    sparsejax.dropout(0.5, axis=-1, tied=True).init(KEY, {
        path.split('/')[0]: w for path, w in flatten(weights).items() if path.endswith('kernel')})


# --- refusals -------------------------------------------------------------------------------------


@struct.dataclass
class Halved(Packed):
  """A packed kind without a rule."""

  value: jax.Array
  shape = property(lambda self: self.value.shape)
  dtype = property(lambda self: self.value.dtype)

  def to_dense(self):
    return self.value / 2


class MyDense(nn.Dense):
  """A layer of a user's own: not the stock type, so no rule may assume what it computes."""


@pytest.mark.parametrize('model, x, leaf', [
    (nn.LayerNorm(), normal(2, 4), 'scale'), (MyDense(3), normal(2, 4), 'kernel'),
    (nn.Sequential([nn.Dense(4), nn.BatchNorm(True)]), normal(2, 4), 'layers_1/scale')])
def test_a_structured_leaf_without_a_rule_is_named(model, x, leaf):
  v = random_weights(model, x)
  weights = boxed(v['params'], leaf, sharp)
  with pytest.raises(ValueError, match=f"Gaussian weight at {leaf} is read by a module that has no "
                     "linear rule for it; use noise='weight'"):
    sparsejax.apply(model, {**v, 'params': weights}, x, rngs={'noise': KEY})


def test_a_packed_weight_without_a_rule_needs_allow_dense():
  model, x = nn.Sequential([nn.Dense(3), nn.Dense(2)]), normal(2, 4)
  v = random_weights(model, x)
  weights = boxed(v['params'], 'layers_1/kernel', Halved)
  with pytest.raises(ValueError, match='Halved weight at layers_1/kernel .* pass allow_dense=True'):
    sparsejax.apply(model, {'params': weights}, x)
  got = sparsejax.apply(model, {'params': weights}, x, allow_dense=True)
  expected = model.apply({'params': boxed(v['params'], 'layers_1/kernel', lambda w: w / 2)}, x)
  np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_allow_dense_never_densifies_a_stochastic_weight():
  model, x = nn.LayerNorm(), normal(2, 4)
  weights = boxed(random_weights(model, x)['params'], 'scale', sharp)
  with pytest.raises(ValueError, match='Gaussian weight at scale'):
    sparsejax.apply(model, {'params': weights}, x, rngs={'noise': KEY}, allow_dense=True)


def test_a_rule_meets_a_packed_weight_without_allow_dense():
  model, x = nn.Dense(3), normal(2, 4)
  low = LowRank(normal(4, 1), normal(1, 3))
  got = sparsejax.apply(model, {'params': {'kernel': low, 'bias': jnp.zeros(3)}}, x)
  np.testing.assert_allclose(got, x @ low.to_dense(), rtol=1e-5, atol=1e-6)


def test_structured_weights_that_no_layer_used_are_named():
  class Idle(nn.Module):
    @nn.compact
    def __call__(self, x, both=True):
      y = nn.Dense(3, name='used')(x)
      idle = nn.Dense(3, name='idle')
      return y + idle(x) if both else y

  x = normal(2, 4)
  weights = boxed(random_weights(Idle(), x)['params'], 'kernel', sharp)
  with pytest.raises(ValueError, match='no layer used: idle/kernel'):
    sparsejax.apply(Idle(), {'params': weights}, x, both=False, rngs={'noise': KEY})


def test_model_apply_itself_refuses_structured_weights():
  weights = {'kernel': sharp(normal(4, 3)), 'bias': jnp.zeros(3)}
  with pytest.raises(ValueError, match='call the model through sparsejax.apply'):
    nn.Dense(3).apply({'params': weights}, normal(2, 4))


def test_apply_inside_apply_sees_its_own_weights_only():
  inner = nn.Dense(3)
  w = {'kernel': normal(4, 3), 'bias': normal(3)}

  class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(4, name='dense')(x) @ w['kernel'] * 0 + sparsejax.apply(
          inner, {'params': {**w, 'kernel': sharp(w['kernel'])}}, x, rngs={'noise': KEY})

  x = normal(2, 4)
  weights = boxed(random_weights(Outer(), x)['params'], 'kernel', sharp)
  got = sparsejax.apply(Outer(), {'params': weights}, x, rngs={'noise': KEY})
  np.testing.assert_allclose(got, inner.apply({'params': w}, x), atol=1e-3)


def test_gradients_by_patches_inside_a_scan_equal_the_stock_convolution():
  model = nn.Sequential([nn.Conv(3, (3,), strides=2), nn.ConvTranspose(2, (3,), strides=(2,))])
  x = normal(2, 6, 2)
  v = random_weights(model, x)

  def run(apply):
    return lambda v: jax.lax.scan(
        lambda total, scale: (total + jnp.sum(apply(v, scale * x) ** 2), None), 0.0,
        jnp.arange(1.0, 3.0))[0]

  ours = jax.grad(run(lambda v, x: sparsejax.apply(model, v, x)))(v)
  stock = jax.grad(run(lambda v, x: model.apply(v, x)))(v)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(stock), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4)
