"""The products in plain NumPy and float64, block by block: the oracle of every other backend.

Runs on the host by a callback, so that it can stand under jit and grad too. No attempt at speed.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.kernels.block_sparse.backend import (Backend, Epilogue, Problem,
                                                    varying_like)
from sparsejax.kernels.block_sparse.layout import Layout

Array = jax.Array


def matmul(x: Array, blocks: Array, layout: Layout, problem: Problem, input_gate: Array | None,
           epilogue: Epilogue, out_dtype: Any) -> Array:
  """See `Backend.matmul`; the activation is JAX's own, in float32."""
  gate = jnp.ones(x.shape[1], x.dtype) if input_gate is None else input_gate
  shape = (problem.m, problem.grid[1] * problem.block[1])
  z = _on_host(_matmul, shape, x, gate, blocks, layout.row, layout.col)
  return epilogue(z).astype(out_dtype)


def transposed(g: Array, blocks: Array, layout: Layout, problem: Problem, out_dtype: Any) -> Array:
  """See `Backend.transposed`."""
  shape = (problem.m, problem.grid[0] * problem.block[0])
  gate = jnp.ones(g.shape[1], g.dtype)
  blocks = blocks.transpose(0, 2, 1)
  return _on_host(_matmul, shape, g, gate, blocks, layout.col, layout.row).astype(out_dtype)


def weight_gradient(x: Array, g: Array, layout: Layout, problem: Problem) -> Array:
  """See `Backend.weight_gradient`."""
  shape = (problem.entries, *problem.block)
  return _on_host(_weight_gradient, shape, x, g, layout.row, layout.col)


def _on_host(function, shape, *args):
  result = jax.ShapeDtypeStruct(shape, jnp.float32)
  called = jax.pure_callback(lambda *a: function(shape, *map(np.asarray, a)), result, *args,
                             vmap_method='sequential')
  return varying_like(called, args[0])


def _matmul(shape, x, gate, blocks, row, col):
  x = x.astype(np.float64) * gate.astype(np.float64)
  b_in, b_out = blocks.shape[1:]
  y = np.zeros(shape)
  for block, r, c in zip(blocks.astype(np.float64), row, col):
    y[:, c * b_out:(c + 1) * b_out] += x[:, r * b_in:(r + 1) * b_in] @ block
  return y.astype(np.float32)


def _weight_gradient(shape, x, g, row, col):
  x, g = x.astype(np.float64), g.astype(np.float64)
  _, b_in, b_out = shape
  return np.stack([x[:, r * b_in:(r + 1) * b_in].T @ g[:, c * b_out:(c + 1) * b_out]
                   for r, c in zip(row, col)]).astype(np.float32)


BACKEND = Backend(matmul, transposed, weight_gradient, refuses=lambda problem: None)
