"""The faces hold no formula: each equals the functional form on the same variables."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import sparsejax
from sparsejax.nn import BayesianLSTM, L0Conv, L0Dense, SparseVDConv, SparseVDDense

KEY = jax.random.key(0)
DENSE_X = jax.random.normal(KEY, (3, 6))
RNN_X = jax.random.normal(KEY, (2, 3, 4))
CONV_X = jax.random.normal(KEY, (2, 7, 7, 4))
CONV = {'features': 6, 'kernel_size': (3, 3), 'strides': 2, 'padding': 'VALID',
        'feature_group_count': 2}

FACES = {
    'l0_dense': (L0Dense(5, strength=0.1, l2=0.2), nn.Dense(5), DENSE_X, sparsejax.partition(
        gates=('kernel', sparsejax.l0_hard_concrete(0.1, axis=-2, l2=0.2)))),
    'l0_dense_example': (
        L0Dense(5, strength=0.1, per='example', drop_rate=0.3, use_bias=False),
        nn.Dense(5, use_bias=False), DENSE_X, sparsejax.partition(
            gates=('kernel', sparsejax.l0_hard_concrete(0.1, per='example', drop_rate=0.3)))),
    'l0_conv': (L0Conv(**CONV, strength=0.1), nn.Conv(**CONV), CONV_X, sparsejax.partition(
        gates=('kernel|bias', sparsejax.l0_hard_concrete(0.1, axis=-1, tied=True)))),
    'vd_dense': (SparseVDDense(5, kl='exact', init_log_sigma2=-5.0), nn.Dense(5), DENSE_X,
                 sparsejax.partition(posterior=('kernel', sparsejax.sparse_variational_dropout(
                     kl='exact', init_log_sigma2=-5.0)))),
    'vd_conv': (SparseVDConv(**CONV, noise='weight'), nn.Conv(**CONV), CONV_X,
                sparsejax.partition(posterior=('kernel', sparsejax.sparse_variational_dropout(
                    noise='weight')))),
    'bayesian_lstm': (
        BayesianLSTM(3, kl='first', threshold=2.0), nn.RNN(nn.LSTMCell(3)), RNN_X,
        sparsejax.bayesian_rnn(cells='cell', embedding=None, head=None, kl='first', threshold=2.0,
                               groups=('inputs', 'hidden', 'gates'))),
}


class Streams(nn.Module):
  def __call__(self):
    return self.make_rng('noise')


@pytest.mark.parametrize('name', [pytest.param(name, marks=pytest.mark.slow)
                                  if name == 'bayesian_lstm' else name for name in FACES])
def test_face_equals_the_functional_form(name):
  face, stock, x, regulariser = FACES[name]
  v = face.init(KEY, x)
  params, state = regulariser.init(KEY, stock.init(KEY, x)['params'])
  assert jax.tree.map(jnp.shape, v['params']) == jax.tree.map(jnp.shape, params)
  jax.tree.map(np.testing.assert_array_equal, v['regulariser'], state)
  y, changed = face.apply(v, x, rngs={'noise': KEY}, mutable=['losses'])
  inner = Streams().apply({}, rngs={'noise': KEY})
  weights = regulariser.weights(v['params'], state, KEY)
  np.testing.assert_array_equal(
      y, sparsejax.apply(stock, {'params': weights}, x, rngs={'noise': inner}))
  assert changed['losses']['regulariser'] == regulariser.penalty(v['params'], state, KEY)
  deployed = {'params': regulariser.weights(v['params'], state)}
  np.testing.assert_allclose(face.apply(v, x, deterministic=True), stock.apply(deployed, x),
                             rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('face, stock', [(L0Dense, nn.Dense), (SparseVDDense, nn.Dense),
                                         (L0Conv, nn.Conv), (SparseVDConv, nn.Conv),
                                         (BayesianLSTM, nn.LSTMCell)])
def test_face_has_the_arguments_of_the_stock_layer(face, stock):
  # What would replace the computation itself is the business of the linear rules.
  left_out = {'promote_dtype', 'dot_general', 'dot_general_cls', 'conv_general_dilated',
              'conv_general_dilated_cls'}
  ours = {f.name: f for f in dataclasses.fields(face)}
  for field in dataclasses.fields(stock):
    if field.name in left_out:
      continue
    assert field.name in ours
    if not field.name.endswith('_init'):      # functions made anew at each use
      assert ours[field.name].default is field.default, field.name
  positional = [n for n, p in inspect.signature(face).parameters.items()
                if p.kind is p.POSITIONAL_OR_KEYWORD][:1]
  assert positional == ['features']


@pytest.mark.parametrize('face, method', [
    (L0Dense, sparsejax.l0_hard_concrete), (L0Conv, sparsejax.l0_hard_concrete),
    (SparseVDDense, sparsejax.sparse_variational_dropout),
    (SparseVDConv, sparsejax.sparse_variational_dropout), (BayesianLSTM, sparsejax.bayesian_rnn)])
def test_face_has_the_arguments_of_the_method(face, method):
  ours = inspect.signature(face).parameters
  for name, parameter in inspect.signature(method).parameters.items():
    # The face's own choice; of the recipe for whole networks it is what concerns the cell.
    if name in ('axis', 'tied', 'cells', 'embedding', 'head', 'head_noise', 'groups',
                'principal_axes_at', 'cells_strength'):
      continue
    assert ours[name].default == parameter.default, name


def test_strength_may_be_a_schedule_and_dtype_is_obeyed():
  face = L0Dense(4, strength=optax.linear_schedule(0.0, 1.0, 4), dtype=jnp.bfloat16)
  v = face.init(KEY, DENSE_X)
  assert face.apply(v, DENSE_X, rngs={'noise': KEY}).dtype == jnp.bfloat16
  _, new = face.apply(v, step=1, method='update', mutable=['params', 'regulariser'])
  assert new['regulariser']['gates']['strength'] == 0.5


def test_wrong_arguments_are_named():
  with pytest.raises(TypeError, match='strength'):
    L0Dense(4)
  with pytest.raises(ValueError, match='noise'):
    SparseVDDense(4, noise='nowhere').init(KEY, DENSE_X)
