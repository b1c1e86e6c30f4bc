"""Law 8 on four virtual devices, in a process of their own: XLA fixes the number at its start."""

import functools
import json
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax

SCRIPT = textwrap.dedent("""
    import json

    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import linen as nn
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    import sparsejax

    jax.config.update('jax_numpy_rank_promotion', 'raise')
    jax.config.update('jax_disable_most_optimizations', True)
    assert len(jax.devices()) == 4, jax.devices()
    mesh = Mesh(np.array(jax.devices()), ('data',))
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec('data'))
    key = jax.random.key(3)
    vd = sparsejax.sparse_variational_dropout
    methods = {
        'l0': sparsejax.l0_hard_concrete(0.1),
        'l0_example': sparsejax.l0_hard_concrete(0.1, per='example'),
        'vd_weight': vd(0.1, noise='weight', init_log_sigma2=-2.0),
        'vd_local': vd(0.1, noise='local', init_log_sigma2=-2.0),
        'dropout': sparsejax.dropout(0.2),
        'dropout_batch': sparsejax.dropout(0.2, per='batch'),
    }
    found = {}

    # Draws. With one input that is 1, a layer's output is its drawn kernel, or its noise alone,
    # without a sum whose order could matter. The 16 outputs have a gate each.
    wide = {
        **methods,
        'l0': sparsejax.l0_hard_concrete(0.1, axis=-1),
        'l0_example': sparsejax.l0_hard_concrete(0.1, axis=-1, per='example'),
        'dropout': sparsejax.dropout(0.5, axis=-1),
        'dropout_batch': sparsejax.dropout(0.5, axis=-1, per='batch'),
    }
    ones = jnp.ones((8, 1))

    def draws(key, ones):
      outputs = {}
      for name, method in wide.items():
        rule = sparsejax.partition(rule=('kernel', method))
        mean = 0.0 if name == 'vd_local' else 1.0
        weights = {'kernel': jnp.full((1, 16), mean), 'bias': jnp.zeros(16)}
        params, state = rule.init(key, weights)
        drawn = rule.weights(params, state, jax.random.fold_in(key, 1))
        outputs[name] = sparsejax.apply(nn.Dense(16), {'params': drawn}, ones,
                                        rngs={'noise': jax.random.fold_in(key, 2)})
      return outputs

    one = jax.jit(draws)(key, ones)
    many = jax.jit(draws, out_shardings=split)(jax.device_put(key, everywhere),
                                               jax.device_put(ones, split))
    for name in methods:
      assert len(many[name].sharding.device_set) == 4
      a, b = np.asarray(one[name]), np.asarray(many[name])
      found['draws ' + name] = {'same': a.tobytes() == b.tobytes(),
                                'rows': len(np.unique(a, axis=0)), 'values': len(np.unique(a))}
    found['first row'] = np.asarray(one['dropout_batch'])[0].tolist()

    # One step of gradient descent on a regression, the batch over the devices.
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=shape).astype(np.float32) for shape in ((32, 6), (32, 5)))
    kernels = {'kernel': jnp.asarray(rng.normal(size=(6, 5)), jnp.float32), 'bias': jnp.zeros(5)}
    rules = {name: sparsejax.partition(rule=('kernel', method))
             for name, method in methods.items()}
    start = {name: jax.jit(rule.init)(key, kernels) for name, rule in rules.items()}

    def step(start, key, x, y):
      def loss(params, name, state):
        rule = rules[name]
        drawn = rule.weights(params, state, key)
        outputs = sparsejax.apply(nn.Dense(5), {'params': drawn}, x, rngs={'noise': key})
        return jnp.square(outputs - y).mean() + rule.penalty(params, state, key) / 32
      results = {}
      for name, (params, state) in start.items():
        grads = jax.grad(loss)(params, name, state)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        results[name] = grads, rules[name].update(params, state, step=jnp.int32(0), key=key)
      return results

    one = jax.jit(step)(start, key, x, y)
    many = jax.jit(step)(jax.device_put(start, everywhere), jax.device_put(key, everywhere),
                         *jax.device_put((x, y), split))
    for name in methods:
      pairs = list(zip(*(map(np.asarray, jax.tree.leaves(ends[name])) for ends in (one, many))))
      assert all(np.any(a) for a, _ in pairs)
      found['step ' + name] = max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)

    # Under shard_map the caller folds the device in.
    def noise(key, x, fold):
      if fold:
        key = jax.random.fold_in(key, jax.lax.axis_index('data'))
      outputs = []
      for name in ('l0_example', 'vd_local', 'dropout'):
        params, state = rules[name].init(jax.random.key(0), kernels)
        drawn = rules[name].weights(params, state, key)
        outputs.append(sparsejax.apply(nn.Dense(5), {'params': drawn}, x, rngs={'noise': key}))
      return jnp.stack(outputs, 1)

    for fold in (False, True):
      spread = jax.jit(jax.shard_map(
          lambda key, x: noise(key, x, fold), mesh=mesh,
          in_specs=(PartitionSpec(), PartitionSpec('data')), out_specs=PartitionSpec('data')))
      # The same inputs on every device: equal outputs mean equal noise.
      shards = np.asarray(spread(key, jnp.tile(jnp.asarray(x[:8]), (4, 1)))).reshape(4, 8, 3, 5)
      found['shards folded' if fold else 'shards alike'] = [
          len(np.unique(shards[:, :, i].reshape(4, -1), axis=0)) for i in range(3)]
    print(json.dumps(found))
""")

METHODS = ['l0', 'l0_example', 'vd_weight', 'vd_local', 'dropout', 'dropout_batch']


@functools.cache
def results():
  """What the script found, by name; it runs once."""
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONHASHSEED': '7',
                 'PJRT_NPROC': '16',
                 'XLA_FLAGS': '--xla_force_host_platform_device_count=4'}
  done = subprocess.run([sys.executable, '-c', SCRIPT],
                        env=environment, text=True, capture_output=True, timeout=300)
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize('name', METHODS)
def test_draws_over_four_devices_are_those_of_one_bit_for_bit(name):
  found = results()[f'draws {name}']
  assert found['same']
  # And they are draws: of 16 units, or of 8 examples with 16 units each.
  per_example = name in ('l0_example', 'vd_local', 'dropout')
  assert found['rows'] == (8 if per_example else 1)
  assert found['values'] > 1


@pytest.mark.slow
def test_draws_are_the_same_in_every_process():
  # That one has another salt of Python's hash and another number of devices.
  rule = sparsejax.partition(rule=('kernel', sparsejax.dropout(0.5, axis=-1, per='batch')))
  key = jax.random.key(3)
  params, state = rule.init(key, {'kernel': jnp.ones((1, 16)), 'bias': jnp.zeros(16)})
  drawn = rule.weights(params, state, jax.random.fold_in(key, 1))
  assert results()['first row'] == np.asarray(drawn['kernel'])[0].tolist()


@pytest.mark.parametrize('name', METHODS)
def test_a_step_over_four_devices_is_that_of_one(name):
  assert results()[f'step {name}'] <= 1e-5


def test_under_shard_map_the_caller_folds_the_device_into_the_key():
  # Without it the four shards share their noise; with it each has its own.
  assert results()['shards alike'] == [1, 1, 1]
  assert results()['shards folded'] == [4, 4, 4]
