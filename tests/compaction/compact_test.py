"""The compact network computes the function of the dense one, and what dies is what must die."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.compaction import Coupling, Read, compact, slice_like
from sparsejax.models import MLP, ConvNet, LeNet5Caffe
from sparsejax.regulariser import partition
from sparsejax.regularisers.hard_concrete import l0_hard_concrete

KEY = jax.random.key(0)


def images(shape):
  return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def randomised(model, shape, seed=0):
  """Random weights, biases of both signs, running statistics away from 0 and 1."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(model.init, KEY, jnp.zeros(shape))
  variables = jax.tree.map(lambda a: 0.5 * rng.standard_normal(a.shape).astype(a.dtype), shapes)
  if 'batch_stats' in variables:
    variables['batch_stats'] = jax.tree.map(lambda a: np.abs(a) + np.float32(0.1),
                                            variables['batch_stats'])
  return variables


def logits_of(model, variables, x):
  """Compiled without optimisation, which would take longer than the run."""
  fast = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}
  return np.asarray(jax.jit(model.apply, compiler_options=fast)(variables, x))


def killed(variables, seed, columns=0.4, rows=0.3, entries=0.2, keep_bias=True):
  """Zeroes random columns (head apart), rows (image channels apart) and single entries."""
  rng = np.random.default_rng(seed)
  params = {name: dict(layer) if isinstance(layer, dict) else layer
            for name, layer in variables['params'].items()}
  for name, layer in params.items():
    if not isinstance(layer, dict) or 'kernel' not in layer:
      continue
    kernel = layer['kernel'] * (rng.random(layer['kernel'].shape) >= entries)
    if name != 'head':
      dead = rng.random(kernel.shape[-1]) < columns
      kernel = kernel * ~dead
      if not keep_bias and 'bias' in layer:
        layer['bias'] = layer['bias'] * ~dead
    if name != 'conv0':
      kernel = kernel * (rng.random(kernel.shape[-2]) >= rows)[:, None]
    layer['kernel'] = kernel
  return {**variables, 'params': params}


def check_same_function(model, variables, result, x):
  """Same logits to 1e-5 of the largest, float32: the bound the project promises."""
  before, after = logits_of(model, variables, x), logits_of(result.model, result.variables, x)
  assert np.abs(before).max() > 0
  np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())
  expected = jax.eval_shape(result.model.init, KEY, x)
  assert jax.tree.map(jnp.shape, result.variables) == jax.tree.map(jnp.shape, expected)
  assert jax.tree.map(lambda a: a.dtype, result.variables) == jax.tree.map(lambda a: a.dtype,
                                                                          expected)


MODELS = {
    'mlp': (MLP((12, 9, 8), classes=4), (6, 5, 5, 1)),
    'mlp without hidden layers': (MLP((), classes=4), (6, 5, 5, 1)),
    'gathered mlp': (MLP((12, 9), classes=4, kept_inputs=tuple(range(0, 25, 2))), (6, 5, 5, 1)),
    'lenet5': (LeNet5Caffe((6, 8, 9), classes=4), (6, 20, 20, 2)),
    'gathered lenet5': (LeNet5Caffe((6, 8, 9), classes=4, kept_flat=(2, 5, 9, 12, 16, 17, 31)),
                        (6, 20, 20, 1)),
    'convnet': (ConvNet((6, 8, 7), classes=4), (6, 9, 8, 2)),
    'convnet without conv bias': (ConvNet((6, 8), classes=4, conv_bias=False), (6, 8, 8, 2)),
    'convnet without last pool': (ConvNet((6, 8), classes=4, pool_after=(0,)), (6, 7, 8, 2)),
}


def full_units(model, variables, shape):
  """One array over the units of each coupling."""
  leaves = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]:
    leaves[jax.tree_util.keystr(path, simple=True, separator='/').removeprefix('params/')] = leaf
  return [np.zeros(c.units(leaves)) for c in model.couplings(variables, shape)]


