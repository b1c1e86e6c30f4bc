"""The product under vmap, scan, remat and shard_map, and what does not compile anew.

Small integers again: every sum is exact, so a member of a population must equal itself alone.
"""
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

from sparsejax.kernels.block_sparse import block_sparse_matmul, lowering_for
from sparsejax.kernels.block_sparse.arg_specs import Spec, arguments

IMPLEMENTATIONS = (
    pytest.param('reference', marks=pytest.mark.slow),   # a call of the host for each member
    'dense', 'xla/gather', 'xla/scan_t', 'pallas_tpu')
SPEC = Spec('population', m=5, inputs=40, outputs=48, block=(16, 16), empty_columns=1)
SQUARE = Spec('square', m=4, inputs=32, outputs=32, block=(16, 16), density=0.75)


def product(x, weight, bias, implementation):
  return block_sparse_matmul(x, weight, bias=bias, activation='relu', implementation=implementation)


def loss_and_grads(x, weight, bias, cotangent, implementation):
  def loss(x, weight, bias):
    y = product(x, weight, bias, implementation)
    return (y * cotangent).sum()
  value, (dx, dweight, dbias) = jax.value_and_grad(loss, argnums=(0, 1, 2), allow_int=True)(
      x, weight, bias)
  return value, dx, weight.replace(blocks=dweight.blocks).to_dense(), dbias


@functools.cache
def population():
  """Three members: x, weights stacked over one layout, and biases; and what each gives alone."""
  base = arguments(SPEC, integers=True)
  members = [arguments(SPEC._replace(seed=seed), integers=True) for seed in (1, 2, 3)]
  x, bias, cotangent = (jnp.stack([getattr(member, name) for member in members])
                        for name in ('x', 'bias', 'cotangent'))
  blocks = jnp.stack([base.weight.blocks * (i + 1) for i in range(3)])
  return base, x, blocks, bias, cotangent


def alone(x, dense, stored, bias, cotangent):
  """Value and gradients of one member in float64."""
  x, bias, cotangent = (np.asarray(a, np.float64) for a in (x, bias, cotangent))
  z = x @ dense + bias
  g = cotangent * (z > 0)
  return (np.maximum(z, 0) * cotangent).sum(), g @ dense.T, (x.T @ g) * stored, g.sum(axis=0)


def stored_entries(args):
  mask = np.kron(args.mask, np.ones(args.weight.block_size))
  return mask[:args.dense.shape[0], :args.dense.shape[1]]


@pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
def test_a_population_of_one_pattern(implementation, run_as):
  base, x, blocks, bias, cotangent = population()

  def member(x, blocks, bias, cotangent):
    return loss_and_grads(x, base.weight.replace(blocks=blocks), bias, cotangent, implementation)
  with run_as(implementation):
    found = jax.jit(jax.vmap(member))(x, blocks, bias, cotangent)
  for i in range(3):
    wanted = alone(x[i], base.dense * (i + 1), stored_entries(base), bias[i], cotangent[i])
    for a, b in zip(found, wanted):
      np.testing.assert_array_equal(np.asarray(a[i], np.float64), b)


@pytest.mark.parametrize('implementation', ['xla/gather', 'xla/scan_t', 'pallas_tpu'])
def test_a_population_of_patterns_on_shared_inputs(implementation, run_as):
  members = [arguments(SPEC._replace(seed=seed, empty_columns=seed, spare=seed), integers=True)
             for seed in (0, 1)]
  capacity = max(member.weight.capacity for member in members)
  weights = [type(m.weight).from_dense(jnp.asarray(m.dense, jnp.float32), SPEC.block, mask=m.mask,
                                       pad=True, capacity=capacity) for m in members]
  stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *weights)
  x, bias, cotangent = members[0].x, members[0].bias, members[0].cotangent
  with run_as(implementation):
    found = jax.jit(jax.vmap(lambda weight: loss_and_grads(x, weight, bias, cotangent,
                                                           implementation)))(stack)
  for i, member in enumerate(members):
    wanted = alone(x, member.dense, stored_entries(member), bias, cotangent)
    for a, b in zip(found, wanted):
      np.testing.assert_array_equal(np.asarray(a[i], np.float64), b)


@pytest.mark.parametrize('implementation', ['xla/gather', 'xla/scan', 'pallas_tpu'])
def test_scan_and_remat_change_nothing(implementation, run_as):
  args = arguments(SQUARE, integers=True)
  weight = args.weight.replace(blocks=jnp.sign(args.weight.blocks))
  dense = jnp.asarray(np.sign(args.dense), jnp.float32)

  def loss(x, blocks):
    step = jax.checkpoint(lambda x, _: (product(x, weight.replace(blocks=blocks), None,
                                                implementation), None))
    return jax.lax.scan(step, x, length=2)[0].sum()

  def unrolled(x, dense):
    return jax.nn.relu(jax.nn.relu(x @ dense) @ dense).sum()
  with run_as(implementation):
    value, (dx, dblocks) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(args.x, weight.blocks)
  wanted, (dx_wanted, ddense) = jax.value_and_grad(unrolled, argnums=(0, 1))(args.x, dense)
  assert value == wanted and value > 0
  np.testing.assert_array_equal(dx, dx_wanted)
  np.testing.assert_array_equal(weight.replace(blocks=dblocks).to_dense(),
                                ddense * stored_entries(args))


