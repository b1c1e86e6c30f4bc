"""The Hopper kernels without a GPU: compiled for CUDA, and run in JAX's GPU simulator.

The simulator runs every warpgroup as a thread, with its barriers and copies, and finds races. It
computes in float32 what wgmma does: on the small integers of `arg_specs.arguments` every sum is
exact, so that results are compared bit by bit.
"""
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.kernels.block_sparse import BlockSparse, block_sparse_matmul, lowering_for
from sparsejax.kernels.block_sparse import pallas_mosaic_gpu as backend
from sparsejax.kernels.block_sparse.arg_specs import Spec, arguments
from sparsejax.kernels.block_sparse.backend import Epilogue, Problem
from sparsejax.kernels.block_sparse.hopper import Config
from sparsejax.kernels.block_sparse.hopper_ring import simulated

try:
  from jax.experimental.pallas.mosaic_gpu import InterpretGPUParams
except ImportError:      # JAX 0.10 has the simulator and does not export it
  from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

H100 = ('gpu', 'NVIDIA H100 80GB HBM3')
NAME = 'pallas_mosaic_gpu'
# The simulator of JAX 0.10 has no transposed operand, which both gradients have.
gradients_simulate = pytest.mark.skipif(jax.__version_info__ < (0, 11),
                                        reason="this JAX's simulator transposes no operand")


def product(args, names=(), activation=None, implementation=NAME, **options):
  """(x, blocks) -> the product of `args` with the operands that are named."""
  operands = {name: getattr(args, name) for name in names}

  def compute(x, blocks):
    return block_sparse_matmul(x, args.weight.replace(blocks=blocks), activation=activation,
                               implementation=implementation, **operands, **options)
  return compute


def value_and_gradients(compute, cotangent):
  def both(*operands):
    y, pull_back = jax.vjp(compute, *operands)
    return compute(*operands), pull_back(cotangent.astype(y.dtype))
  return both


def simulate(function, *operands, races=False):
  with lowering_for(*H100), simulated(InterpretGPUParams(detect_races=races)):
    return jax.tree.map(np.asarray, jax.jit(function)(*operands))


def lowered(function, *operands):
  """The program for an H100, as text."""
  with lowering_for(*H100):
    return jax.jit(function).trace(*operands).lower(lowering_platforms=('cuda',)).as_text()


def calls(text):
  return text.count('custom_call @mosaic_gpu')


def assert_same_bits(found, wanted):
  np.testing.assert_array_equal(np.asarray(found, np.float64), np.asarray(wanted, np.float64))


def as_float64(array):
  return np.asarray(array.astype(jnp.float32), np.float64)


def problem_of(args, platform=H100):
  weight = args.weight
  return Problem(args.x.shape[0], weight.block_size, weight.grid, weight.capacity,
                 args.x.dtype.name, *platform)


SMALL = Spec('small', m=64, inputs=128, outputs=128, block=(64, 64), density=0.75, empty_rows=1,
             spare=2)
# Two tiles of rows with a ragged end, an empty column and an empty row, spare entries.
CORNERS = Spec('corners', m=150, inputs=256, outputs=256, block=(64, 64), density=0.4,
               empty_columns=1, empty_rows=1, spare=3)
LARGE = [
    CORNERS,
    Spec('rectangular', m=64, inputs=192, outputs=256, block=(64, 128), empty_rows=1),
    Spec('wide_blocks', m=70, inputs=256, outputs=256, block=(128, 128), empty_columns=1),
    Spec('nothing', m=64, inputs=128, outputs=128, block=(64, 64), density=0.0),
    Spec('ragged', m=64, inputs=100, outputs=150, block=(64, 64)),
    Spec('tiles_of_a_block', m=64, inputs=256, outputs=192, block=(256, 192), density=1.0),
]


def test_a_small_product_in_the_simulator():
  args = arguments(SMALL, jnp.bfloat16, integers=True)
  y = simulate(product(args, ('bias',), 'relu'), args.x, args.weight.blocks)
  assert_same_bits(y, np.asarray(jnp.asarray(
      np.maximum(as_float64(args.x) @ args.dense + as_float64(args.bias), 0)
  ).astype(jnp.bfloat16), np.float64))


