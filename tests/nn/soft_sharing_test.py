"""The face of soft weight-sharing equals the functional form on the same variables."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import sparsejax
from sparsejax.nn import SoftWeightSharing

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (3, 6))


class TwoLayers(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(2)(nn.relu(nn.Dense(5)(x)))


@pytest.mark.parametrize(('options', 'leaves'), [
    ({'num_components': 4, 'zero_prior': (9.0, 1.0)}, '.*'),
    pytest.param({'shared': False, 'strength': 0.1}, '.*kernel', marks=pytest.mark.slow),
])
@pytest.mark.slow
def test_face_equals_the_functional_form(options, leaves):
  stock = TwoLayers()
  face = SoftWeightSharing(stock, leaves=leaves, **options)
  regulariser = sparsejax.partition(mixture=(leaves, sparsejax.soft_weight_sharing(**options)))
  v = face.init(KEY, X)
  params, state = regulariser.init(KEY, stock.init(KEY, X)['params'])
  assert jax.tree.map(jnp.shape, v['params']) == jax.tree.map(jnp.shape, params)
  jax.tree.map(np.testing.assert_array_equal, v['regulariser'], state)
  y, changed = face.apply(v, X, rngs={'noise': KEY}, mutable=['losses'])
  weights = regulariser.weights(v['params'], state, KEY)
  np.testing.assert_allclose(y, stock.apply({'params': weights}, X), rtol=1e-6)
  assert changed['losses']['regulariser'] == regulariser.penalty(v['params'], state, KEY)
  deployed = regulariser.weights(v['params'], state)
  np.testing.assert_allclose(face.apply(v, X, deterministic=True),
                             stock.apply({'params': deployed}, X), rtol=1e-6, atol=1e-7)


def test_face_has_the_arguments_of_the_method():
  ours = inspect.signature(SoftWeightSharing).parameters
  for name, parameter in inspect.signature(sparsejax.soft_weight_sharing).parameters.items():
    assert ours[name].default == parameter.default, name


def test_wrong_arguments_are_named():
  with pytest.raises(ValueError, match='num_components=1'):
    SoftWeightSharing(nn.Dense(2), num_components=1).init(KEY, X)
