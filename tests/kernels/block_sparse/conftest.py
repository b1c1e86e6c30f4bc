"""How an implementation is run where its device is missing, and the oracle of all of them."""
import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from sparsejax.kernels.block_sparse import block_sparse_matmul, lowering_for


@contextlib.contextmanager
def _run_as(implementation, simulator=None):
  with contextlib.ExitStack() as stack:
    if implementation == 'pallas_tpu':
      stack.enter_context(lowering_for('tpu'))
      # True takes Pallas' plain interpreter, cheaper than the simulator that parameters choose.
      stack.enter_context(pltpu.force_tpu_interpret_mode(simulator or True))
    yield


@pytest.fixture(scope='session')
def run_as():
  """Context manager (implementation, simulator=None): lets a TPU's kernel run on the CPU."""
  return _run_as


@pytest.fixture(scope='session')
def outcomes():
  """(arguments, implementation, activation, fused) -> values and gradients, by name, as NumPy."""
  def compute(args, implementation, activation='relu', simulator=None, **options):
    def product(x, blocks, bias, input_gate, output_gate):
      return block_sparse_matmul(x, args.weight.replace(blocks=blocks), bias=bias,
                                 activation=activation, input_gate=input_gate,
                                 output_gate=output_gate, implementation=implementation, **options)

    def both(*operands):
      y, pull_back = jax.vjp(product, *operands)
      return product(*operands), y, pull_back(args.cotangent.astype(y.dtype))
    with _run_as(implementation, simulator):
      value, y, grads = jax.jit(both)(args.x, args.weight.blocks, args.bias, args.input_gate,
                                      args.output_gate)
    names = ('x', 'blocks', 'bias', 'input_gate', 'output_gate')
    found = {'value': value, 'value with gradient': y, **dict(zip(names, grads))}
    found['dense'] = args.weight.replace(blocks=found.pop('blocks')).to_dense()
    return {name: np.asarray(array) for name, array in found.items()}
  return compute


@pytest.fixture(scope='session')
def oracle():
  """(arguments, activation, its derivative) -> the same in float64, from the dense matrix."""
  def compute(args, activation=lambda z: np.maximum(z, 0), derivative=lambda z: z > 0):
    x, bias, input_gate, output_gate, cotangent = (
        np.asarray(a.astype(jnp.float32), np.float64)
        for a in (args.x, args.bias, args.input_gate, args.output_gate, args.cotangent))
    z = (x * input_gate) @ args.dense + bias
    g = cotangent * output_gate * derivative(z)
    gated_grad = g @ args.dense.T
    block = args.weight.block_size
    stored = np.kron(args.mask, np.ones(block))[:x.shape[1], :z.shape[1]]
    value = activation(z) * output_gate
    return {'value': value, 'value with gradient': value, 'x': gated_grad * input_gate,
            'dense': ((x * input_gate).T @ g) * stored, 'bias': g.sum(axis=0),
            'input_gate': (gated_grad * x).sum(axis=0),
            'output_gate': (cotangent * activation(z)).sum(axis=0)}
  return compute
