"""Tests of the bridge to flax.nnx."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sparsejax
from sparsejax.nn import weights_of, with_weights

KEY = jax.random.key(0)


class Net(nnx.Module):
  """A convolution, a list of dense layers, batch-norm and dropout."""

  def __init__(self, rngs):
    self.conv = nnx.Conv(2, 4, (3,), rngs=rngs)
    self.layers = nnx.List([nnx.Linear(4, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)])
    self.norm = nnx.BatchNorm(3, momentum=0.5, rngs=rngs)
    self.drop = nnx.Dropout(0.5, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu(self.conv(x)).mean(1)
    for layer in self.layers:
      x = layer(x)
    return self.drop(self.norm(x))


X = jax.random.normal(KEY, (4, 6, 2))


def test_weights_are_a_nested_dict_with_string_keys():
  net = Net(nnx.Rngs(0))
  weights = weights_of(net)
  assert jax.tree.map(jnp.shape, weights) == {
      'conv': {'bias': (4,), 'kernel': (3, 2, 4)},
      'layers': {'0': {'bias': (5,), 'kernel': (4, 5)}, '1': {'bias': (3,), 'kernel': (5, 3)}},
      'norm': {'bias': (3,), 'scale': (3,)}}
  assert isinstance(weights['layers']['0']['kernel'], jax.Array)
  assert weights['layers']['1']['kernel'] is net.layers[1].kernel.get_value()


def test_round_trip_computes_the_same_and_leaves_the_original_alone():
  net = Net(nnx.Rngs(0))

  def arrays():
    return jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(net, (nnx.Param, nnx.BatchStat))))

  before = arrays()
  copy = with_weights(net, jax.tree.map(lambda w: 2 * w, weights_of(net)))
  np.testing.assert_array_equal(copy.conv.kernel.get_value(), 2 * net.conv.kernel.get_value())
  copy(X)
  jax.tree.map(np.testing.assert_array_equal, before, arrays())
  assert jnp.abs(copy.norm.mean.get_value()).max() > 0           # the copy has the new statistics
  first = with_weights(net, weights_of(net))(X)
  np.testing.assert_array_equal(first, with_weights(net, weights_of(net))(X))
  np.testing.assert_array_equal(first, net(X))


@pytest.mark.slow
@pytest.mark.parametrize('method', [
    sparsejax.magnitude_pruning(0.5, every=1), sparsejax.l0_hard_concrete(0.1)],
    ids=['magnitude_pruning', 'l0_hard_concrete'])
@pytest.mark.parametrize('kind', ['linear', 'conv', 'list'])
def test_three_steps_of_training(method, kind):
  rngs = nnx.Rngs(0)
  module, x, rule = {
      'linear': lambda: (nnx.Linear(4, 2, rngs=rngs), jnp.ones((3, 4)), 'kernel'),
      'conv': lambda: (nnx.Conv(2, 3, (3,), rngs=rngs), X, 'kernel'),
      'list': lambda: (Net(rngs), X, 'conv/kernel|layers/./kernel'),
  }[kind]()
  regulariser = sparsejax.partition(rule=(rule, method))
  params, state = regulariser.init(KEY, weights_of(module))
  tx = optax.adam(1e-2)

  @jax.jit
  def train_step(params, state, moments, step):
    key = jax.random.fold_in(KEY, step)

    def loss(params):
      y = with_weights(module, regulariser.weights(params, state, key))(x)
      return jnp.mean((y - 1) ** 2) + regulariser.penalty(params, state, key) / 100

    value, grads = jax.value_and_grad(loss)(params)
    updates, moments = tx.update(grads, moments)
    params = optax.apply_updates(params, updates)
    params, state = regulariser.update(params, state, step=step, key=key)
    return params, state, moments, value

  moments, losses = tx.init(params), []
  for step in range(3):
    params, state, moments, value = train_step(params, state, moments, step)
    losses.append(float(value))
  assert np.isfinite(losses).all()
  deployed = sparsejax.finalise(regulariser, params, state)
  assert with_weights(module, deployed)(x).shape == module(x).shape
  if 'mask' in state['rule']:
    zeros = [np.mean(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(
        regulariser.weights(params, state)) if leaf.ndim > 1]
    assert max(abs(z - 0.5) for z in zeros) < 0.1


def test_wrong_weights_are_named():
  net = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
  weights = weights_of(net)
  with pytest.raises(ValueError, match=r"lack \['bias'\] and have the unknown \['b'\]"):
    with_weights(net, {'kernel': weights['kernel'], 'b': weights['bias']})
  with pytest.raises(ValueError, match=r'kernel is \(2, 2\), the module has \(4, 2\)'):
    with_weights(net, {**weights, 'kernel': jnp.ones((2, 2))})
  gaussian = sparsejax.Gaussian(weights['kernel'], jnp.ones((4, 2)))
  with pytest.raises(ValueError, match="Gaussian weight at kernel .*noise='weight'"):
    with_weights(net, {**weights, 'kernel': gaussian})


def test_a_shared_parameter_is_listed_once_and_stays_shared():
  class Tied(nnx.Module):
    def __init__(self, rngs):
      self.a = nnx.Linear(3, 3, use_bias=False, rngs=rngs)
      self.b = nnx.Linear(3, 3, use_bias=False, rngs=rngs)
      self.b.kernel = self.a.kernel

  tied = Tied(nnx.Rngs(0))
  weights = weights_of(tied)
  assert weights.keys() == {'a'}
  copy = with_weights(tied, jax.tree.map(jnp.zeros_like, weights))
  assert copy.b.kernel is copy.a.kernel
