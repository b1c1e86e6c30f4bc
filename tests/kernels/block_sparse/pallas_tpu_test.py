"""The TPU's kernels without a TPU: its simulator, export, and (slow) its whole compiler."""
import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental.pallas import tpu as pltpu

from sparsejax.kernels.block_sparse import block_sparse_matmul, lowering_for, pallas_tpu
from sparsejax.kernels.block_sparse.arg_specs import CORRECTNESS, MIXED, Spec, arguments
from sparsejax.kernels.block_sparse.backend import Problem

KERNELS = ('block_sparse_matmul', 'block_sparse_transposed_matmul', 'block_sparse_weight_gradient')
SMALL = Spec('small', m=8, inputs=32, outputs=48, block=(16, 16), empty_columns=1, empty_rows=1,
             spare=1)


def lowered(spec, dtype, gradient=True, implementation='pallas_tpu'):
  """Returns what a TPU is asked to run: all of value and gradients, as StableHLO text."""
  args = arguments(spec, dtype)

  def loss(x, weight, bias, input_gate, output_gate):
    y = block_sparse_matmul(x, weight, bias=bias, activation='gelu', input_gate=input_gate,
                            output_gate=output_gate, implementation=implementation)
    return y.astype(jnp.float32).sum()
  function = jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 4), allow_int=True) if gradient else loss
  with lowering_for('tpu'):
    exported = export.export(jax.jit(function), platforms=['tpu'])(*args[:5])
  return exported.mlir_module()


def assert_kernels_and_no_other_product(text, kernels):
  assert text.count('stablehlo.custom_call @tpu_custom_call') == len(kernels)
  for name in kernels:
    assert f'kernel_name = "{name}"' in text, name
  assert 'dot_general' not in text


@pytest.mark.parametrize('options', [
    {}, pytest.param(dict(dma_execution_mode='eager', num_cores_or_threads=2),
                     marks=pytest.mark.slow)], ids=['one core', 'two cores, eager copies'])
def test_the_simulator_finds_right_numbers_and_no_race(options, outcomes, oracle, capsys):
  # Memory starts as NaN there, and a read outside of an array raises.
  args = arguments(SMALL, integers=True)
  try:
    found = outcomes(args, 'pallas_tpu',
                     simulator=pltpu.InterpretParams(detect_races=True, **options))
  finally:
    pltpu.reset_tpu_interpret_mode_state()
  for name, value in oracle(args).items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)
  # JAX 0.10 prints a race, later ones raise.
  assert 'RACE DETECTED' not in capsys.readouterr().out


@pytest.mark.parametrize('block, dtype', [(8, 'float32'), (32, 'bfloat16'), (128, 'float32'),
                                          (256, 'bfloat16')])
def test_export_to_a_tpu_holds_the_three_kernels_and_no_other_product(block, dtype):
  spec = next(spec for spec in CORRECTNESS if spec.name == f'block_{block}')
  assert_kernels_and_no_other_product(lowered(spec, jnp.dtype(dtype)), KERNELS)


def test_inference_is_one_kernel():
  assert_kernels_and_no_other_product(lowered(SMALL, jnp.float32, gradient=False), KERNELS[:1])


def test_dense_on_a_tpu_is_no_kernel():
  # The test above can fail.
  text = lowered(SMALL, jnp.float32, implementation='dense')
  assert 'tpu_custom_call' not in text and 'dot_general' in text


def test_none_on_a_tpu_is_the_kernel_where_less_than_half_is_stored():
  sparse = Spec('sparse', m=8, inputs=512, outputs=512, block=(128, 128), density=0.25)
  text = lowered(sparse, jnp.float32, implementation=None)
  assert_kernels_and_no_other_product(text, KERNELS)
  # Four times the blocks, or blocks padded to 64 times their size, and dense is as fast.
  for spec in (sparse._replace(density=1.0), sparse._replace(block=(16, 16))):
    assert 'tpu_custom_call' not in lowered(spec, jnp.float32, implementation=None)


@pytest.mark.parametrize('dtype, asked, highest', [
    ('float32', None, False), ('float32', 'bfloat16', False), ('float32', 'high', True),
    ('float32', 'float32', True), ('bfloat16', 'highest', False)])
def test_products_take_the_precision_that_jax_is_set_to(dtype, asked, highest):
  # The compiler refuses 'high', and more than one pass over bfloat16.
  args = arguments(SMALL, jnp.dtype(dtype))
  with lowering_for('tpu'), jax.default_matmul_precision(asked):
    text = str(jax.make_jaxpr(jax.grad(
        lambda x, w: block_sparse_matmul(x, w, implementation='pallas_tpu').sum(), (0, 1),
        allow_int=True))(args.x, args.weight))
  assert text.count('= dot_general') == 3
  assert text.count('Precision.HIGHEST, Precision.HIGHEST') == (3 if highest else 0)