@pytest.mark.slow    # the simulator takes seconds a shape
@gradients_simulate
@pytest.mark.parametrize('spec', LARGE, ids=lambda spec: spec.name)
def test_values_and_gradients_are_those_of_the_dense_matrix(spec):
  args = arguments(spec, jnp.bfloat16, integers=True)
  compute = product(args, preferred_element_type=jnp.float32)
  y, (x_grad, block_grads) = simulate(value_and_gradients(compute, args.cotangent), args.x,
                                      args.weight.blocks, races=True)
  x, g = as_float64(args.x), as_float64(args.cotangent)
  stored = np.kron(args.mask, np.ones(spec.block))[:spec.inputs, :spec.outputs]
  rounded = lambda array: as_float64(jnp.asarray(array, jnp.float32).astype(jnp.bfloat16))
  assert_same_bits(y, x @ args.dense)
  assert_same_bits(x_grad, rounded(g @ args.dense.T))
  assert_same_bits(as_float64(args.weight.replace(blocks=jnp.asarray(block_grads)).to_dense()),
                   rounded(x.T @ g * stored))
  assert not np.asarray(block_grads)[~np.asarray(args.weight.layout.live)].any()


@pytest.mark.slow    # the simulator takes seconds a shape
def test_values_on_corners_in_every_simulator():
  args = arguments(CORNERS, jnp.float16, integers=True)
  y = simulate(product(args, ('bias', 'output_gate', 'input_gate'), 'relu'), args.x,
               args.weight.blocks)
  x = as_float64(args.x) * as_float64(args.input_gate)
  z = np.maximum(x @ args.dense + as_float64(args.bias), 0) * as_float64(args.output_gate)
  assert_same_bits(y, z.astype(np.float16))


@pytest.mark.slow    # the simulator takes seconds
@gradients_simulate
def test_gates_and_a_smooth_activation_with_fresh_numbers():
  # All operations round to bfloat16 the same way before the products, so only the order of float32
  # sums and the activation's own rounding differ: a few eps each of values below 8, which rounding
  # to bfloat16 turns into one unit in its last place, 2^-8 of the value, at most.
  args = arguments(CORNERS._replace(seed=np.random.SeedSequence().entropy % 2**31), jnp.bfloat16)
  both = functools.partial(value_and_gradients, cotangent=args.cotangent)
  names = ('bias', 'input_gate', 'output_gate')
  found = simulate(both(product(args, names, 'silu')), args.x, args.weight.blocks)
  wanted = jax.jit(both(product(args, names, 'silu', 'dense')))(args.x, args.weight.blocks)
  for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    # A gradient is a sum whose factor g may itself differ by one such unit in each term.
    np.testing.assert_allclose(ours, theirs, rtol=2**-7, atol=2**-8 * np.abs(theirs).max())


@pytest.mark.slow    # the simulator takes seconds
@gradients_simulate
@pytest.mark.parametrize('config', [
    Config(64, warpgroups=1, stages=2, row_group=1, balanced=False),
    Config(64, warpgroups=3, stages=3, row_group=2),
    Config(128, warpgroups=2, tile_k=128, stages=2),
], ids=str)
def test_tiles_do_not_change_the_values(config):
  args = arguments(Spec('tiles', m=300, inputs=256, outputs=384, block=(128, 128), empty_rows=1),
                   jnp.bfloat16, integers=True)
  problem, weight = problem_of(args), args.weight

  def products(x, g, blocks):
    return (backend.matmul(x, blocks, weight.layout, problem, None, Epilogue(), jnp.float32,
                           config),
            backend.transposed(g, blocks, weight.layout, problem, jnp.float32, config))
  y, x_grad = simulate(products, args.x, args.cotangent, weight.blocks, races=True)
  assert_same_bits(y, as_float64(args.x) @ args.dense)
  assert_same_bits(x_grad, as_float64(args.cotangent) @ args.dense.T)


@pytest.mark.slow    # the simulator takes seconds
@gradients_simulate
@pytest.mark.parametrize('config', [
    Config(1, warpgroups=1, stages=2), Config(2, warpgroups=2, stages=2, split=3),
    Config(1, warpgroups=3, stages=2, tile_k=128),
], ids=str)
def test_groups_and_cuts_do_not_change_the_gradient(config):
  args = arguments(CORNERS._replace(m=256), jnp.bfloat16, integers=True)
  problem, layout = problem_of(args), args.weight.layout
  found = simulate(lambda x, g: backend.weight_gradient(x, g, layout, problem, config),
                   args.x, args.cotangent, races=True)
  dense = as_float64(args.x).T @ as_float64(args.cotangent)
  b_in, b_out = CORNERS.block
  for entry in np.flatnonzero(layout.live):
    top, left = int(layout.row[entry]) * b_in, int(layout.col[entry]) * b_out
    assert_same_bits(found[entry], dense[top:top + b_in, left:left + b_out])


