"""Which unit an index belongs to, what a constant becomes behind a layer, and tied gates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.compaction.couplings import (Axis, Coupling, Read, Write, layer_writes, norm_writes,
                                            through_dense, through_same_conv, through_valid_conv)
from sparsejax.gates import place_gates
from sparsejax.models import MLP, ConvNet, LeNet5Caffe


def test_units_of_a_flatten_follow_numpy():
  # three units at 2 x 2 positions: flatten the image that holds each unit's own number
  image = np.broadcast_to(np.arange(3), (2, 2, 3))
  flat = image.reshape(-1)
  np.testing.assert_array_equal(Axis('k', -2, positions=4).unit_of(12, 3), flat)
  kept = (1, 2, 6, 11)
  np.testing.assert_array_equal(Axis('k', -2, 4, kept).unit_of(4, 3), flat[list(kept)])


def test_spread_follows_numpy():
  rng = np.random.default_rng(0)
  emission = rng.random((2, 2, 3))
  flat, kept = Axis('k', -2, 4), (1, 6)
  np.testing.assert_array_equal(flat.spread(emission), emission.reshape(-1))
  np.testing.assert_array_equal(Axis('k', -2, 4, kept).spread(emission),
                                emission.reshape(-1)[list(kept)])
  row = rng.random(3)
  np.testing.assert_array_equal(flat.spread(row), np.broadcast_to(row, (2, 2, 3)).reshape(-1))
  assert Axis('k', -2).spread(emission) is emission


def test_axis_of_another_length_is_named():
  with pytest.raises(ValueError, match='axis -2 of a/kernel has 13 entries.*3 units x 4 positions'):
    Axis('a/kernel', -2, 4).unit_of(13, 3)
  with pytest.raises(ValueError, match='a gather of 2 of 3 units'):
    Axis('a/kernel', -2, 1, (0, 1)).unit_of(3, 3)


def conv(image, kernel, padding):
  """jax.lax as the oracle, in float32: 1e-5 holds for sums of 27 terms of size 1."""
  out = jax.lax.conv_general_dilated(jnp.float32(image)[None], jnp.float32(kernel), (1, 1), padding,
                                     dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  return np.asarray(out[0])


@pytest.mark.parametrize('window', [(3, 3), (2, 5), (4, 1)])
def test_folds_through_convolutions(window):
  rng = np.random.default_rng(0)
  kernel = rng.standard_normal((*window, 3, 4))
  image = rng.standard_normal((6, 5, 3))
  np.testing.assert_allclose(through_same_conv(image, kernel), conv(image, kernel, 'SAME'),
                             rtol=0, atol=1e-5)
  row = rng.standard_normal(3)
  constant = conv(np.broadcast_to(row, (6, 5, 3)), kernel, 'VALID')
  np.testing.assert_allclose(np.broadcast_to(through_valid_conv(row, kernel), constant.shape),
                             constant, rtol=0, atol=1e-5)


def test_folds_that_would_be_wrong_are_refused():
  kernel = np.ones((3, 3, 2, 1))
  with pytest.raises(ValueError, match='varies in space'):
    through_valid_conv(np.ones((4, 4, 2)), kernel)
  with pytest.raises(ValueError, match='give compact example_shape'):
    through_same_conv(np.ones(2), kernel)


def test_fold_through_dense():
  np.testing.assert_array_equal(through_dense(np.array([2., 0.]), np.array([[1., 3.], [5., 7.]])),
                                [2., 6.])


def test_gate_axes_of_a_flatten_are_those_of_tied_gates():
  model = LeNet5Caffe((4, 6, 5))
  image = jnp.zeros((1, 20, 20, 1))
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  conv1 = {c.name: c for c in model.couplings(variables)}['conv1']
  assert conv1.gate_axes() == {'conv1/kernel': -1, 'conv1/bias': -1, 'dense/kernel': (-2, 4)}
  assert conv1.gate_axes('reads') == {'dense/kernel': (-2, 4)}
  params = variables['params']
  owned = {'conv1': params['conv1'], 'dense': {'kernel': params['dense']['kernel']}}
  places = place_gates(owned, conv1.gate_axes(), tied=True)
  assert {place.units for place in places.values()} == {6}
  # the gate of unit u covers exactly the indices that the coupling gives to u
  gates = np.asarray(places['dense/kernel'].spread(jnp.arange(6.))).reshape(-1)
  np.testing.assert_array_equal(gates, conv1.reads[0].unit_of(24, 6))
  assert conv1.leaves() == 'conv1/kernel|conv1/bias|dense/kernel'


def test_gate_axes_leave_statistics_and_optional_leaves_out():
  conv0 = ConvNet((3, 4)).couplings()[0]
  assert set(conv0.gate_axes('writes')) == {'conv0/kernel', 'conv0/bias', 'norm0/scale',
                                            'norm0/bias'}


def test_gate_axes_refusals():
  inputs, dense0 = MLP((5,)).couplings()
  assert inputs.gate_axes() == {'dense0/kernel': -2}
  with pytest.raises(ValueError, match="'read' is not 'reads'"):
    dense0.gate_axes('read')
  gathered = Coupling('c', (), (Read('a/kernel', -2, 2, (0, 3)),))
  with pytest.raises(ValueError, match="'c' reads a/kernel through a gather"):
    gathered.gate_axes()
  recurrent = Coupling('h', layer_writes('hh'), (Read('hh/kernel', -2),))
  with pytest.raises(ValueError, match="'h' writes and reads hh/kernel"):
    recurrent.gate_axes()


def test_malformed_couplings_are_refused():
  with pytest.raises(ValueError, match="'c' has no reads"):
    Coupling('c', (), ())
  with pytest.raises(ValueError, match="role 'biass' of a is unknown"):
    Write('a', -1, role='biass')
  with pytest.raises(ValueError, match="names the weight that it multiplies"):
    Write('a', -1, role='scale')
  leaves = {'a/kernel': np.zeros((7, 2))}
  with pytest.raises(ValueError, match="'c' names b/kernel; the leaves are a/kernel"):
    Coupling('c', (), (Read('b/kernel', -2),)).units(leaves)
  with pytest.raises(ValueError, match='7 entries, which are not 2 copies'):
    Coupling('c', (), (Read('a/kernel', -2, 2),)).units(leaves)


def test_norm_writes_name_the_statistics():
  assert [w.path for w in norm_writes('n', scales='c/kernel')] == [
      'n/scale', 'n/bias', 'batch_stats/n/mean', 'batch_stats/n/var']