@pytest.mark.parametrize('seed', [1, 2])
@pytest.mark.parametrize('name', MODELS)
def test_random_deaths(name, seed):
  model, shape = MODELS[name]
  variables = killed(randomised(model, shape, seed), seed)
  result = compact(model, variables, example_shape=shape)
  check_same_function(model, variables, result, images(shape))
  assert not result.kept.notes
  assert all(units.size < mask.size for units, mask in zip(
      result.kept.units.values(), full_units(model, variables, shape), strict=True))
  # compacting again finds nothing: the first pass was a fixed point
  again = compact(result.model, result.variables, example_shape=shape)
  assert again.model == result.model and not again.kept.added


@pytest.mark.parametrize('name', ['mlp', 'lenet5', 'convnet'])
def test_a_dense_network_stays_as_it_is(name):
  model, shape = MODELS[name]
  variables = randomised(model, shape)
  result = compact(model, variables)
  assert result.model == model and not result.kept.added and not result.kept.notes
  jax.tree.map(np.testing.assert_array_equal, result.variables, variables)


# --- what dies, worked by hand --------------------------------------------------------------------


def chain():
  """MLP 3-3-3-2-1 of ones, so that every number below can be followed by hand."""
  def ones(i, o):
    return {'kernel': np.ones((i, o), np.float32), 'bias': np.zeros(o, np.float32)}
  return MLP((3, 3, 2), classes=1), {'params': {'dense0': ones(3, 3), 'dense1': ones(3, 3),
                                                'dense2': ones(3, 2), 'head': ones(2, 1)}}


def test_constants_cascade_through_three_layers():
  model, variables = chain()
  p = variables['params']
  p['dense0']['kernel'][:, 0] = 0           # unit 0 emits relu(2) = 2
  p['dense0']['bias'][:] = [2, 0, 0]
  p['dense1']['kernel'][1:, 1] = 0          # unit 1 reads unit 0 alone: 3 * 2 - 1 = 5
  p['dense1']['kernel'][0, 1] = 3
  p['dense1']['bias'][1] = -1
  p['dense2']['kernel'][[0, 2], 0] = 0      # unit 0 reads that unit alone: 0.5 * 5 + 1 = 3.5
  p['dense2']['kernel'][1, 0] = 0.5
  p['dense2']['bias'][0] = 1
  p['head']['kernel'][0, 0] = 4             # 4 * 3.5 = 14 into the head
  result = compact(model, variables)
  assert result.model == MLP((2, 2, 1), classes=1)
  assert {name: units.tolist() for name, units in result.kept.units.items()} == {
      'inputs': [0, 1, 2], 'dense0': [1, 2], 'dense1': [0, 2], 'dense2': [1]}
  added = {path: delta.tolist() for path, delta in result.kept.added.items()}
  assert added == {'dense1/bias': [2, 2], 'dense2/bias': [5], 'head/bias': [14]}
  check_same_function(model, variables, result, images((4, 3)))


def test_unread_units_cascade_back_to_the_inputs():
  model, variables = chain()
  p = variables['params']
  p['head']['kernel'][0] = 0                # nobody reads dense2's unit 0
  p['dense2']['kernel'][0, 1] = 0           # so nobody needs dense1's unit 0
  p['dense1']['kernel'][2, 1:] = 0          # so nobody needs dense0's unit 2
  p['dense0']['kernel'][1, :2] = 0          # so nobody needs input 1
  result = compact(model, variables)
  assert result.model == MLP((2, 2, 1), classes=1, kept_inputs=(0, 2))
  assert [k.tolist() for k in result.kept['dense1/kernel']] == [[0, 1], [1, 2]]
  assert not result.kept.added
  check_same_function(model, variables, result, images((4, 3)))


def test_a_negative_constant_is_silent_behind_relu():
  model, variables = chain()
  variables['params']['dense0']['kernel'][:, 0] = 0
  variables['params']['dense0']['bias'][0] = -2
  result = compact(model, variables)
  assert result.model.widths == (2, 3, 2) and not result.kept.added