@pytest.mark.parametrize('implementation', ['xla/scan', 'pallas_tpu'])
def test_new_values_and_a_new_pattern_within_capacity_compile_nothing(implementation, run_as):
  args = arguments(SPEC._replace(spare=4), integers=True)
  traces = []

  @jax.jit
  def step(x, weight):
    traces.append(None)
    return product(x, weight, None, implementation)
  mask = args.mask.copy()
  mask[0, 0], mask[2] = True, False
  moved = args.weight.with_layout(mask)
  moved = moved.replace(blocks=moved.blocks + moved.layout.live[:, None, None])
  with run_as(implementation):
    for weight in (args.weight, args.weight.replace(blocks=2 * args.weight.blocks), moved):
      dense = np.asarray(weight.to_dense(), np.float64)
      np.testing.assert_array_equal(step(args.x, weight),
                                    np.maximum(np.asarray(args.x, np.float64) @ dense, 0))
  assert len(traces) == 1


def test_a_population_on_a_tpu_is_still_three_kernels():
  base, x, blocks, bias, cotangent = population()

  def member(x, blocks, bias, cotangent):
    return loss_and_grads(x, base.weight.replace(blocks=blocks), bias, cotangent, 'pallas_tpu')
  with lowering_for('tpu'):
    traced = jax.jit(jax.vmap(member)).trace(x, blocks, bias, cotangent)
  text = traced.lower(lowering_platforms=('tpu',)).as_text()
  assert text.count('@tpu_custom_call') == 3 and 'dot_general' not in text


SCRIPT = textwrap.dedent("""
    import contextlib, json
    import jax, jax.numpy as jnp, numpy as np
    from jax.experimental.pallas import tpu as pltpu
    from jax.sharding import Mesh, PartitionSpec as P
    from sparsejax.kernels.block_sparse import block_sparse_matmul, lowering_for
    from sparsejax.kernels.block_sparse.arg_specs import Spec, arguments

    jax.config.update('jax_numpy_rank_promotion', 'raise')
    jax.config.update('jax_disable_most_optimizations', True)
    assert len(jax.devices()) == 2, jax.devices()
    mesh = Mesh(np.array(jax.devices()), ('outputs',))
    args = arguments(Spec('split', m=4, inputs=48, outputs=64, block=(16, 16)), integers=True)
    parts = args.weight.split(2)
    z = np.asarray(args.x, np.float64) @ args.dense + np.asarray(args.bias)
    g = np.asarray(args.cotangent) * (z > 0)
    wanted = [(np.maximum(z, 0) * np.asarray(args.cotangent)).sum(), g @ args.dense.T,
              g.sum(axis=0), (np.asarray(args.x).T @ g) * np.kron(args.mask, np.ones((16, 16)))]

    def loss(x, blocks, bias, implementation, check):
      def part(x, parts, bias):
        weight = jax.tree.map(lambda a: a[0], parts)
        return block_sparse_matmul(x, weight, bias=bias, activation='relu',
                                   implementation=implementation)
      y = jax.shard_map(part, mesh=mesh, in_specs=(P(), P('outputs'), P('outputs')),
                        out_specs=P(None, 'outputs'), check_vma=check)(
                            x, parts.replace(blocks=blocks), bias)
      return (y * args.cotangent).sum()

    def run(implementation, check):
      value, (dx, dblocks, dbias) = jax.jit(
          jax.value_and_grad(loss, argnums=(0, 1, 2)), static_argnums=(3, 4))(
              args.x, parts.blocks, args.bias, implementation, check)
      halves = [jax.tree.map(lambda a: a[i], parts.replace(blocks=dblocks)).to_dense()
                for i in range(2)]
      found = [value, dx, dbias, np.concatenate(halves, axis=1)]
      return all(np.array_equal(np.asarray(a, np.float64), b) for a, b in zip(found, wanted))

    found = {name: run(name, True) for name in ('reference', 'xla/scan_t')}
    # Pallas' plain interpreter does not know which values vary over devices.
    with lowering_for('tpu'), pltpu.force_tpu_interpret_mode(True):
      found['pallas_tpu'] = run('pallas_tpu', False)
    with lowering_for('tpu'):
      text = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), static_argnums=(3, 4)).trace(
          args.x, parts.blocks, args.bias, 'pallas_tpu', True).lower(
              lowering_platforms=('tpu',)).as_text()
    found['kernels'] = text.count('@tpu_custom_call')
    print(json.dumps(found))
""")


@pytest.mark.slow
def test_output_blocks_over_two_devices():
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu',
                 'PJRT_NPROC': '16',
                 'XLA_FLAGS': '--xla_force_host_platform_device_count=2'}
  done = subprocess.run([sys.executable, '-c', SCRIPT], env=environment, text=True,
                        capture_output=True, timeout=300)
  assert done.returncode == 0, done.stderr[-3000:]
  assert json.loads(done.stdout.splitlines()[-1]) == {
      'reference': True, 'xla/scan_t': True, 'pallas_tpu': True, 'kernels': 3}
