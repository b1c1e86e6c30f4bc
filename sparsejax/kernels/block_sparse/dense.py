"""The products through the dense matrix: a scatter, then the device's own matrix product."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax.kernels.block_sparse.backend import Backend, Epilogue, Problem, gated
from sparsejax.kernels.block_sparse.layout import Layout

Array = jax.Array


def densified(blocks: Array, layout: Layout, problem: Problem) -> Array:
  """Returns the padded matrix (rows * b_in, columns * b_out)."""
  (rows, columns), (b_in, b_out) = problem.grid, problem.block
  grid = jnp.zeros((rows, columns, b_in, b_out), blocks.dtype)
  grid = grid.at[layout.row, layout.col].add(blocks, mode='promise_in_bounds')
  return grid.transpose(0, 2, 1, 3).reshape(rows * b_in, columns * b_out)


def matmul(x: Array, blocks: Array, layout: Layout, problem: Problem, input_gate: Array | None,
           epilogue: Epilogue, out_dtype: Any) -> Array:
  """See `Backend.matmul`."""
  z = jnp.dot(gated(x, input_gate), densified(blocks, layout, problem),
              preferred_element_type=jnp.float32)
  return epilogue(z).astype(out_dtype)


def transposed(g: Array, blocks: Array, layout: Layout, problem: Problem, out_dtype: Any) -> Array:
  """See `Backend.transposed`."""
  return lax.dot_general(g, densified(blocks, layout, problem), (((1,), (1,)), ((), ())),
                         preferred_element_type=jnp.float32).astype(out_dtype)


def weight_gradient(x: Array, g: Array, layout: Layout, problem: Problem) -> Array:
  """See `Backend.weight_gradient`."""
  (rows, columns), (b_in, b_out) = problem.grid, problem.block
  whole = lax.dot_general(x, g, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
  tiles = whole.reshape(rows, b_in, columns, b_out).transpose(0, 2, 1, 3)
  return tiles.at[layout.row, layout.col].get(mode='promise_in_bounds')


BACKEND = Backend(matmul, transposed, weight_gradient, refuses=lambda problem: None)
