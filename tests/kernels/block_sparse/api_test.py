"""Every implementation on every named shape: values and all gradients, against float64.

The numbers are small integers of which float32 forms each sum exactly, whatever the order
(`arg_specs.arguments`), so the comparisons are of bits, after rounding to the result's dtype.
"""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.kernels.block_sparse import block_sparse_matmul, lowering_for
from sparsejax.kernels.block_sparse.arg_specs import CORRECTNESS, MIXED, NOTHING, arguments

IMPLEMENTATIONS = ('reference', 'dense', 'xla/gather', 'xla/gather_t', 'xla/scan', 'xla/scan_t',
                   'pallas_tpu')


def assert_equal_bits(found, wanted, dtype):
  for name, value in wanted.items():
    assert found[name].dtype == dtype, name
    np.testing.assert_array_equal(found[name].astype(np.float64),
                                  value.astype(np.float32).astype(dtype).astype(np.float64),
                                  err_msg=name)


QUICK = [
    *((MIXED, 'float32', implementation) for implementation in IMPLEMENTATIONS),
    *((MIXED, 'bfloat16', implementation) for implementation in ('dense', 'xla/scan_t',
                                                                 'pallas_tpu')),
    (MIXED, 'float16', 'xla/gather_t'),
    *((NOTHING, 'float32', implementation) for implementation in ('xla/gather', 'pallas_tpu')),
]


@pytest.mark.parametrize('spec, dtype, implementation', QUICK,
                         ids=[f'{spec.name}-{dtype}-{name}' for spec, dtype, name in QUICK])
def test_values_and_gradients_are_those_of_the_dense_matrix(spec, dtype, implementation, outcomes,
                                                            oracle):
  args = arguments(spec, jnp.dtype(dtype), integers=True)
  assert_equal_bits(outcomes(args, implementation), oracle(args), jnp.dtype(dtype))


@pytest.mark.slow   # a compilation for each shape and implementation
@pytest.mark.parametrize('implementation', (*IMPLEMENTATIONS, 'xla/unroll'))
@pytest.mark.parametrize('spec', CORRECTNESS, ids=lambda spec: spec.name)
def test_values_and_gradients_on_every_shape(spec, implementation, outcomes, oracle):
  frozen = implementation == 'xla/unroll'
  for dtype in ('float32', 'bfloat16') if implementation in ('xla/scan', 'pallas_tpu') else (
      'float32',):
    args = arguments(spec._replace(spare=0) if frozen else spec, jnp.dtype(dtype), integers=True)
    if frozen:
      args = args._replace(weight=args.weight.freeze())
    assert_equal_bits(outcomes(args, implementation), oracle(args), jnp.dtype(dtype))


# JAX's gelu is the approximation by tanh (Hendrycks, Gimpel, 2016): value and slope in float64.
def gelu(z):
  return z / 2 * (1 + np.tanh(gelu_inner(z)))


def gelu_slope(z):
  t = np.tanh(gelu_inner(z))
  return (1 + t) / 2 + z / 2 * (1 - t**2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * z**2)


def gelu_inner(z):
  return np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)


