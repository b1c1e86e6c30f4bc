"""`block_sparse_matmul`: one product on every device, with its derivative.

The derivative is written out, the same for all implementations: the gradient of x walks over the
same blocks in permuted order, that of the blocks is formed at the stored blocks alone, and fillers
and padding get zero.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.kernels.block_sparse import cost, dense, reference, xla
from sparsejax.kernels.block_sparse.backend import (ACTIVATIONS, Backend, Epilogue, Problem,
                                                    alike, gated)
from sparsejax.kernels.block_sparse.probe import watch
from sparsejax.kernels.block_sparse.weight import BlockSparse

Array = jax.Array

# The kernels written for one platform; a module of the same name, loaded when used, holds BACKEND.
KERNELS = {'tpu': 'pallas_tpu', 'gpu': 'pallas_mosaic_gpu'}
IMPLEMENTATIONS = ('reference', 'dense', 'xla', *KERNELS.values())
_EVERYWHERE = {'reference': reference.BACKEND, 'dense': dense.BACKEND}
DTYPES = ('float32', 'bfloat16', 'float16')

_device: contextvars.ContextVar[tuple[str, str] | None] = contextvars.ContextVar(
    'device to lower for', default=None)


@contextlib.contextmanager
def lowering_for(platform: str, device_kind: str = '') -> Iterator[None]:
  """Chooses implementations for a device that need not be here, to export or compile for it."""
  token = _device.set((platform, device_kind))
  try:
    yield
  finally:
    _device.reset(token)


def block_sparse_matmul(
    x: Array,
    weight: BlockSparse,
    *,
    bias: Array | None = None,
    activation: str | None = None,
    input_gate: Array | None = None,
    output_gate: Array | None = None,
    preferred_element_type: Any = None,
    implementation: str | None = None,
) -> Array:
  """Returns activation((x * input_gate) @ weight + bias) * output_gate.

  Gradients flow to x, the blocks, the bias and both gates. Products accumulate in float32.

  Args:
    x: (..., inputs), float32, bfloat16 or float16, of the blocks' dtype.
    weight: its matrix is (inputs, outputs); see `BlockSparse.matrix_shape`.
    bias: (outputs,). activation: None, 'relu', 'gelu', 'silu', 'tanh' or 'sigmoid'.
    input_gate: (inputs,), fused into the product, or anything that broadcasts to x.
    output_gate: (outputs,), fused, or anything that broadcasts to the result.
    preferred_element_type: dtype of the result; that of x by default.
    implementation: 'reference' (NumPy on the host), 'dense', 'xla' ('xla/<form>' for one form),
      'pallas_tpu', 'pallas_mosaic_gpu' (Hopper); None takes the fastest for this shape and device
      by the cost table.

  Returns: (..., outputs).

  Raises:
    ValueError: before anything runs, for shapes that do not match, a dtype or activation that is
      not known, or a named implementation that cannot run this problem on this device.
  """
  inputs, outputs = weight.matrix_shape
  _require(x, weight, bias, activation)
  out_dtype = jnp.dtype(preferred_element_type or x.dtype)
  if weight.probe is not None:
    return _probed(x, weight, bias, activation, input_gate, output_gate, out_dtype, implementation)
  if input_gate is not None and input_gate.shape != (inputs,):
    x, input_gate = x * _broadcast(input_gate, x.shape, 'input_gate').astype(x.dtype), None
  after = None
  if output_gate is not None and output_gate.shape != (outputs,):
    after = _broadcast(output_gate, (*x.shape[:-1], outputs), 'output_gate')
    output_gate = None
  rows = x.reshape(-1, inputs)
  if not rows.shape[0]:
    return jnp.zeros((*x.shape[:-1], outputs), out_dtype)
  platform, kind = _device.get() or (jax.default_backend(), jax.devices()[0].device_kind)
  problem = Problem(rows.shape[0], weight.block_size, weight.grid, weight.capacity,
                    x.dtype.name, platform, kind if platform != 'cpu' else '', weight.frozen)
  plan = _plan(problem, implementation, activation, out_dtype)
  (up, across), (b_in, b_out) = weight.grid, weight.block_size
  operands = (_padded(rows, up * b_in), weight.blocks, weight.layout, _padded(bias, across * b_out),
              _padded(input_gate, up * b_in), _padded(output_gate, across * b_out))
  y = _product(*alike(operands), plan)
  y = y[:, :outputs].reshape(*x.shape[:-1], outputs)
  return y if after is None else y * after.astype(y.dtype)


def _probed(x, weight, bias, activation, input_gate, output_gate, out_dtype, implementation):
  """The same with its steps apart, so that the probe sees what goes in and what comes back."""
  if input_gate is not None:
    x = x * _broadcast(input_gate, x.shape, 'input_gate').astype(x.dtype)
  z = block_sparse_matmul(x, weight.replace(probe=None), bias=bias,
                          preferred_element_type=jnp.float32, implementation=implementation)
  inputs, outputs = weight.matrix_shape
  seen = watch(*alike((z.reshape(-1, outputs), x.reshape(-1, inputs), weight.probe)),
               weight.block_size)
  z = Epilogue(None, activation, None)(seen).reshape(z.shape)
  if output_gate is not None:
    z = z * _broadcast(output_gate, z.shape, 'output_gate').astype(z.dtype)
  return z.astype(out_dtype)


class Plan(NamedTuple):
  """What runs: the static part of a call.

  Attributes:
    problem: the shapes. names: implementation of each of `cost.OPERATIONS`.
    activation: of the epilogue. out_dtype: of the result.
  """

  problem: Problem
  names: tuple[str, str, str]
  activation: str | None
  out_dtype: Any


def _plan(problem: Problem, implementation: str | None, activation: str | None,
          out_dtype: Any) -> Plan:
  names = [_resolve(operation, problem, implementation) for operation in cost.OPERATIONS]
  return Plan(problem, (names[0], names[1], names[2]), activation, out_dtype)


def _resolve(operation: str, problem: Problem, implementation: str | None) -> str:
  """Returns the implementation of one product, an XLA one with its form, such as 'xla/scan'."""
  kernel = KERNELS.get(problem.platform)
  turned = problem.transposed if operation == 'transposed' else problem
  if implementation is None:
    if cost.dense_pays(operation, turned):
      return 'dense'
    if kernel is not None and _backend(kernel).refuses(problem) is None:
      return kernel
    implementation = 'xla'
  if implementation == 'xla':
    return f'xla/{cost.best_form(operation, turned)}'
  name, _, form = implementation.partition('/')
  if name == 'xla' and form in xla.WALKS:
    return f'xla/{form.removesuffix("_t") if operation == "weight_gradient" else form}'
  if name == 'xla' and form == 'unroll' and problem.frozen:
    return implementation if operation == 'matmul' else f'xla/{cost.best_form(operation, turned)}'
  if form or name not in IMPLEMENTATIONS:
    forms = ', '.join(f'xla/{form}' for form in xla.WALKS)
    raise ValueError(f'implementation={implementation!r} is not known; choose from '
                     f'{", ".join(IMPLEMENTATIONS)}, {forms}, xla/unroll for a '
                     'weight that was frozen (BlockSparse.freeze), or None')
  refusal = _backend(name).refuses(problem)
  if refusal is not None:
    raise ValueError(f'implementation={name!r} cannot run here: {refusal}')
  return name


@functools.cache
def _backend(name: str) -> Backend:
  name, _, form = name.partition('/')
  if name == 'xla':
    return xla.backend((form, form, form.removesuffix('_t')))
  if name in _EVERYWHERE:
    return _EVERYWHERE[name]
  return importlib.import_module(f'sparsejax.kernels.block_sparse.{name}').BACKEND


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _product(x, blocks, layout, bias, input_gate, output_gate, plan):
  """The operation on padded matrices; x (m, rows * b_in) -> (m, columns * b_out)."""
  epilogue = Epilogue(bias, plan.activation, output_gate)
  return _backend(plan.names[0]).matmul(x, blocks, layout, plan.problem, input_gate, epilogue,
                                        plan.out_dtype)


def _forward(x, blocks, layout, bias, input_gate, output_gate, plan):
  if plan.activation is None and output_gate is None:
    y = _product(x, blocks, layout, bias, input_gate, None, plan)
    return y, (x, blocks, layout, bias, input_gate, None, None)
  # The activation's derivative needs what it was applied to.
  z = _product(x, blocks, layout, bias, input_gate, None,
               plan._replace(activation=None, out_dtype=jnp.float32))
  y = Epilogue(None, plan.activation, output_gate)(z).astype(plan.out_dtype)
  return y, (x, blocks, layout, bias, input_gate, output_gate, z)


def _backward(plan, residuals, cotangent):
  x, blocks, layout, bias, input_gate, output_gate, z = residuals
  g, gate_grad = cotangent.astype(jnp.float32), None
  if z is not None:
    _, pull_back = jax.vjp(lambda z, gate: Epilogue(None, plan.activation, gate)(z), z, output_gate)
    g, gate_grad = pull_back(g)
  bias_grad = None if bias is None else g.sum(axis=0).astype(bias.dtype)
  g = g.astype(x.dtype)
  gated_grad = _backend(plan.names[1]).transposed(g, blocks, layout, plan.problem, jnp.float32)
  x_grad, input_gate_grad = gated_grad, None
  if input_gate is not None:
    x_grad = gated_grad * input_gate[None, :].astype(jnp.float32)
    input_gate_grad = (gated_grad * x.astype(jnp.float32)).sum(axis=0).astype(input_gate.dtype)
  block_grads = _backend(plan.names[2]).weight_gradient(gated(x, input_gate), g, layout,
                                                        plan.problem)
  block_grads = jnp.where(layout.live[:, None, None], block_grads, 0).astype(blocks.dtype)
  return (x_grad.astype(x.dtype), block_grads, None, bias_grad, input_gate_grad, gate_grad)


_product.defvjp(_forward, _backward)


def _require(x: Array, weight: BlockSparse, bias: Array | None, activation: str | None) -> None:
  inputs, outputs = weight.matrix_shape
  if weight.blocks.ndim != 3:
    raise ValueError(f'the blocks have shape {weight.blocks.shape}; a stack of weights goes '
                     'through jax.vmap or shard_map, one weight a call')
  if x.ndim < 1 or x.shape[-1] != inputs:
    raise ValueError(f'x has shape {x.shape}, but the weight takes {inputs} inputs on the last '
                     'axis')
  if weight.blocks.dtype != x.dtype or x.dtype.name not in DTYPES:
    raise ValueError(f'x is {x.dtype} and the blocks are {weight.blocks.dtype}; both must be one '
                     f'of {", ".join(DTYPES)}, the same one: cast them')
  if bias is not None and bias.shape != (outputs,):
    raise ValueError(f'bias has shape {bias.shape}; the weight has {outputs} outputs')
  if activation not in ACTIVATIONS:
    names = ', '.join(repr(name) for name in ACTIVATIONS)
    raise ValueError(f'activation={activation!r} is not known; choose from {names}, or apply your '
                     'own to the result')


def _broadcast(gate: Array, shape: tuple[int, ...], name: str) -> Array:
  try:
    return jnp.broadcast_to(gate, shape)
  except ValueError:
    raise ValueError(f'{name} has shape {gate.shape}, which does not broadcast to '
                     f'{shape}') from None


def _padded(array: Array | None, width: int) -> Array | None:
  """Pads the last axis with zeros to `width`."""
  if array is None or array.shape[-1] == width:
    return array
  return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, width - array.shape[-1])])
