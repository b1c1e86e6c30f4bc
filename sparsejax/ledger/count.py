"""One row per linear layer: what it holds, what is left of it, and what one example costs.

A layer is a Flax `Dense`, `DenseGeneral`, `Conv`, `ConvTranspose` or `Embed`, or a matrix of an
`OptimizedLSTMCell` (which multiplies by its matrices side by side; its operations are shared out by
their sizes, exact since each entry is used once a step). Calls are found by `nn.intercept_methods`
while the model is traced on shapes alone; flops by `flops.py`.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.core import meta

from sparsejax.ledger.flops import scope_name, scoped_flops

LAYERS = (nn.Dense, nn.DenseGeneral, nn.Conv, nn.ConvTranspose, nn.Embed)
KERNELS = ('kernel', 'embedding')
SUMMED = ('weights_total', 'weights_kept', 'parameters', 'biases', 'exact_zeros', 'flops')


def count_layers(model: nn.Module, variables: Mapping[str, Any], example: Any, *,
                 apply_kwargs: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
  """Returns one flat dict per linear layer, in the order of the first call.

  Keys: layer ('/'-joined path), kind, kernel_shape (list), weights_total (kernel entries),
  weights_kept (those not 0), parameters (all entries of the layer), biases, exact_zeros (entries of
  the layer that are 0, bias included), inputs_kept and outputs_kept (slices of the kernel, by
  input and by output unit, that are not all zero; in a grouped convolution an input channel is its
  slice of its own group; in a stack of layers each layer's units count), flops (2 per multiply-add
  of one example, kernel dense; see `flops.py`). A layer called twice counts twice in flops, once
  in the rest.

  Args:
    model: a Flax module. variables: with a collection 'params', arrays that can be read.
    example: array or `jax.ShapeDtypeStruct`, (1, ...): one example, with the batch axis.
    apply_kwargs: further arguments of `model.apply`, such as {'train': False}.
  Raises: ValueError if `example` is not one example, or a kernel belongs to no layer that is
    called.
  """
  if not example.shape or example.shape[0] != 1:
    raise ValueError(f'example has shape {tuple(example.shape)}; pass one example with its batch '
                     'axis, such as images[:1]')
  params = meta.unbox(variables.get('params', {}))
  calls, flops = _trace(model, variables, example, dict(apply_kwargs or {}))
  rows: list[dict[str, Any]] = []
  covered: set[str] = set()
  for index, (path, (module, shape)) in enumerate(calls.items()):
    kernels = {(*layer, _kernel_name(own)): own
               for layer, own in _kernels(path, _at(params, path), module)}
    covered.update('/'.join(name) for name in kernels)
    together = sum(own[name].size for (*_, name), own in kernels.items())
    for (*layer, name), own in kernels.items():
      kernel = np.asarray(own[name])
      share = flops[index] * kernel.size // max(together, 1)
      rows.append(_row('/'.join(layer), module, own, kernel, shape) | {'flops': share})
  missed = sorted(set(_kernel_paths(params)) - covered)
  if missed:
    raise ValueError(f'kernels {", ".join(missed)} belong to no linear layer that this call '
                     'applies; the sheet counts Dense, DenseGeneral, Conv, ConvTranspose, Embed '
                     'and OptimizedLSTMCell: build the layer from one of these, or drop the kernel')
  return rows


def totals(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
  """Sums of the keys in `SUMMED` over the rows of `count_layers`."""
  rows = list(rows)
  return {key: sum(row[key] for row in rows) for key in SUMMED}


def architecture_kept(rows: Iterable[Mapping[str, Any]]) -> list[int]:
  """Kept outputs of each convolution and kept inputs of each other layer, look-up tables apart.

  This is how papers on gates write a network: LeNet-5-Caffe is 20-50-800-500, LeNet-300-100 is
  784-300-100.
  """
  return [row['outputs_kept' if row['kind'] in ('Conv', 'ConvTranspose') else 'inputs_kept']
          for row in rows if row['kind'] != 'Embed']


def parameters(weights: Any) -> int:
  """Entries of all arrays in the tree `weights`."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(weights))


def exact_zeros(weights: Any) -> int:
  """Entries equal to 0 (of either sign) in all arrays of the tree `weights`."""
  return sum(int(np.sum(np.asarray(leaf) == 0)) for leaf in jax.tree.leaves(weights))


