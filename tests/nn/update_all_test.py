"""Tests of sparsejax.nn.update: every regularised module of a model, at once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import sparsejax
from sparsejax.nn import HardConcreteGate, L0Dense, Regularised, update

KEY = jax.random.key(0)
X = jnp.ones((2, 6))


def counting():
  """A method whose update adds 1 to the weights and counts in its state."""
  def init(key, weights):
    return weights, {'updates': jnp.zeros(())}

  def weights(params, state, key=None):
    return params

  def change(params, state, *, step, weight_grads=None, key=None):
    noise = 0.0 if key is None else jax.random.normal(key)
    return jax.tree.map(lambda w: w + 1 + noise, params), {'updates': state['updates'] + 1}

  return sparsejax.Regulariser(init, weights, update=change)


class Layer(nn.Module):
  @nn.compact
  def __call__(self, x):
    return Regularised(nn.Dense(6, parent=None), counting(), deterministic=True, name='inner')(x)


JitLayer = nn.jit(Layer)    # one class for all passes, so that nn.jit has a cache to answer from


class Net(nn.Module):
  """Everything a model may do to a module: share it, rematerialise, jit and scan it."""

  @nn.compact
  def __call__(self, x, train=False):
    shared = Layer(name='shared')
    x = shared(shared(x))
    x = nn.remat(Layer)(name='remat')(x)
    compiled = JitLayer(name='jit')
    x = compiled(compiled(x))
    scanned = nn.scan(lambda layer, x, _: (layer(x), None), length=3,
                      variable_axes={'params': 0, 'regulariser': 0}, split_rngs={'params': True})
    x, _ = scanned(Layer(name='stack'), x, None)
    x = nn.BatchNorm(use_running_average=not train)(x)
    x = nn.Dropout(0.5, deterministic=not train)(x)
    return nn.Dense(2, name='plain')(x)


def test_each_module_is_updated_once_wherever_it_sits():
  model = Net()
  v = model.init(KEY, X)
  for train in (False, True):
    # A pass of the same shapes goes first: nn.jit must not answer the update from its cache.
    model.apply(v, X, train, rngs={'params': KEY}, mutable=True)
    new = update(model, v, X, train, step=0)
    assert jax.tree.structure(new) == jax.tree.structure(v)
    again = update(model, new, X, train, step=1)
    for name in ('shared', 'remat', 'jit', 'stack'):
      count = again['regulariser'][name]['inner']['updates']
      np.testing.assert_array_equal(count, 2 * jnp.ones(count.shape), err_msg=name)
      for after, before in zip(jax.tree.leaves(again['params'][name]),
                               jax.tree.leaves(v['params'][name]), strict=True):
        np.testing.assert_allclose(after, before + 2, rtol=1e-6, err_msg=name)
    for other in ('plain', 'BatchNorm_0'):
      jax.tree.map(np.testing.assert_array_equal, again['params'][other], v['params'][other])
    jax.tree.map(np.testing.assert_array_equal, again['batch_stats'], v['batch_stats'])
  # And a plain pass afterwards must not update.
  _, changed = model.apply(v, X, rngs={'params': KEY}, mutable=True)
  jax.tree.map(np.testing.assert_array_equal, changed['params'], v['params'])


def test_equals_the_update_of_one_module():
  regulariser = sparsejax.partition(decay=('kernel', sparsejax.l1(
      optax.linear_schedule(0.0, 1.0, 4))))
  module = Regularised(nn.Dense(3), regulariser)
  v = module.init(KEY, X)
  new = update(module, v, X, step=1)
  _, expected = module.apply(v, step=1, method='update', mutable=['params', 'regulariser'])
  jax.tree.map(np.testing.assert_array_equal, new, expected)
  assert new['regulariser']['decay']['strength'] == 0.5


def test_key_is_the_key_of_the_forward_pass():
  module = Regularised(nn.Dense(3), counting())
  v = module.init(KEY, X)
  new = update(module, v, X, step=1, key=KEY)
  params, _ = counting().update(v['params'], v['regulariser'], step=1, key=KEY)
  jax.tree.map(np.testing.assert_array_equal, new['params'], params)


def test_faces_and_gates_are_clamped():
  class Gated(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = L0Dense(4, strength=0.1, name='layer')(x)
      return x * HardConcreteGate(name='gate')(x)[None]

  v = Gated().init(KEY, X)
  v = {**v, 'params': jax.tree.map(lambda a: a + 50, v['params'])}
  new = jax.jit(lambda v: update(Gated(), v, X, step=0))(v)
  top = np.float32(np.log(100))
  np.testing.assert_allclose(new['params']['gate']['log_alpha'], top, rtol=1e-6)
  np.testing.assert_allclose(new['params']['layer']['gates']['log_alpha']['kernel'], top, rtol=1e-6)
  assert new['params']['layer']['free']['bias'].min() == 50


def test_a_scanned_stack_of_gates_is_clamped():
  scanned = nn.scan(lambda gate, x, _: (x * gate(x)[None], None), length=3,
                    variable_axes={'params': 0}, split_rngs={'params': True, 'noise': True})

  class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
      return scanned(HardConcreteGate(name='gate'), x, None)[0]

  v = Stack().init(KEY, X)
  v = jax.tree.map(lambda a: a + 50, v)
  new = update(Stack(), v, X, step=0)
  assert set(new) == {'params'}
  np.testing.assert_allclose(new['params']['gate']['log_alpha'], np.float32(np.log(100)), rtol=1e-6)


def test_nothing_of_the_forward_pass_is_compiled():
  model = nn.Sequential([L0Dense(4, strength=0.1), nn.relu, nn.Dense(3)])
  v = model.init(KEY, X)
  program = jax.jit(lambda v: update(model, v, X, step=0)).lower(v).compile().as_text()
  forward = jax.jit(lambda v: model.apply(v, X, rngs={'noise': KEY})).lower(v).compile().as_text()
  assert ' dot(' in forward and ' dot(' not in program


def test_a_model_without_a_regularised_module_is_refused():
  v = nn.Dense(2).init(KEY, X)
  with pytest.raises(ValueError, match='Dense called no regularised module'):
    update(nn.Dense(2), v, X, step=0)