@pytest.mark.parametrize('implementation', ['xla/scan', 'pallas_tpu'])
def test_a_smooth_activation_on_normal_numbers(implementation, outcomes, oracle):
  args = arguments(MIXED)
  found = outcomes(args, implementation, 'gelu')
  wanted = oracle(args, gelu, gelu_slope)
  for name, value in wanted.items():
    # A sum of n terms of size s rounds by at most n eps s, and activations add a few eps of their
    # own; no sum here has more than 100 + 75 terms, and slopes are below 1.2.
    bound = 400 * np.finfo(np.float32).eps * max(1.0, np.abs(value).max())
    np.testing.assert_allclose(found[name], value, rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize('implementation', ['xla/gather', 'pallas_tpu'])
def test_a_result_of_another_dtype_is_rounded_once(implementation, run_as):
  args = arguments(MIXED, jnp.bfloat16, integers=True)
  with run_as(implementation):
    y = block_sparse_matmul(args.x, args.weight, preferred_element_type=jnp.float32,
                            implementation=implementation)
  np.testing.assert_array_equal(np.asarray(y), np.asarray(args.x, np.float64) @ args.dense)
  assert y.dtype == jnp.float32


def test_leading_axes_are_rows():
  args = arguments(MIXED._replace(m=6), integers=True)
  wanted = np.asarray(args.x, np.float64) @ args.dense
  for shape in ((75,), (6, 75), (3, 2, 75), (1, 6, 1, 75), (0, 75), (2, 0, 75)):
    rows = int(np.prod(shape[:-1]))
    y = block_sparse_matmul(args.x[:rows].reshape(shape), args.weight, implementation='xla')
    assert y.shape == (*shape[:-1], 100)
    np.testing.assert_array_equal(np.asarray(y).reshape(rows, 100), wanted[:rows])


def test_gates_of_a_batch_broadcast():
  args = arguments(MIXED, integers=True)
  x, gates = np.asarray(args.x, np.float64), np.arange(13)[:, None] % 3 / 2
  per_output = np.asarray(args.cotangent, np.float64)

  def product(input_gate, output_gate):
    return block_sparse_matmul(args.x, args.weight, input_gate=input_gate, output_gate=output_gate,
                               implementation='xla/scan')
  y, pull_back = jax.vjp(product, jnp.asarray(gates, jnp.float32), args.cotangent)
  z = (x * gates) @ args.dense
  np.testing.assert_array_equal(np.asarray(y), z * per_output)
  input_grad, output_grad = pull_back(jnp.ones_like(y))
  np.testing.assert_array_equal(np.asarray(output_grad), z)
  wanted = ((per_output @ args.dense.T) * x).sum(axis=1, keepdims=True)
  np.testing.assert_array_equal(np.asarray(input_grad), wanted)


def test_fillers_and_padding_are_not_trained():
  args = arguments(MIXED, integers=True)
  grad = jax.grad(lambda w: block_sparse_matmul(args.x, w, implementation='xla').sum(),
                  allow_int=True)(args.weight)
  live = np.asarray(args.weight.layout.live)
  assert not live.all()
  assert np.any(np.asarray(grad.blocks)[live]) and not np.any(np.asarray(grad.blocks)[~live])


def test_none_always_runs():
  for spec in (MIXED, MIXED._replace(density=1.0)):
    args = arguments(spec, integers=True)
    y = block_sparse_matmul(args.x, args.weight)
    np.testing.assert_array_equal(np.asarray(y), np.asarray(args.x, np.float64) @ args.dense)


@pytest.mark.parametrize('change, message', [
    (dict(x=jnp.ones((2, 74))), r'x has shape \(2, 74\), but the weight takes 75 inputs'),
    (dict(x=jnp.ones(())), r'x has shape \(\), but the weight takes 75 inputs'),
    (dict(x=jnp.ones((2, 75), jnp.bfloat16)), 'x is bfloat16 and the blocks are float32.*cast'),
    (dict(x=jnp.ones((2, 75), jnp.int32)), 'x is int32 and the blocks are float32'),
    (dict(bias=jnp.ones(75)), r'bias has shape \(75,\); the weight has 100 outputs'),
    (dict(input_gate=jnp.ones(100)), r'input_gate has shape \(100,\).*\(13, 75\)'),
    (dict(output_gate=jnp.ones(75)), r'output_gate has shape \(75,\).*\(13, 100\)'),
    (dict(activation='swish'), "activation='swish' is not known; choose from None, 'relu'"),
    (dict(implementation='cuda'), "implementation='cuda' is not known; choose from reference"),
    (dict(implementation='xla/fast'), "implementation='xla/fast' is not known.*xla/gather"),
    (dict(implementation='dense/scan'), "implementation='dense/scan' is not known"),
    (dict(implementation='pallas_tpu'), "'pallas_tpu' cannot run here: it is for TPUs.*is a cpu"),
])
def test_a_bad_argument_is_named(change, message):
  args = arguments(MIXED)
  call = {'x': args.x, 'weight': args.weight, **change}
  with pytest.raises(ValueError, match=message):
    block_sparse_matmul(call.pop('x'), call.pop('weight'), **call)


def test_a_stack_of_weights_is_refused():
  weight = arguments(MIXED).weight
  stack = weight.replace(blocks=weight.blocks[None])
  with pytest.raises(ValueError, match='a stack of weights goes through jax.vmap or shard_map'):
    block_sparse_matmul(jnp.ones((2, 75)), stack)


def test_the_tpu_refuses_what_it_cannot_run_and_none_takes_another():
  args = arguments(MIXED, jnp.float16)
  with lowering_for('tpu'), pytest.raises(ValueError, match='TPUs do not multiply float16; cast'):
    block_sparse_matmul(args.x, args.weight, implementation='pallas_tpu')
  with lowering_for('tpu'):
    assert block_sparse_matmul(args.x, args.weight).dtype == jnp.float16