def test_flatten_boundary_keeps_single_rows():
  model, shape = LeNet5Caffe((2, 3, 4), classes=2), (3, 20, 20, 1)           # 4 positions x 3
  variables = randomised(model, shape)
  kernel = variables['params']['dense']['kernel']
  kernel[[1, 4, 7, 10]] = 0                 # filter 1 at every position: the filter dies
  kernel[5] = 0                             # filter 2 at position 1 only
  result = compact(model, variables)
  # of filters 0 and 2, renumbered 0 and 1: all of 2 x 4 but index 3
  assert result.model == LeNet5Caffe((2, 2, 4), classes=2, kept_flat=(0, 1, 2, 4, 5, 6, 7))
  assert result.kept['dense/kernel'][0].tolist() == [0, 2, 3, 6, 8, 9, 11]
  check_same_function(model, variables, result, images(shape))
  kernel[2::3] = 0                          # filter 2 goes too: whole filters need no gather
  assert compact(model, variables).model == LeNet5Caffe((2, 1, 4), classes=2)


def test_a_dead_filter_folds_through_pooling_into_dense():
  model, shape = LeNet5Caffe((2, 3, 4), classes=2), (3, 20, 20, 1)
  variables = randomised(model, shape)
  p = variables['params']
  p['conv1']['kernel'][..., 1] = 0
  p['conv1']['bias'][1] = 0.5
  result = compact(model, variables)
  assert result.model == LeNet5Caffe((2, 2, 4), classes=2)
  by_hand = 0.5 * p['dense']['kernel'][1::3].sum(0)
  np.testing.assert_allclose(result.kept.added['dense/bias'], by_hand, rtol=1e-6, atol=1e-7)
  check_same_function(model, variables, result, images(shape))


# --- batch-norm -----------------------------------------------------------------------------------


def test_gates_on_what_the_consumer_reads_need_no_map():
  model, shape = ConvNet((5, 6), classes=3), (4, 8, 8, 1)
  variables = randomised(model, shape)
  variables['params']['conv1']['kernel'][:, :, [0, 3]] = 0
  variables['params']['head']['kernel'][[2]] = 0
  result = compact(model, variables)        # no image size needed
  assert result.model == ConvNet((3, 5), classes=3)
  assert result.variables['batch_stats']['norm0']['var'].shape == (3,)
  check_same_function(model, variables, result, images(shape))


@pytest.mark.parametrize('shape', [(4, 8, 8, 1), (4, 7, 10, 1)])
def test_gates_on_the_filter_fold_by_a_bias_map(shape):
  model = ConvNet((5, 6, 4), classes=3, pool_after=(0,))
  variables = randomised(model, shape)
  p = variables['params']
  p['norm0']['bias'][:] = p['norm1']['bias'][:] = 2.0          # loud: relu(bn) > 0
  p['conv0']['kernel'][..., [0, 3]] = 0
  p['conv0']['bias'][[0, 3]] = 0
  p['conv1']['kernel'][:, :, [1, 2, 4], 5] = 0                 # reads dead filters only: an image
  result = compact(model, variables, example_shape=shape)
  assert result.model == ConvNet((3, 5, 4), classes=3, pool_after=(0,), bias_maps=(1, 2))
  height, width = shape[1] // 2, shape[2] // 2
  assert result.variables['params']['bias_map1'].shape == (height, width, 5)
  assert result.kept.created == ('bias_map1', 'bias_map2')
  check_same_function(model, variables, result, images(shape))
  border, middle = result.kept.added['bias_map1'][0, 0], result.kept.added['bias_map1'][1, 1]
  assert np.abs(border - middle).max() > 0.01                  # a plain bias would be wrong
  # a network with maps is compacted again: the map is cut and added to; no size is needed
  q = jax.tree.map(np.array, result.variables)
  q['params']['conv1']['kernel'][..., 2] = 0
  again = compact(result.model, q)
  assert again.model.widths == (3, 4, 4)
  check_same_function(result.model, q, again, images(shape))


def test_a_zero_scale_is_as_good_as_a_zero_filter():
  model, shape = ConvNet((5, 6), classes=3), (4, 8, 8, 1)
  variables = randomised(model, shape)
  variables['params']['norm0']['scale'][1] = 0
  variables['params']['norm0']['bias'][1] = 0.7
  variables['params']['norm1']['scale'][4] = 0
  result = compact(model, variables, example_shape=shape)
  assert result.model.widths == (4, 5) and result.model.bias_maps == (1,)
  check_same_function(model, variables, result, images(shape))


