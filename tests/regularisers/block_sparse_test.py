"""Training by blocks against training under a mask, and the patterns against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax import block_patterns
from sparsejax.models.lenet import MLP
from sparsejax.paths import flatten
from sparsejax.regularisers.block_sparse import path_seed
from sparsejax.training import fit

KEY = jax.random.key(0)
RNG = np.random.default_rng(3)


def weights_of(*shapes):
  return {f'dense{i}': {'kernel': RNG.normal(size=shape).astype(np.float32)}
          for i, shape in enumerate(shapes)}


def pattern(method, params, state):
  """Returns {path: mask} of the weights that layers see."""
  return {path: np.asarray(leaf.mask())
          for path, leaf in flatten(method.weights(params, state)).items()}


def test_training_by_blocks_is_training_under_their_mask():
  images = RNG.integers(0, 256, (64, 4, 4, 1)).astype(np.uint8)
  labels = RNG.integers(0, 4, 64).astype(np.int32)

  def trained(leaves, method):
    recipe = fit.Recipe(MLP((12,), 4), sparsejax.partition(a=(leaves, method)),
                        optax.adam(0.01), 64, 16)
    state = fit.start(recipe, KEY, images)
    state, losses = fit.jit_epoch(recipe)(state, jnp.asarray(images), jnp.asarray(labels))
    return sparsejax.finalise(recipe.regulariser, state.params, state.method_state), losses

  # The grid of dense0 is 4 x 4, its bias is free; blocks 0 and 1 of each column are kept.
  mask = np.kron(np.array([[1] * 4] * 2 + [[0] * 4] * 2), np.ones((4, 3)))
  own = {'dense0/kernel': mask[::4, ::3]}
  blocks, losses = trained('dense0/kernel',
                           sparsejax.block_sparse((4, 3), layout=own, rescale=False))

  def masked():
    return sparsejax.Regulariser(lambda key, weights: (weights, {}), lambda params, state, key=None:
                                 jax.tree.map(lambda w: w * mask.astype(np.float32), params))
  dense, wanted = trained('dense0/kernel', masked())
  assert losses[-1] < losses[0]
  np.testing.assert_allclose(losses, wanted, rtol=1e-5)
  for path, leaf in flatten(blocks).items():
    # Adam divides by gradients near zero, which enlarges the rounding of float32.
    np.testing.assert_allclose(leaf, flatten(dense)[path], atol=1e-4, err_msg=path)
  assert np.all(blocks['dense0']['kernel'][mask == 0] == 0)


@pytest.mark.slow
@pytest.mark.parametrize('density, kept', [(0.5, 12), (0.26, 6), ({'dense0/kernel': 1.0}, 24)])
def test_random_blocks_are_as_many_as_asked_and_balanced(density, kept):
  weights = weights_of((12, 8))
  method = sparsejax.block_sparse((2, 2), density=density)
  params, state = jax.jit(method.init)(KEY, weights)
  mask = pattern(method, params, state)['dense0/kernel']
  assert mask.shape == (6, 4) and mask.sum() == kept == len(params['dense0']['kernel'])
  assert np.ptp(mask.sum(0)) <= 1 and np.ptp(mask.sum(1)) <= 1
  other = method.init(jax.random.key(1), weights)
  assert kept == 24 or np.any(pattern(method, *other)['dense0/kernel'] != mask)


@pytest.mark.slow
def test_columns_are_scaled_up_for_the_inputs_that_are_gone():
  weights = weights_of((7, 6))
  mask = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 1], [0, 1, 1]])
  method = sparsejax.block_sparse(2, layout={'dense0/kernel': mask}, pad=True)
  got = sparsejax.finalise(method, *method.init(KEY, weights))['dense0']['kernel']
  # Block rows hold 2, 2, 2 and 1 of the 7 inputs; the columns have 4, 3 and 5.
  scale = np.repeat(np.sqrt(7 / np.array([4, 3, 5])), 2)
  kept = np.kron(mask, np.ones((2, 2)))[:7]
  np.testing.assert_allclose(got, weights['dense0']['kernel'] * kept * scale, rtol=1e-6)


@pytest.mark.slow
def test_rescaled_outputs_have_the_variance_of_the_dense_layer():
  # He's rule: N(0, 2 / 64). 128 outputs x 400 inputs of unit variance.
  weights = {'w': jax.random.normal(KEY, (64, 128)) * np.sqrt(2 / 64)}
  x = RNG.normal(size=(400, 64)).astype(np.float32)
  variances = {}
  for rescale in (True, False):
    method = sparsejax.block_sparse(8, density=0.25, rescale=rescale)
    w = sparsejax.finalise(method, *method.init(KEY, weights))['w']
    variances[rescale] = np.mean((x @ w) ** 2)
  # A mean of 2 * chi2 / 16 over 128 columns of 16 weights each: sd 2 sqrt(2 / 2048); five of them,
  # and as much again for the inputs.
  assert abs(variances[True] - 2) < 10 * 2 * np.sqrt(2 / 2048)
  np.testing.assert_allclose(variances[True] / variances[False], 4, rtol=1e-4)


def test_magnitude_keeps_the_largest_blocks_and_the_largest_of_each_column():
  weights = weights_of((8, 12))
  kernel = weights['dense0']['kernel']
  kernel[:, 3:6] *= 0.01                    # a column of blocks that would lose them all
  method = sparsejax.block_sparse((2, 3), layout='magnitude', density=0.5)
  params, state = jax.jit(method.init)(KEY, weights)
  norms = np.array([[np.linalg.norm(kernel[i:i + 2, j:j + 3]) for j in range(0, 12, 3)]
                    for i in range(0, 8, 2)])
  mask = np.zeros((4, 4), bool)
  mask[norms.argmax(0), np.arange(4)] = True
  rest = sorted(np.argwhere(~mask).tolist(), key=lambda place: -norms[tuple(place)])
  for place in rest[:4]:
    mask[tuple(place)] = True
  np.testing.assert_array_equal(pattern(method, params, state)['dense0/kernel'], mask)
  got = sparsejax.finalise(method, params, state)['dense0']['kernel']
  np.testing.assert_array_equal(got, kernel * np.kron(mask, np.ones((2, 3))))


@pytest.mark.parametrize('layout', block_patterns.GRAPHS)
def test_graphs_are_those_of_block_patterns_each_leaf_its_own(layout):
  weights = weights_of((40, 40), (40, 40))
  method = sparsejax.block_sparse(2, layout=layout, density=0.3, seed=5, rewiring=0.4)
  masks = pattern(method, *jax.jit(method.init)(KEY, weights))
  for path, mask in masks.items():
    np.testing.assert_array_equal(mask, block_patterns.graph_pattern(
        layout, 20, 20, 0.3, seed=path_seed(5, path), rewiring=0.4))
    assert block_patterns.steps_to_mix(mask) <= 4
  assert np.any(masks['dense0/kernel'] != masks['dense1/kernel'])


def test_packed_weights_are_trained_on_in_their_pattern():
  dense = weights_of((8, 6))
  dense['dense0']['kernel'][:, 4:] = 0      # an empty column: a filler that is no weight
  packed = jax.tree.map(lambda w: sparsejax.BlockSparse.from_dense(w, 2, density=0.4), dense)
  method = sparsejax.block_sparse(None, layout='given')
  params, state = jax.jit(method.init)(KEY, packed)
  np.testing.assert_array_equal(sparsejax.finalise(method, params, state)['dense0']['kernel'],
                                packed['dense0']['kernel'].to_dense())
  # Even if something moves every parameter, what is no block stays out of the products.
  moved = jax.tree.map(lambda blocks: blocks + 1, params)
  mask = np.kron(np.asarray(packed['dense0']['kernel'].mask()), np.ones((2, 2)))
  got = method.weights(moved, state)['dense0']['kernel']
  np.testing.assert_array_equal(got.to_dense(),
                                mask * (np.asarray(packed['dense0']['kernel'].to_dense()) + 1))
  assert np.all(np.asarray(got.blocks)[~np.asarray(got.layout.live)] == 0)


def test_kernels_of_more_axes_are_matrices():
  weights = {'conv': {'kernel': RNG.normal(size=(2, 2, 4, 6)).astype(np.float32)},
             'query': {'kernel': RNG.normal(size=(8, 2, 4)).astype(np.float32)}}
  for path, axes, matrix in (('conv', None, (16, 6)), ('query', 1, (8, 8))):
    method = sparsejax.block_sparse(2, density=0.5, input_axes=axes, rescale=False)
    params, state = method.init(KEY, {path: weights[path]})
    box = method.weights(params, state)[path]['kernel']
    assert box.matrix_shape == matrix and box.shape == weights[path]['kernel'].shape
    kept = np.kron(np.asarray(box.mask()), np.ones((2, 2))).reshape(box.shape)
    np.testing.assert_array_equal(box.to_dense(), weights[path]['kernel'] * kept)


def test_other_methods_may_regularise_the_blocks():
  # A group lasso of blocks that are stored: axis 0 of (blocks, b_in, b_out).
  both = sparsejax.chain(sparsejax.block_sparse(2, density=0.5), sparsejax.group_lasso(0.3, axis=0))
  params, state = both.init(KEY, weights_of((8, 6)))
  norms = np.sqrt(np.square(params['dense0']['kernel']).sum((1, 2)))
  np.testing.assert_allclose(both.penalty(params, state, KEY), 0.3 * 2 * norms.sum(), rtol=1e-6)
  assert isinstance(both.weights(params, state, KEY)['dense0']['kernel'], sparsejax.BlockSparse)


@pytest.mark.parametrize('options, message', [
    ({'layout': 'star', 'density': 0.5}, "layout='star' is not known; choose from random, bara"),
    ({}, r"layout='random' needs a density in \(0, 1\]"),
    ({'layout': 'given', 'density': 0.5}, 'density=0.5 has no say where the pattern is given'),
    ({'density': 0.5, 'seed': 1}, "seed=1 with layout='random': 'barabasi_albert' and 'watts"),
    ({'layout': 'watts_strogatz', 'density': 0.5}, 'seed=None with layout='),
    ({'density': 1.5}, r'density=1.5 must be a number in \(0, 1\]'),
    ({'block_size': None, 'density': 0.5}, "block_size=None goes with layout='given' alone")])
def test_options_that_make_no_sense_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    sparsejax.block_sparse(**{'block_size': 2, **options})


@pytest.mark.parametrize('options, message', [
    ({'block_size': (2, 4), 'density': 0.5}, 'blocks of 2 x 4 do not divide dense0/kernel'),
    ({'density': 0.1}, '1 of the 4 x 3 blocks of dense0/kernel are fewer .* to 0.25 or more'),
    ({'layout': 'given'}, "dense0/kernel is a plain array, against layout='given'"),
    ({'layout': {'dense1/kernel': np.ones((4, 3))}}, 'layout lacks dense0/kernel and names dense1'),
    ({'layout': {'dense0/kernel': np.ones((3, 4))}}, r'mask of dense0/kernel has shape \(3, 4\)'),
    ({'layout': {'dense0/kernel': np.zeros((4, 3))}}, 'the mask of dense0/kernel keeps no block'),
    ({'layout': 'barabasi_albert', 'density': 0.1, 'seed': 0}, 'dense0/kernel: density .* raise'),
    ({'block_size': 2, 'density': 0.5, 'input_axes': 2}, 'with 2 input axes is no matrix')])
def test_leaves_that_do_not_fit_are_refused_by_name(options, message):
  method = sparsejax.block_sparse(**{'block_size': 2, **options})
  with pytest.raises(ValueError, match=message):
    method.init(KEY, weights_of((8, 6)))


def test_packed_weights_that_do_not_fit_are_refused_by_name():
  kernel = RNG.normal(size=(8, 2, 4)).astype(np.float32)
  packed = {'w': sparsejax.BlockSparse.from_dense(kernel, 2, density=0.5, input_axes=1)}
  for options, message in (
      ({'block_size': 2, 'density': 0.5}, "w is BlockSparse already, against layout='random'"),
      ({'block_size': 4, 'layout': 'given'}, r'w has blocks of \(2, 2\), not \(4, 4\)'),
      ({'block_size': None, 'layout': 'given'}, 'has 1 input axes, not 2; pass input_axes=1')):
    with pytest.raises(ValueError, match=message):
      sparsejax.block_sparse(**options).init(KEY, packed)


def test_packed_weights_pass_through_a_partition():
  weights = {'a': {'kernel': sparsejax.BlockSparse.from_dense(np.ones((16, 16), 'f'), 8,
                                                              density=0.5)},
             'b': {'bias': jnp.zeros(16)}}
  rule = sparsejax.partition(a=('a/kernel', sparsejax.block_sparse(None, layout='given')))
  params, state = rule.init(jax.random.key(0), weights)
  back = rule.weights(params, state)
  np.testing.assert_array_equal(back['a']['kernel'].to_dense(), weights['a']['kernel'].to_dense())