def test_more_rows_than_a_tile_are_cut_and_padded(outcomes, oracle, monkeypatch):
  monkeypatch.setattr(pallas_tpu, 'MAX_ROWS', 16)
  args = arguments(SMALL._replace(m=37), integers=True)
  problem = Problem(37, (16, 16), (2, 3), args.weight.capacity, 'float32', 'tpu')
  assert pallas_tpu._row_tiles(problem) == (16, 3)
  found = outcomes(args, 'pallas_tpu')
  for name, value in oracle(args).items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_more_indices_than_scalar_memory_holds_are_walked_in_parts(outcomes, oracle, monkeypatch):
  monkeypatch.setattr(pallas_tpu, 'INDEX_WORDS', 9)
  args = arguments(MIXED, integers=True)
  assert len(pallas_tpu._spans(args.weight.capacity, 2)) >= 3
  assert len(pallas_tpu._spans(args.weight.capacity, 3)) >= 4
  found = outcomes(args, 'pallas_tpu')
  for name, value in oracle(args).items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_spans_cover_all_entries_within_the_limit():
  for entries in (1, 119_999, 120_000, 120_001, 500_000):
    spans = pallas_tpu._spans(entries, 2)
    assert spans[0][0] == 0 and spans[-1][1] == entries
    assert all(before[1] == after[0] for before, after in zip(spans, spans[1:]))
    assert max(stop - start for start, stop in spans) <= 120_000


@pytest.mark.parametrize('change, message', [
    (dict(platform='gpu'), "it is for TPUs and this is a gpu.*lowering_for"),
    (dict(dtype='float16'), 'float16; cast x and the blocks to bfloat16 or float32'),
    (dict(block=(1024, 1024)), r'a block of 1024 x 1024 in float32 needs about 12\.\d MiB of the 12'
     r' MiB.*take smaller blocks'),
])
def test_what_cannot_run_is_refused_with_the_repair(change, message):
  problem = Problem(64, (128, 128), (2, 3), 4, 'float32', 'tpu')
  assert pallas_tpu.refuses(problem) is None
  assert re.search(message, pallas_tpu.refuses(problem._replace(**change)))


SCRIPT = textwrap.dedent("""
    import json, sys
    import jax, jax.numpy as jnp
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding
    from sparsejax.kernels.block_sparse import block_sparse_matmul, lowering_for
    from sparsejax.kernels.block_sparse.arg_specs import CORRECTNESS, Spec, arguments

    LARGE = (Spec('many_rows', 4096, 1536, 1536, (512, 512), 0.5),
             Spec('largest_block', 4096, 1536, 2048, (512, 1024), 0.5),
             Spec('bfloat16_block', 2048, 2048, 1024, (1024, 512), 0.5),
             Spec('many_blocks', 64, 3200, 3200, (8, 8), 0.8))
    topology, *names = sys.argv[1:]
    device = topologies.get_topology_desc(platform='tpu', topology_name=topology).devices[0]
    sharding = SingleDeviceSharding(device)
    found = []
    for spec in (*CORRECTNESS, *LARGE):
      for dtype in ('float32', 'bfloat16') if spec.name in names else ():
        if spec.name == 'bfloat16_block' and dtype == 'float32':
          continue
        args = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
                            arguments(spec, jnp.dtype(dtype))[:5])

        def loss(x, weight, bias, input_gate, output_gate):
          y = block_sparse_matmul(x, weight, bias=bias, activation='gelu', input_gate=input_gate,
                                  output_gate=output_gate, implementation='pallas_tpu')
          return y.astype(jnp.float32).sum()
        with lowering_for('tpu', device.device_kind):
          grad = jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 4), allow_int=True)
          lowered = jax.jit(grad).lower(*args)
        text = lowered.as_text()
        code = lowered.compile().memory_analysis().generated_code_size_in_bytes
        found.append([spec.name, dtype, args[1].capacity, text.count('@tpu_custom_call'),
                      text.count('dot_general'), code])
    print(json.dumps(found))
""")
EVERYWHERE = ('mixed', 'nothing', 'one_row', 'block_128')
TOPOLOGIES = {
    'v4:2x2x1': EVERYWHERE, 'v5p:2x2x1': EVERYWHERE, 'v6e:2x2': EVERYWHERE,
    'v5e:2x2': (*(spec.name for spec in CORRECTNESS), 'many_rows', 'largest_block',
                'bfloat16_block', 'many_blocks')}


@pytest.mark.slow   # up to fifty compilations of about a second
@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None,
                    reason='libtpu, the compiler of TPUs, is not installed: pip install libtpu')
@pytest.mark.parametrize('topology', TOPOLOGIES)
def test_the_tpu_compiler_takes_every_shape(topology):
  # In a process of its own, because libtpu reads its settings when it is loaded.
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'TPU_SKIP_MDS_QUERY': '1',
                 'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_WORKER_ID': '0'}
  done = subprocess.run([sys.executable, '-c', SCRIPT, topology, *TOPOLOGIES[topology]],
                        env=environment, text=True, capture_output=True, timeout=900)
  assert done.returncode == 0, done.stderr[-3000:]
  rows = json.loads(done.stdout.splitlines()[-1])
  assert {row[0] for row in rows} == set(TOPOLOGIES[topology])
  for name, dtype, entries, kernels, products, code_bytes in rows:
    calls = 2 * len(pallas_tpu._spans(entries, 2)) + len(pallas_tpu._spans(entries, 3))
    assert (kernels, products) == (calls, 0) and code_bytes > 0, (name, dtype)
