"""Tests of Regularised: a method as an ordinary linen module."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import sparsejax
from sparsejax.nn import Regularised
from sparsejax.regulariser import Regulariser, no_penalty, no_update

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (4, 6))


class Streams(nn.Module):
  """Returns the key that make_rng gives at the top of a model."""

  def __call__(self, name):
    return self.make_rng(name)


def make_rng(name, key):
  return Streams().apply({}, name, rngs={name: key})


def mlp():
  return nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(2)])


def mixed():
  return sparsejax.partition(
      gates=('layers_0/kernel', sparsejax.l0_hard_concrete(0.1, l2=0.01)),
      posterior=('layers_2/kernel', sparsejax.sparse_variational_dropout()),
      decay=('layers_2/bias', sparsejax.l1(optax.linear_schedule(0.0, 1.0, 10))))


def largest_difference(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), a, b)))


def test_forward_and_penalty_equal_the_functional_form_with_local_noise():
  model, regulariser = mlp(), mixed()
  module = Regularised(model, regulariser)
  v = module.init(KEY, X)
  params, state = v['params'], v['regulariser']
  key = jax.random.key(7)
  y, changed = module.apply(v, X, rngs={'noise': key}, mutable=['losses'])
  weights = regulariser.weights(params, state, key)
  expected = sparsejax.apply(model, {'params': weights}, X, rngs={'noise': make_rng('noise', key)})
  np.testing.assert_array_equal(y, expected)
  assert changed['losses']['regulariser'] == regulariser.penalty(params, state, key)


def test_init_creates_the_trees_of_the_functional_init_and_no_losses():
  model, regulariser = mlp(), mixed()
  v = Regularised(model, regulariser).init(KEY, X)
  params, state = regulariser.init(KEY, model.init(KEY, X)['params'])
  assert set(v) == {'params', 'regulariser'}
  assert jax.tree.map(jnp.shape, v['params']) == jax.tree.map(jnp.shape, params)
  assert jax.tree.map(jnp.shape, v['regulariser']) == jax.tree.map(jnp.shape, state)


def test_deterministic_uses_deployed_weights_and_needs_no_stream():
  model, regulariser = mlp(), mixed()
  module = Regularised(model, regulariser)
  v = module.init(KEY, X)
  expected = model.apply(
      {'params': regulariser.weights(v['params'], v['regulariser'])}, X)
  np.testing.assert_allclose(module.apply(v, X, deterministic=True), expected, rtol=1e-6, atol=1e-6)
  by_attribute = Regularised(model, regulariser, deterministic=True)
  np.testing.assert_array_equal(by_attribute.apply(v, X), module.apply(v, X, deterministic=True))


def test_update_equals_the_functional_update_and_moves_schedules():
  regulariser = mixed()
  module = Regularised(mlp(), regulariser)
  v = module.init(KEY, X)
  v = {**v, 'params': jax.tree.map(lambda a: a + 9, v['params'])}
  _, new = module.apply(v, step=4, method='update', mutable=['params', 'regulariser'])
  params, state = regulariser.update(v['params'], v['regulariser'], step=4)
  assert largest_difference(new, {'params': params, 'regulariser': state}) == 0
  np.testing.assert_allclose(new['regulariser']['decay']['strength'], 0.5, rtol=1e-6)
  assert new['params']['gates']['log_alpha']['layers_0']['kernel'].max() < 4.7    # log 100 = 4.605


def test_update_gets_the_key_of_the_forward_pass():
  def init(key, weights):
    return weights, {'seen': jnp.zeros(())}

  def weights(params, state, key=None):
    return params if key is None else jax.tree.map(
        lambda w: w + jax.random.normal(key, w.shape), params)

  def update(params, state, *, step, weight_grads=None, key=None):
    return params, {'seen': jnp.zeros(()) if key is None else jax.random.normal(key)}

  def penalty(params, state, key=None):
    return jnp.zeros(()) if key is None else jax.random.normal(key)

  module = Regularised(nn.Dense(1, use_bias=False), Regulariser(init, weights, penalty, update))

  class Outer(nn.Module):
    def setup(self):
      self.inner = module.copy(parent=None, name=None)

    def __call__(self, x):
      return self.inner(x) + self.inner(x)

    def update(self, step):
      self.inner.update(step=step)

  x = jnp.ones((1, 1))
  outer = Outer()
  v = outer.init(KEY, x)
  y, changed = outer.apply(v, x, rngs={'noise': KEY}, mutable=['losses'])
  _, new = outer.apply(v, 0, rngs={'noise': KEY}, method='update',
                       mutable=['params', 'regulariser'])
  seen = new['regulariser']['inner']['seen']
  assert changed['losses']['inner']['regulariser'] == seen
  draw = y / 2 - v['params']['inner']['kernel']     # one draw for both calls: y = 2 (w + draw)
  np.testing.assert_allclose(draw, _single(module, v, x) - v['params']['inner']['kernel'],
                             rtol=1e-5)


def _single(module, variables, x):
  class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
      return module.copy(name='inner')(x)
  return Outer().apply(variables, x, rngs={'noise': KEY})


def test_batch_norm_and_dropout_work_inside():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
      x = nn.Dense(5)(x)
      x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
      x = nn.Dropout(0.5, deterministic=not train)(x)
      return nn.Dense(3)(x)

  regulariser = sparsejax.partition(k=('Dense_./kernel', sparsejax.l0_hard_concrete(0.1)))
  module = Regularised(Net(), regulariser)
  v = module.init({'params': KEY, 'dropout': KEY}, X, train=True)
  np.testing.assert_array_equal(v['batch_stats']['BatchNorm_0']['mean'], jnp.zeros(5))
  run = functools.partial(module.apply, v, X, train=True, mutable=['batch_stats', 'losses'])
  y, changed = run(rngs={'noise': KEY, 'dropout': jax.random.key(1)})
  other, _ = run(rngs={'noise': KEY, 'dropout': jax.random.key(2)})
  assert set(changed) == {'batch_stats', 'losses'}
  assert jnp.abs(y - other).max() > 0
  weights = regulariser.weights(v['params'], v['regulariser'], KEY)
  h = X @ weights['Dense_0']['kernel'] + weights['Dense_0']['bias'][None]
  np.testing.assert_allclose(changed['batch_stats']['BatchNorm_0']['mean'], 0.5 * h.mean(0),
                             rtol=1e-5, atol=1e-6)
  v = {**v, 'batch_stats': changed['batch_stats']}
  assert module.apply(v, X, train=False, deterministic=True).shape == (4, 3)


def test_dropout_is_fresh_at_each_call_within_one_apply():
  class Scaled(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dropout(0.5, deterministic=False)(x * self.param('scale', nn.initializers.ones, ()))

  class Both(nn.Module):
    @nn.compact
    def __call__(self, x):
      inner = Regularised(Scaled(parent=None), sparsejax.l1(0.1), name='inner')
      return inner(x), inner(x)

  x = jnp.ones((64,))
  v = Both().init({'params': KEY, 'dropout': KEY, 'noise': KEY}, x)
  a, b = Both().apply(v, x, rngs={'dropout': KEY, 'noise': KEY})
  assert (a != b).any()


def test_deterministic_is_handed_to_a_model_that_has_the_argument():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=False):
      return nn.Dropout(0.5, deterministic=deterministic)(nn.Dense(4)(x))

  module = Regularised(Net(), sparsejax.l1(0.1))
  v = module.init({'params': KEY, 'dropout': KEY}, X)
  y = module.apply(v, X, deterministic=True)
  np.testing.assert_allclose(y, Net().apply({'params': v['params']}, X, deterministic=True),
                             rtol=1e-6, atol=1e-6)
  with pytest.raises(Exception, match='dropout'):
    module.apply(v, X, rngs={'noise': KEY})


def test_penalty_is_sown_once_over_repeated_calls_and_stale_losses():
  class Siamese(nn.Module):
    @nn.compact
    def __call__(self, x):
      tower = Regularised(nn.Dense(3, parent=None), sparsejax.weight_decay(1.0), name='tower')
      return tower(x) - tower(2 * x)

  v = Siamese().init(KEY, X)
  assert set(v) == {'params', 'regulariser'}
  assert set(v['params']) == {'tower'}
  expected = 0.5 * sum(float(jnp.sum(w**2)) for w in jax.tree.leaves(v['params']))
  for _ in range(2):
    _, changed = Siamese().apply(v, X, rngs={'noise': KEY}, mutable=['losses'])
    np.testing.assert_allclose(changed['losses']['tower']['regulariser'], expected, rtol=1e-6)
    v = {**v, 'losses': changed['losses']}      # carried on by mistake: replaced, not added to


def test_losses_of_the_wrapped_model_stay_beside_ours():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      y = nn.Dense(2)(x)
      self.sow('losses', 'own', y.sum())
      self.sow('intermediates', 'y', y)
      return y

  module = Regularised(Net(), sparsejax.l1(0.1))
  v = module.init(KEY, X)
  y, changed = module.apply({c: v[c] for c in ('params', 'regulariser')}, X, deterministic=True,
                            mutable=['losses', 'intermediates'])
  assert set(changed['losses']) == {'own', 'regulariser'}
  np.testing.assert_array_equal(changed['intermediates']['y'][0], y)


def test_a_rule_may_be_named_like_a_field_of_the_module():
  regulariser = sparsejax.partition(
      model=('kernel', sparsejax.l1(0.1)), regulariser=('bias', sparsejax.l1(0.2)))
  module = Regularised(nn.Dense(2), regulariser)
  v = module.init(KEY, X)
  assert set(v['params']) == {'model', 'regulariser'}
  _, changed = module.apply(v, X, rngs={'noise': KEY}, mutable=['losses'])
  assert float(changed['losses']['regulariser']) > 0
  module.apply(v, step=0, method='update', mutable=['params', 'regulariser'])


def test_init_of_the_regulariser_runs_once_and_never_at_apply():
  calls = []
  l1 = sparsejax.l1(0.1)

  def init(key, weights):
    calls.append(1)
    return l1.init(key, weights)

  class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
      layer = Regularised(nn.Dense(6, parent=None), l1._replace(init=init), name='layer')
      return layer(layer(x))

  v = Twice().init(KEY, X)
  assert len(calls) == 1
  Twice().apply(v, X, rngs={'noise': KEY}, mutable=['losses'])
  assert len(calls) == 1


@pytest.mark.slow
def test_works_under_jit_grad_and_vmap():
  module = Regularised(nn.Dense(2), sparsejax.l0_hard_concrete(0.1, axis=-1, l2=0.1))
  v = module.init(KEY, X)

  @jax.jit
  def loss(params, key, strength):
    state = {**v['regulariser'], 'strength': strength}
    y, changed = module.apply({'params': params, 'regulariser': state}, X, rngs={'noise': key},
                              mutable=['losses'])
    return jnp.mean(y**2) + changed['losses']['regulariser'] / 100

  with jax.disable_jit():
    eager = loss(v['params'], KEY, jnp.asarray(0.1))
  np.testing.assert_allclose(loss(v['params'], KEY, jnp.asarray(0.1)), eager, rtol=1e-5)
  grads = jax.grad(loss)(v['params'], KEY, jnp.asarray(0.1))
  assert all(jnp.isfinite(g).all() and jnp.any(g != 0) for g in jax.tree.leaves(grads))
  keys, strengths = jax.random.split(KEY, 3), jnp.array([0.0, 0.1, 1.0])
  many = jax.jit(jax.vmap(loss, (None, 0, 0)))(v['params'], keys, strengths)
  single = [loss(v['params'], k, s) for k, s in zip(keys, strengths, strict=True)]
  np.testing.assert_allclose(many, jnp.stack(single), rtol=1e-5)


def test_trains_in_a_scan_with_optax():
  model = Regularised(mlp(), sparsejax.partition(
      prune=('.*/kernel', sparsejax.magnitude_pruning(0.75, begin=3, every=2))))
  v = model.init(KEY, X)
  tx = optax.adam(0.05)
  labels = (X[:, 0] > 0).astype(jnp.int32)

  def one(carry, step):
    params, state, moments = carry

    def loss(params):
      logits = model.apply({'params': params, 'regulariser': state}, X,
                           rngs={'noise': jax.random.fold_in(KEY, step)})
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    value, grads = jax.value_and_grad(loss)(params)
    updates, moments = tx.update(grads, moments)
    params = optax.apply_updates(params, updates)
    _, new = model.apply({'params': params, 'regulariser': state}, step=step, method='update',
                         mutable=['params', 'regulariser'])
    return (new['params'], new['regulariser'], moments), value

  carry = (v['params'], v['regulariser'], tx.init(v['params']))
  (_, state, _), losses = jax.jit(lambda c: jax.lax.scan(one, c, jnp.arange(40)))(carry)
  assert losses[-1] < losses[0]
  kept = sum(int(m.sum()) for m in jax.tree.leaves(state['prune']['mask']))
  assert kept == round(0.25 * 30) + round(0.25 * 10)    # kernels of 30 and 10 weights


def test_works_inside_a_scanned_stack_with_a_layer_axis():
  class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
      layer = Regularised(nn.Dense(6, parent=None), sparsejax.partition(
          gates=('kernel', sparsejax.l0_hard_concrete(0.1))), name='layer')
      return x + layer(x), None

  stack = nn.scan(Block, length=3, variable_axes={'params': 0, 'regulariser': 0, 'losses': 0},
                  split_rngs={'params': True, 'noise': True})()
  v = stack.init(KEY, X, None)
  assert v['params']['layer']['gates']['weight']['kernel'].shape == (3, 6, 6)
  (_, _), changed = stack.apply(v, X, None, rngs={'noise': KEY}, mutable=['losses'])
  assert changed['losses']['layer']['regulariser'].shape == (3,)


def test_model_method_runs_another_method_of_the_model():
  class Auto(nn.Module):
    def setup(self):
      self.encoder, self.decoder = nn.Dense(3), nn.Dense(6)

    def __call__(self, x):
      return self.decode(self.encoder(x))

    def decode(self, z):
      return self.decoder(z)

  module = Regularised(Auto(), sparsejax.l1(0.1))
  v = module.init(KEY, X)
  z = jnp.ones((2, 3))
  expected = Auto().apply({'params': v['params']}, z, method='decode')
  np.testing.assert_allclose(module.apply(v, z, model_method='decode', deterministic=True),
                             expected, rtol=1e-6)


def test_a_recurrent_network_is_wrapped_as_a_whole_and_its_cell_named_by_its_field():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      rnn = nn.RNN(nn.OptimizedLSTMCell(3))
      rule = sparsejax.sparse_variational_dropout(noise='weight')
      return Regularised(rnn, sparsejax.partition(r=('cell/.*kernel', rule)), name='body')(x)

  x = jnp.ones((2, 4, 5))
  v = Net().init(KEY, x)
  assert set(v['params']['body']['r']['theta']) == {'cell'}
  assert Net().apply(v, x, rngs={'noise': KEY}).shape == (2, 4, 3)


def test_missing_noise_stream_is_named():
  module = Regularised(nn.Dense(2), sparsejax.l1(0.1))
  v = module.init(KEY, X)
  with pytest.raises(ValueError, match="Regularised are drawn .*'noise'.*deterministic=True"):
    module.apply(v, X)


def test_missing_collection_is_named():
  module = Regularised(nn.Dense(2), sparsejax.l0_hard_concrete(0.1, axis=-1))
  v = module.init(KEY, X)
  with pytest.raises(ValueError, match="collection 'regulariser' of Regularised is missing"):
    module.apply({'params': v['params']}, X, rngs={'noise': KEY})
  with pytest.raises(ValueError, match='no parameters; create them by init'):
    module.apply({}, X, rngs={'noise': KEY})


def test_weight_gradients_are_refused_by_name():
  needy = Regulariser(lambda key, w: (w, {}), lambda p, s, key=None: p, no_penalty, no_update,
                      needs_weight_grads=True)
  with pytest.raises(ValueError, match='needs_weight_grads.*regulariser.update'):
    Regularised(nn.Dense(2), needy).init(KEY, X)


def test_a_regularised_model_is_not_wrapped_again():
  inner = Regularised(nn.Dense(2), sparsejax.l1(0.1))
  with pytest.raises(ValueError, match='holds a regularised module of its own'):
    Regularised(nn.Sequential([inner]), sparsejax.l1(0.1)).init(KEY, X)


def test_partitioned_boxes_are_opened_at_init():
  init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, 'model'))
  module = Regularised(nn.Dense(2, kernel_init=init), sparsejax.l0_hard_concrete(0.1, axis=-1))
  v = module.init(KEY, X)
  assert isinstance(v['params']['weight']['kernel'], jax.Array)


def test_tabulate_lists_the_module():
  module = Regularised(nn.Dense(2), sparsejax.l1(0.1))
  assert 'Regularised' in module.tabulate(KEY, X, console_kwargs={'width': 200})