def test_the_image_size_is_asked_for_only_where_it_is_needed():
  model, shape = ConvNet((5, 6), classes=3), (4, 8, 8, 1)
  variables = randomised(model, shape)
  variables['params']['conv1']['kernel'][..., 0] = 0           # the last: its average is constant
  result = compact(model, variables)
  assert result.model.widths == (5, 5)
  check_same_function(model, variables, result, images(shape))
  variables['params']['conv0']['kernel'][..., 0] = 0
  variables['params']['norm0']['bias'][0] = 9.0
  with pytest.raises(ValueError, match=r'give compact example_shape=\(B, H, W, channels\)'):
    compact(model, variables)


# --- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('death', ['all kernels', 'first layer', 'head'])
def test_a_row_without_live_units_keeps_one_and_says_so(name, death):
  model, shape = MODELS[name]
  variables = randomised(model, shape)
  params = variables['params']
  layers = [name for name, layer in params.items() if 'kernel' in layer]
  for layer in {'all kernels': layers, 'first layer': layers[:1], 'head': ['head']}[death]:
    params[layer]['kernel'] = np.zeros_like(params[layer]['kernel'])
  result = compact(model, variables, example_shape=shape)
  assert all(units.size for units in result.kept.units.values())
  assert not isinstance(model, MLP) or result.kept.notes
  assert all('are dead; unit' in note for note in result.kept.notes)
  check_same_function(model, variables, result, images(shape))


def test_the_order_of_couplings_does_not_matter():
  model, shape = MODELS['gathered lenet5']
  for seed, columns in ((1, 0.4), (2, 1.0)):       # the second: every row must keep a dead unit
    variables = killed(randomised(model, shape), seed, columns=columns)
    couplings = model.couplings(variables)
    forward, backward = (compact(model, variables, c) for c in (couplings, couplings[::-1]))
    assert forward.model == backward.model
    check_same_function(model, variables, backward, images(shape))


class NoBias(MLP):
  """The readers' biases are taken out of the couplings, as for Dense(use_bias=False)."""

  def couplings(self, variables=None, example_shape=None):
    rows = super().couplings()
    return tuple(Coupling(c.name, c.writes, tuple(
        Read(r.path, r.axis, emits=r.emits, into=None) for r in c.reads)) for c in rows)


def test_a_fold_without_a_bias_is_given_up_aloud():
  _, variables = chain()
  model = NoBias((3, 3, 2), classes=1)
  p = variables['params']
  p['dense0']['kernel'][:, :2] = 0
  p['dense0']['bias'][:2] = [2, -2]         # unit 0 emits 2, unit 1 nothing
  result = compact(model, variables)
  assert result.kept.units['dense0'].tolist() == [0, 2]
  assert result.kept.notes == ('dense0: kept units [0] without incoming weights: dense1/kernel has '
                               'no bias to take what they emit',)
  check_same_function(model, variables, result, images((4, 3)))


def test_non_finite_weights_are_named():
  model, variables = chain()
  variables['params']['dense1']['kernel'][0, 0] = np.nan
  with pytest.raises(ValueError, match=r'dense1/kernel \(3, 3\) has 1 entries that are not finite'):
    compact(model, variables)


def test_a_constant_that_is_not_finite_is_named():
  model, shape = ConvNet((3, 3), classes=3), (2, 8, 8, 1)
  variables = randomised(model, shape)
  variables['params']['conv0']['kernel'][..., 0] = 0
  variables['batch_stats']['norm0']['var'][0] = -1.0           # no standard deviation
  with np.errstate(all='ignore'), pytest.raises(ValueError, match="'conv0': a constant unit hands"):
    compact(model, variables, example_shape=shape)


def test_wrong_inputs_are_named():
  model, variables = chain()

  class Bare:
    def couplings(self, variables, example_shape):
      return ()

  with pytest.raises(ValueError, match="Bare has no method 'compacted'"):
    compact(Bare(), variables)
  with pytest.raises(ValueError, match="wrap bare weights as {'params': weights}"):
    compact(model, variables['params'])
  with pytest.raises(ValueError, match='give it or couplings'):
    compact(model, variables, model.couplings(), example_shape=(1, 3))
  with pytest.raises(ValueError, match='names of couplings repeat'):
    compact(model, variables, model.couplings() + model.couplings())
  with pytest.raises(ValueError, match='head/kernel is a str, not a dense array'):
    compact(model, {'params': variables['params'] | {'head': {'kernel': 'packed', 'bias': 0.}}})


