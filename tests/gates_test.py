"""Where gates sit: axes by pattern, copies of units, tied homes; spread against NumPy's tile."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.gates import place_gates

# A convolution, the dense layer after its flatten (2 x 2 positions of 6 channels) and a head.
WEIGHTS = {
    'conv': {'kernel': jnp.ones((3, 3, 4, 6)), 'bias': jnp.ones(6)},
    'dense': {'kernel': jnp.ones((24, 5))},
    'head': {'kernel': jnp.ones((5, 2))},
}
UNITS = {'conv/.*': -1, 'dense/kernel': (-2, 4)}


def of(*names):
  return {name: WEIGHTS[name] for name in names}


def test_one_axis_for_all_leaves():
  places = place_gates(of('dense', 'head'), -2)
  assert places['dense/kernel'] == (-2, 1, 24, 2, 'dense/kernel')
  assert places['head/kernel'] == (-2, 1, 5, 2, 'head/kernel')


@pytest.mark.parametrize('positive, negative', [(0, -4), (2, -2), (3, -1)])
def test_positive_axes_become_negative(positive, negative):
  weights = {'conv': {'kernel': WEIGHTS['conv']['kernel']}}
  assert place_gates(weights, positive) == place_gates(weights, negative)
  assert place_gates(weights, positive)['conv/kernel'].axis == negative


def test_an_axis_for_each_pattern():
  places = place_gates(of('dense', 'head'), {'dense/.*': -1, 'h.*/kernel': 0})
  assert (places['dense/kernel'].axis, places['dense/kernel'].units) == (-1, 5)
  assert (places['head/kernel'].axis, places['head/kernel'].units) == (-2, 5)


def test_tied_leaves_share_the_first_leaf_with_single_copies():
  places = place_gates(of('conv', 'dense'), UNITS, tied=True)
  assert {place.home for place in places.values()} == {'conv/bias'}
  assert {place.units for place in places.values()} == {6}
  assert places['dense/kernel'].positions == 4
  # The dense kernel sorts before the convolution here, but holds copies.
  renamed = {'a': WEIGHTS['dense'], 'b': {'kernel': WEIGHTS['conv']['kernel']}}
  places = place_gates(renamed, {'a/kernel': (-2, 4), 'b/kernel': -1}, tied=True)
  assert {place.home for place in places.values()} == {'b/kernel'}


def test_spread_is_tile_with_the_unit_fastest():
  places = place_gates(of('conv', 'dense'), UNITS, tied=True)
  gates = np.arange(6.0)
  np.testing.assert_array_equal(places['conv/kernel'].spread(jnp.asarray(gates)),
                                gates.reshape(1, 1, 1, 6))
  np.testing.assert_array_equal(places['conv/bias'].spread(jnp.asarray(gates)), gates)
  spread = places['dense/kernel'].spread(jnp.asarray(gates).reshape(1, 6))   # their home's rank
  np.testing.assert_array_equal(spread, np.tile(gates, 4).reshape(24, 1))
  # What a flatten of (height, width, channels) puts at row r is channel r % 6.
  flat = np.broadcast_to(gates, (2, 2, 6)).reshape(-1)
  np.testing.assert_array_equal(spread[:, 0], flat)


def test_parameters_have_the_rank_of_their_leaf():
  for path, place in place_gates(of('conv', 'dense'), UNITS, tied=True).items():
    leaf = WEIGHTS[path.split('/')[0]][path.split('/')[1]]
    shape = place.parameter_shape(place.units * place.positions)
    assert np.broadcast_shapes(shape, leaf.shape) == leaf.shape and len(shape) == leaf.ndim


@pytest.mark.parametrize('weights, axis, tied, text', [
    (of('head'), -3, False, r'axis -3 does not exist on head/kernel \(5, 2\)'),
    (of('head'), 2, False, r'axis 2 does not exist on head/kernel'),
    (of('conv'), -2, False, r'axis -2 does not exist on conv/bias \(6,\)'),
    (of('dense', 'head'), {'dense/.*': -1}, False, 'head/kernel is matched by 0 of the axis'),
    (of('head'), {'head/.*': -1, '.*kernel': -2}, False, 'head/kernel is matched by 2 of the axis'),
    (of('dense'), {'dense/kernel': (-2, 5)}, True, 'not 5 copies of whole units'),
    (of('dense'), {'dense/kernel': (-2, 4)}, False, 'dense/kernel has several copies.*tied=True'),
    (of('dense', 'head'), -2, True, 'one length, got dense/kernel 24, head/kernel 5'),
    (of('dense'), {'dense/kernel': (-2, 4)}, True, 'one leaf with one copy of the units'),
])
def test_errors_name_the_leaf_and_the_repair(weights, axis, tied, text):
  with pytest.raises(ValueError, match=text):
    place_gates(weights, axis, tied)


def test_tied_gates_kill_a_unit_in_all_its_leaves():
  method = sparsejax.l0_hard_concrete(0.1, axis=UNITS, tied=True)
  params, state = jax.jit(method.init)(jax.random.key(0), of('conv', 'dense'))
  drawn = jax.jit(method.weights)(params, state, jax.random.key(4))
  gates = np.asarray(drawn['conv']['bias'])
  assert 0 < np.count_nonzero(gates) and np.unique(gates).size > 1
  np.testing.assert_array_equal(drawn['conv']['kernel'], np.broadcast_to(gates, (3, 3, 4, 6)))
  np.testing.assert_array_equal(drawn['dense']['kernel'],
                                np.broadcast_to(np.tile(gates, 4)[:, None], (24, 5)))