def _trace(model, variables, example, apply_kwargs):
  """Returns {path: (module, kernel shape as called, None for an LSTM cell)} and flops by index."""
  calls: dict[tuple[str, ...], tuple[nn.Module, tuple[int, ...] | None]] = {}
  index: dict[tuple[str, ...], int] = {}

  def interceptor(next_function, args, kwargs, context):
    module = context.module
    if (not isinstance(module, (*LAYERS, nn.OptimizedLSTMCell))
        or context.method_name not in ('__call__', 'attend')):
      return next_function(*args, **kwargs)
    number = index.setdefault(module.path, len(index))
    with jax.named_scope(scope_name(number)):
      result = next_function(*args, **kwargs)
    shape = None
    if isinstance(module, LAYERS):
      own = meta.unbox(module.variables['params'])
      shape = own[_kernel_name(own)].shape
    calls.setdefault(module.path, (module, shape))
    return result

  shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
                        (variables, example))
  with nn.intercept_methods(interceptor):
    program = jax.make_jaxpr(lambda v, x: model.apply(v, x, **apply_kwargs))(*shapes)
  ordered = {path: calls[path] for path in index}
  transposed = {index[path] for path, (module, _) in ordered.items()
                if isinstance(module, nn.ConvTranspose)}
  return ordered, scoped_flops(program, transposed)


def _at(params, path):
  for key in path:
    if key not in params:
      raise ValueError(f'layer {"/".join(path)} has no parameters under its path; the variables '
                       'must be those that model.init returns for this model')
    params = params[key]
  return params


def _kernels(path, own, module):
  if isinstance(module, nn.OptimizedLSTMCell):
    return [((*path, name), own[name]) for name in sorted(own)]
  return [(path, own)]


def _kernel_name(own):
  return next(name for name in KERNELS if name in own)


def _kernel_paths(params, prefix=''):
  for key, child in params.items():
    if isinstance(child, Mapping):
      yield from _kernel_paths(child, f'{prefix}{key}/')
    elif key in KERNELS:
      yield prefix + key


def _row(layer, module, own, kernel, shape):
  kept = _four_axes(layer, module, kernel, kernel.shape if shape is None else shape) != 0
  leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(own)]
  return {
      'layer': layer,
      'kind': _kind(module),
      'kernel_shape': list(kernel.shape),
      'weights_total': kernel.size,
      'weights_kept': int(kept.sum()),
      'parameters': sum(leaf.size for leaf in leaves),
      'biases': math.prod(np.shape(own['bias'])) if 'bias' in own else 0,
      'exact_zeros': exact_zeros(leaves),
      'inputs_kept': int(kept.any(axis=(1, 3)).sum()),
      'outputs_kept': int(kept.any(axis=(1, 2)).sum()),
  }


def _kind(module):
  return next(kind.__name__ for kind in (*LAYERS, nn.OptimizedLSTMCell) if isinstance(module, kind))


def _four_axes(layer, module, kernel, shape):
  """Returns the kernel as (stack x groups, taps, inputs, outputs); `shape` is that of one layer."""
  stack = kernel.shape[:kernel.ndim - len(shape)]
  if kernel.shape != (*stack, *shape):
    raise ValueError(f'{layer} has kernel {kernel.shape} but is called with {tuple(shape)};'
                     ' layers must be stacked along leading axes (variable_axes={"params": 0})')
  copies = math.prod(stack)
  if isinstance(module, (nn.Conv, nn.ConvTranspose)):
    inputs, outputs = shape[-2:]
    taps = math.prod(shape[:-2])
    if getattr(module, 'transpose_kernel', False):
      return kernel.reshape(copies, taps, inputs, outputs).swapaxes(-1, -2)
    groups = getattr(module, 'feature_group_count', 1)
    outputs //= groups
    grouped = np.moveaxis(kernel.reshape(copies, taps, inputs, groups, outputs), 3, 1)
    return grouped.reshape(copies * groups, taps, inputs, outputs)
  start, end = 0, 1                                # where the axes of the inputs start and end
  if isinstance(module, nn.DenseGeneral):
    start = np.size(module.batch_dims)
    end = start + np.size(module.axis)
  return kernel.reshape(copies * math.prod(shape[:start]), 1, math.prod(shape[start:end]),
                        math.prod(shape[end:]))