def test_half_precision_stays():
  model, variables = chain()
  variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), variables)
  result = compact(model, variables)
  assert {a.dtype for a in jax.tree.leaves(result.variables)} == {jnp.dtype(jnp.bfloat16)}


# --- training goes on -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('name', ['mlp', 'lenet5', 'convnet'])
def test_an_adam_step_commutes_with_compaction(name):
  """Where units die because nobody reads them, the step and the cut may change places."""
  model, shape = MODELS[name]
  variables = killed(randomised(model, shape), seed=3, columns=0.0, entries=0.0)
  x, y = images(shape), np.arange(shape[0]) % 4
  optimiser = optax.adam(1e-2)
  rest = {c: t for c, t in variables.items() if c != 'params'}

  @functools.partial(jax.jit, static_argnums=0)
  def step(model, params, state, rest):
    def loss(p):
      logits = model.apply({'params': p, **rest}, x)
      return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    updates, state = optimiser.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state

  params = variables['params']
  state = optimiser.init(params)
  moments = {'mu': jax.tree.map(lambda p: 0.01 * p, params),
             'nu': jax.tree.map(lambda p: 1e-4 * (1 + p**2), params)}
  state = (state[0]._replace(count=jnp.ones((), jnp.int32), **moments), *state[1:])
  result = compact(model, variables)
  assert sum(a.size for a in jax.tree.leaves(result.variables)) < sum(
      a.size for a in jax.tree.leaves(variables))
  before = step(model, params, state, rest)
  after = step(result.model, result.variables['params'], slice_like(state, result.kept),
               {c: t for c, t in result.variables.items() if c != 'params'})
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
  # the step size is 1e-2; gradients agree to float32 rounding of sums of a few hundred terms
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
               after, slice_like(before, result.kept))


def test_trained_biases_take_the_folds_that_compact_reports():
  model, shape = MODELS['mlp']
  variables = killed(randomised(model, shape), seed=4)
  result = compact(model, variables)
  trained = slice_like(variables['params'], result.kept)
  assert result.kept.added
  for path, delta in result.kept.added.items():
    layer, leaf = path.split('/')
    trained[layer][leaf] = trained[layer][leaf] + delta
  x = images(shape)
  check_same_function(model, variables, result._replace(variables={'params': trained}), x)


def test_tied_gates_are_cut_with_their_filters():
  """Gates from the couplings kill filters outright; the gates that stay give the compact net."""
  model, shape = MODELS['lenet5']
  variables = randomised(model, shape)
  rows = {coupling.name: coupling for coupling in model.couplings(variables)}
  regulariser = partition(**{name: (rows[name].leaves('writes'), l0_hard_concrete(
      1.0, axis=rows[name].gate_axes('writes'), tied=True)) for name in ('conv0', 'conv1')},
      dense=('dense/kernel', l0_hard_concrete(1.0, axis=-2)))
  params, state = regulariser.init(KEY, variables['params'])
  rng = np.random.default_rng(0)
  for name in ('conv0', 'conv1', 'dense'):         # gates are 0 below -2.4
    params[name]['log_alpha'] = jax.tree.map(lambda a: 4 * rng.standard_normal(a.shape) - 1,
                                             params[name]['log_alpha'])
  weights = jax.device_get(regulariser.weights(params, state))
  result = compact(model, {'params': weights})
  assert result.model.widths[0] < 6 and result.model.widths[1] < 8 and result.model.kept_flat
  assert not result.kept.added                     # the bias is gated too: nothing is emitted
  check_same_function(model, {'params': weights}, result, images(shape))
  again = regulariser.weights(slice_like(params, result.kept), slice_like(state, result.kept))
  # one float32 rounding apart: the sliced gates are computed in arrays of another length
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=0), again,
               result.variables['params'])