@pytest.mark.slow    # the simulator takes seconds
def test_a_population_in_one_call():
  args = arguments(SMALL, jnp.bfloat16, integers=True)
  blocks = jnp.stack([args.weight.blocks, -2 * args.weight.blocks])
  y = simulate(jax.vmap(product(args), (None, 0)), args.x, blocks)
  wanted = as_float64(args.x) @ args.dense
  assert_same_bits(y, np.stack([wanted, -2 * wanted]))


def test_each_product_is_one_kernel():
  args = arguments(SMALL, jnp.bfloat16)
  text = lowered(product(args, ('bias', 'input_gate', 'output_gate'), 'gelu'), args.x,
                 args.weight.blocks)
  assert calls(text) == 1 and 'dot_general' not in text
  text = lowered(value_and_gradients(product(args, ('bias', 'output_gate'), 'silu'),
                                     args.cotangent), args.x, args.weight.blocks)
  # Two forward products, one of which keeps what the activation was applied to.
  assert calls(text) == 4 and 'dot_general' not in text


@pytest.mark.slow    # a second for each
@pytest.mark.parametrize('activation, side, dtype', [
    *itertools.product((None, 'relu', 'gelu', 'silu', 'tanh', 'sigmoid'), (64,), ('bfloat16',)),
    *itertools.product((None,), (128, 192, 256), ('bfloat16', 'float16')),
])
def test_it_compiles_for_cuda(activation, side, dtype):
  args = arguments(Spec('', m=2000, inputs=4 * side, outputs=3 * side, block=(side, side)), dtype)
  text = lowered(value_and_gradients(product(args, ('bias', 'output_gate'), activation),
                                     args.cotangent), args.x, args.weight.blocks)
  # Without an activation, its argument is not needed again.
  assert calls(text) == (4 if activation else 3) and 'dot_general' not in text


def test_a_population_stays_one_kernel_a_product():
  args = arguments(SMALL, jnp.bfloat16)
  blocks = jnp.stack([args.weight.blocks] * 3)
  text = lowered(jax.vmap(value_and_gradients(product(args), args.cotangent), (None, 0)), args.x,
                 blocks)
  assert calls(text) == 3 and 'dot_general' not in text


def test_the_best_for_an_h100_is_the_kernel_where_it_can_run():
  sparse = SMALL._replace(inputs=256, outputs=256, density=0.25)
  args = arguments(sparse, jnp.bfloat16)
  assert calls(lowered(product(args, implementation=None), args.x, args.weight.blocks)) == 1
  args = arguments(sparse, jnp.float32)
  assert calls(lowered(product(args, implementation=None), args.x, args.weight.blocks)) == 0


@pytest.mark.parametrize('device, dtype, side, repair', [
    (('cpu', ''), 'bfloat16', 64, "implementation='xla'"),
    (('gpu', 'NVIDIA A100-SXM4-80GB'), 'bfloat16', 64, 'Hopper'),
    (('gpu', 'NVIDIA B200'), 'bfloat16', 64, 'Hopper'),
    (('gpu', ''), 'bfloat16', 64, 'name such a device'),
    (H100, 'float32', 64, 'bfloat16'),
    (H100, 'bfloat16', 32, r'merge\(64\)'),
])
def test_it_refuses_with_a_repair(device, dtype, side, repair):
  args = arguments(SMALL._replace(block=(side, side)), dtype)
  with lowering_for(*device), pytest.raises(ValueError, match=f'{NAME}.*{repair}'):
    product(args)(args.x, args.weight.blocks)


def test_merged_blocks_are_accepted():
  args = arguments(SMALL._replace(block=(16, 32)), jnp.bfloat16)
  weight = args.weight.merge(64)
  assert isinstance(weight, BlockSparse) and weight.block_size == (64, 64)
  text = lowered(lambda x, blocks: block_sparse_matmul(
      x, weight.replace(blocks=blocks), implementation=NAME), args.x, weight.blocks)
  assert calls(text) == 1


def test_a_configuration_that_does_not_fit_is_an_error():
  args = arguments(SMALL, jnp.bfloat16)
  with pytest.raises(ValueError, match='fewer stages'):
    backend.matmul(args.x, args.weight.blocks, args.weight.layout, problem_of(args), None,
                   Epilogue(), jnp.bfloat16, Config(128, stages=9))
