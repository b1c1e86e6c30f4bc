"""The products in plain XLA, the path on CPU: four forms of one walk over the blocks.

* `gather`: all products in one batched `dot_general`, then a segment sum over the entries of each
  output. Best for few rows or few blocks; its scratch is two arrays of n * m * b numbers.
* `scan`: one block after the other into the output. Memory stays that of the output; best for many
  rows.

* `unroll`: one product per output column, all its blocks at once. Only for a pattern that is part
  of the program (`BlockSparse.freeze`) and small, as compile time grows with the blocks.

The first two with activations block-major, (blocks, m, b), or, `_t`, feature-major, (blocks, b, m),
which has longer contiguous rows where m > b and needs the blocks transposed. Which is fastest
depends on the shape and the machine: the cost table says (`cost.py`).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax.kernels.block_sparse.backend import (Backend, Epilogue, Problem, gated,
                                                    varying_like)
from sparsejax.kernels.block_sparse.layout import Layout

Array = jax.Array

WALKS = ('gather', 'gather_t', 'scan', 'scan_t')
FORMS = (*WALKS, 'unroll')
GRADIENT_FORMS = ('gather', 'scan')
UNROLLED_ENTRIES = 300           # some seconds of compilation
SCRATCH_BYTES = 32 * 2**20       # above, `gather` spends its time in memory, whatever a table says


def scratch_bytes(problem: Problem) -> int:
  """Returns what a gather form allocates beside inputs and outputs."""
  return 4 * problem.entries * problem.m * sum(problem.block)


def matmul(x: Array, blocks: Array, layout: Layout, problem: Problem, input_gate: Array | None,
           epilogue: Epilogue, out_dtype: Any, form: str) -> Array:
  """See `Backend.matmul`; `form` is one of `FORMS`."""
  x = gated(x, input_gate)
  if form == 'unroll':
    z = _unrolled(x, blocks, problem)
  else:
    z = _walk(x, blocks, layout.row, layout.col, problem, form)
  return epilogue(z).astype(out_dtype)


def transposed(g: Array, blocks: Array, layout: Layout, problem: Problem, out_dtype: Any,
               form: str) -> Array:
  """See `Backend.transposed`: the same walk in the permuted order; `form` is one of `WALKS`."""
  order = layout.perm
  blocks = blocks[order].transpose(0, 2, 1)
  return _walk(g, blocks, layout.col[order], layout.row[order], problem.transposed,
               form).astype(out_dtype)


def weight_gradient(x: Array, g: Array, layout: Layout, problem: Problem, form: str) -> Array:
  """See `Backend.weight_gradient`; `form` is one of `GRADIENT_FORMS`."""
  xs, gs = _block_major(x, problem.block[0]), _block_major(g, problem.block[1])

  def product(row, col):
    return lax.dot_general(xs[row], gs[col], (((0,), (0,)), ((), ())),
                           preferred_element_type=jnp.float32)
  if form == 'scan':
    return lax.map(lambda entry: product(*entry), (layout.row, layout.col))
  return lax.dot_general(xs[layout.row], gs[layout.col], (((1,), (1,)), ((0,), (0,))),
                         preferred_element_type=jnp.float32)


def _walk(x: Array, blocks: Array, source: Array, target: Array, problem: Problem,
          form: str) -> Array:
  """Returns sum over entries of x[source] @ block into target, (m, columns * b_out), float32."""
  columns, b_out = problem.grid[1], problem.block[1]
  feature_major = form.endswith('_t')
  if feature_major:
    xs = x.T.reshape(problem.grid[0], problem.block[0], -1)
    blocks = blocks.transpose(0, 2, 1)
  else:
    xs = _block_major(x, problem.block[0])

  def product(left, right, batch):
    dims = (((1 + batch,), (batch,)), ((0,), (0,)) if batch else ((), ()))
    if feature_major:
      left, right = right, left
    return lax.dot_general(left, right, dims, preferred_element_type=jnp.float32)

  if form.startswith('gather'):
    y = jax.ops.segment_sum(product(xs[source], blocks, 1), target, columns,
                            indices_are_sorted=True, mode='promise_in_bounds')
  else:
    def step(y, entry):
      block, s, t = entry
      return y.at[t].add(product(xs[s], block, 0), mode='promise_in_bounds'), None
    tile = (b_out, x.shape[0]) if feature_major else (x.shape[0], b_out)
    start = varying_like(jnp.zeros((columns, *tile), jnp.float32), x)
    y = lax.scan(step, start, (blocks, source, target))[0]
  if feature_major:
    return y.reshape(columns * b_out, -1).T
  return y.transpose(1, 0, 2).reshape(-1, columns * b_out)


def _unrolled(x: Array, blocks: Array, problem: Problem) -> Array:
  """Returns x @ W, (m, columns * b_out), float32, by one product for each output column."""
  b_in, b_out = problem.block
  assert problem.frozen is not None
  outputs, start = [], 0
  for rows in problem.frozen:
    if not rows:                   # a filler, whose zeros need no product
      outputs.append(jnp.zeros((x.shape[0], b_out), jnp.float32))
      start += 1
      continue
    inputs = jnp.concatenate([x[:, r * b_in:(r + 1) * b_in] for r in rows], axis=1)
    column = blocks[start:start + len(rows)].reshape(-1, b_out)
    outputs.append(jnp.dot(inputs, column, preferred_element_type=jnp.float32))
    start += len(rows)
  return jnp.concatenate(outputs, axis=1)


def _block_major(x: Array, width: int) -> Array:
  return x.reshape(x.shape[0], -1, width).transpose(1, 0, 2)


def backend(forms: tuple[str, str, str]) -> Backend:
  """Returns the backend with these forms of the product, the transposed one and the gradient."""
  product, turned, gradient = forms
  return Backend(functools.partial(matmul, form=product),
                 functools.partial(transposed, form=turned),
                 functools.partial(weight_gradient, form=gradient),
                 refuses=lambda problem: None)
