"""Data-parallel steps on four virtual devices, in a process of their own: XLA fixes the number."""
import os
import subprocess
import sys
import textwrap

import pytest

SCRIPT = textwrap.dedent("""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    import sparsejax
    from sparsejax.models.lenet import MLP
    from sparsejax.training import fit

    jax.config.update('jax_disable_most_optimizations', True)
    devices = jax.devices()
    assert len(devices) == 4, devices
    mesh = Mesh(np.array(devices), ('data',))
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec('data'))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (8, 16, 4, 4, 1)).astype(np.uint8)
    labels = rng.integers(0, 4, (8, 16)).astype(np.int32)

    # Both kinds of noise: gates folded into the kernel, and a draw for each output of a layer.
    regulariser = sparsejax.partition(
        gates=('dense0/kernel', sparsejax.l0_hard_concrete(0.05)),
        local=('head/kernel', sparsejax.sparse_variational_dropout(1.0, noise='local')))
    recipe = fit.Recipe(MLP(widths=(8,), classes=4), regulariser, optax.adam(1e-2), 128, 16,
                        ema_decay=0.9)
    state = jax.jit(lambda key: fit.start(recipe, key, images[0]))(jax.random.key(0))
    step = jax.jit(lambda *arguments: fit.train_step(recipe, *arguments))

    def arrays(tree):
      tree = tree._replace(key=jax.random.key_data(tree.key))
      return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]

    def close(found, wanted):
      for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        scale = max(np.abs(b.astype(np.float64)).max(), 1e-12)
        assert np.abs(a.astype(np.float64) - b).max() <= 1e-5 * scale, (a, b)

    for i in range(8):
      one, loss = step(state, images[i], labels[i])
      spread, other = step(jax.device_put(state, everywhere),
                           jax.device_put(images[i], split), jax.device_put(labels[i], split))
      assert len(other.sharding.device_set) == 4
      close([np.asarray(other)], [np.asarray(loss)])
      close(arrays(spread), arrays(one))
      state = one

    # Noise spread over the devices is that of one device, bit for bit.
    def noise(key):
      key = jax.random.fold_in(key, 3)
      return jax.random.bits(key, (16, 8)), jax.random.normal(key, (16, 8))

    def gates(state):
      return regulariser.weights(state.params, state.method_state,
                                 jax.random.fold_in(state.key, 3))['dense0']['kernel']

    for draw, given in ((noise, state.key), (gates, state)):
      single = jax.jit(draw)(given)
      spread = jax.jit(draw, out_shardings=split)(jax.device_put(given, everywhere))
      for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(spread), strict=True):
        assert len(b.sharding.device_set) == 4
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    print('all equal')
""")


@pytest.mark.slow
def test_eight_steps_over_four_devices_equal_those_of_one():
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu',
                 'PJRT_NPROC': '16',
                 'XLA_FLAGS': '--xla_force_host_platform_device_count=4'}
  done = subprocess.run([sys.executable, '-c', SCRIPT], env=environment, text=True,
                        capture_output=True, timeout=300)
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stdout.strip().endswith('all equal')
