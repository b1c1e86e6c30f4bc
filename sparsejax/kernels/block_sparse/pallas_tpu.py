"""The products on a TPU, in Pallas: one walk over the stored blocks, whatever the pattern.

The indices of the entries are prefetched into scalar memory, so that while one block is multiplied
the next block and its slice of x are fetched. Consecutive entries of an output column add into one
float32 accumulator; at the last of them bias, activation and gate are applied and the tile leaves.
The product with the transpose walks in permuted order and reads each block where it lies, turned
inside the product. The gradient of the blocks visits each entry once and adds over row tiles.

Activations are matrices where a block is a multiple of the 128 lanes wide, and (blocks, m, b)
otherwise: a tile may then have any width, at the cost of padding to 128 lanes in memory. Blocks
under 128 are exact, not fast: `BlockSparse.merge` makes wider ones.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from sparsejax.kernels.block_sparse.backend import ACTIVATIONS, Backend, Epilogue, Problem
from sparsejax.kernels.block_sparse.layout import Layout

Array = jax.Array

LANES = 128
MAX_ROWS = 1024                 # rows of x a tile holds at most
# What a call may prefetch: scalar memory holds 2**18 words, and the compiler needs some itself.
INDEX_WORDS = 240_000
ONE_PASS = (None, 'default', 'fastest', 'bfloat16')
VMEM_BYTES = 12 * 2**20         # of the 16 MiB that a kernel may take on the smallest generation


class Tiles(NamedTuple):
  """How a matrix (m, blocks * width) is cut.

  Attributes:
    rows: of a tile. number: of tiles along m. width: of a block. blocks: along the features.
  """

  rows: int
  number: int
  width: int
  blocks: int

  @property
  def flat(self) -> bool:
    """True if a tile may be cut from the matrix itself."""
    return self.width % LANES == 0 or self.blocks == 1

  def spec(self, index: Any) -> pl.BlockSpec:
    """Returns the tile for `index`: (grid indices, prefetched) -> (row tile, block)."""
    if self.flat:
      return pl.BlockSpec((self.rows, self.width), index)
    return pl.BlockSpec((None, self.rows, self.width), lambda *at: (*index(*at)[::-1], 0))

  def shape(self) -> tuple[int, ...]:
    """Returns the shape of the whole array, as it is cut."""
    m = self.rows * self.number
    return (m, self.blocks * self.width) if self.flat else (self.blocks, m, self.width)

  def cut(self, x: Array) -> Array:
    """Lays out x (m, blocks * width), padded with rows of zeros."""
    x = jnp.pad(x, ((0, self.rows * self.number - x.shape[0]), (0, 0)))
    return x if self.flat else x.reshape(x.shape[0], self.blocks, self.width).transpose(1, 0, 2)

  def joined(self, y: Array, m: int) -> Array:
    """Undoes `cut`."""
    if not self.flat:
      y = y.transpose(1, 0, 2).reshape(-1, self.blocks * self.width)
    return y[:m]


def matmul(x: Array, blocks: Array, layout: Layout, problem: Problem, input_gate: Array | None,
           epilogue: Epilogue, out_dtype: Any) -> Array:
  """See `Backend.matmul`; gates, bias and activation are fused into the one kernel."""
  spans = _spans(problem.entries, 2)
  walk = functools.partial(_walk, x, blocks, layout.row, layout.col, None, problem, input_gate)
  if len(spans) == 1:
    return walk(spans[0], epilogue, out_dtype)
  return epilogue(_sum_of_spans(walk, spans, layout.ptr, problem)).astype(out_dtype)


def transposed(g: Array, blocks: Array, layout: Layout, problem: Problem, out_dtype: Any) -> Array:
  """See `Backend.transposed`."""
  turned, order = problem.transposed, layout.perm
  walk = functools.partial(_walk, g, blocks, layout.col[order], layout.row[order], order, turned,
                           None)
  spans = _spans(problem.entries, 3)
  return _sum_of_spans(walk, spans, layout.row_ptr, turned).astype(out_dtype)


def _sum_of_spans(walk, spans, ptr, problem):
  """Adds the walks over parts of the entries; what a walk does not reach, it does not write."""
  total = jnp.zeros((), jnp.float32)
  for start, stop in spans:
    part = walk((start, stop), Epilogue(), jnp.float32)
    reached = jnp.minimum(ptr[1:], stop) > jnp.maximum(ptr[:-1], start)
    reached = jnp.repeat(reached, problem.block[1], total_repeat_length=part.shape[1])
    part = jnp.where(reached[None, :], part, 0)
    total = part if total.ndim == 0 else total + part
  return total


def weight_gradient(x: Array, g: Array, layout: Layout, problem: Problem) -> Array:
  """See `Backend.weight_gradient`."""
  rows, count = _row_tiles(problem)
  xs, gs = (Tiles(rows, count, problem.block[i], problem.grid[i]) for i in range(2))
  x, g = xs.cut(x), gs.cut(g)
  grads = []
  for start, stop in _spans(problem.entries, 2):
    operands = (layout.row[start:stop], layout.col[start:stop], x, g)
    spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=2, grid=(stop - start, count),
        in_specs=[xs.spec(lambda p, t, row, col: (t, row[p])),
                  gs.spec(lambda p, t, row, col: (t, col[p]))],
        out_specs=pl.BlockSpec((None, *problem.block), lambda p, t, row, col: (p, 0, 0)))
    grads.append(_call(_gradient_kernel, spec, (stop - start, *problem.block), jnp.float32,
                       operands, problem, 'block_sparse_weight_gradient'))
  return grads[0] if len(grads) == 1 else jnp.concatenate(grads)


def _gradient_kernel(row, col, x, g, out):
  del row, col

  @pl.when(pl.program_id(1) == 0)
  def _():
    out[...] = jnp.zeros_like(out)
  out[...] += _dot(x[...], g[...], ((0,), (0,)))


def _walk(x, blocks, source, target, order, problem, input_gate, span, epilogue, out_dtype):
  """Returns epilogue(sum over the entries of `span` of x[source] @ block into target).

  Args:
    x: (m, grid rows * b_in). source, target: (n,), sorted by target. `problem`: as walked.
    order: (n,) places of the blocks, which then are read turned; None: in order, as they are.
  Returns: (m, columns * b_out); targets without an entry in the span are left undefined.
  """
  start, stop = span
  prefetched = [source[start:stop], target[start:stop]]
  if order is not None:
    prefetched.append(order[start:stop])
  rows, count = _row_tiles(problem)
  (up, across), (b_in, b_out) = problem.grid, problem.block
  xs, ys = Tiles(rows, count, b_in, up), Tiles(rows, count, b_out, across)

  def vector(width, index):
    return pl.BlockSpec((None, 1, width), lambda i, p, *at: (at[index][p], 0, 0))

  def place(i, p, *at):
    return (at[2][p] if order is not None else p + start, 0, 0)
  operands = [xs.cut(x), blocks]
  specs = [xs.spec(lambda i, p, *at: (i, at[0][p])), pl.BlockSpec((None, *blocks.shape[1:]), place)]
  vectors = {'gate': (input_gate, b_in, 0), 'bias': (epilogue.bias, b_out, 1),
             'output_gate': (epilogue.output_gate, b_out, 1)}
  names = [name for name, (value, *_) in vectors.items() if value is not None]
  for name in names:
    value, width, index = vectors[name]
    operands.append(value.reshape(-1, 1, width).astype(x.dtype if index == 0 else jnp.float32))
    specs.append(vector(width, index))
  kernel = functools.partial(_walk_kernel, len(prefetched), tuple(names), epilogue.activation,
                             order is not None)
  spec = pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=len(prefetched), grid=(count, stop - start), in_specs=specs,
      out_specs=ys.spec(lambda i, p, *at: (i, at[1][p])),
      scratch_shapes=[pltpu.VMEM((rows, b_out), jnp.float32)])
  name = 'block_sparse_matmul' if order is None else 'block_sparse_transposed_matmul'
  y = _call(kernel, spec, ys.shape(), out_dtype, [*prefetched, *operands], problem, name)
  return ys.joined(y, problem.m)


def _walk_kernel(num_prefetched, names, activation, turned, *refs):
  target, (x, block), (y, total) = refs[1], refs[num_prefetched:num_prefetched + 2], refs[-2:]
  vectors = dict(zip(names, refs[num_prefetched + 2:-2]))
  p, n = pl.program_id(1), pl.num_programs(1)
  here = target[p]

  @pl.when((p == 0) | (here != target[jnp.maximum(p - 1, 0)]))
  def _():
    total[...] = jnp.zeros_like(total)
  left = x[...]
  if 'gate' in vectors:
    # In float32, because not every generation multiplies bfloat16 outside the matrix unit; the
    # rounded product is the same.
    left = (left.astype(jnp.float32) * vectors['gate'][...].astype(jnp.float32)).astype(left.dtype)
  contracted = ((1,), (1 if turned else 0,))
  total[...] += _dot(left, block[...], contracted)

  @pl.when((p == n - 1) | (here != target[jnp.minimum(p + 1, n - 1)]))
  def _():
    z = total[...]
    if 'bias' in vectors:
      z = z + vectors['bias'][...]
    z = ACTIVATIONS[activation](z)
    if 'output_gate' in vectors:
      z = z * vectors['output_gate'][...]
    y[...] = z.astype(y.dtype)


def _dot(left, right, contracted):
  """Multiplies in the precision that JAX is set to, as far as kernels know it.

  They know one pass of bfloat16 and all of float32; what lies between takes the latter. Products of
  bfloat16 are exact in one pass.
  """
  one_pass = left.dtype == jnp.bfloat16 or jax.config.jax_default_matmul_precision in ONE_PASS
  precision = lax.Precision.DEFAULT if one_pass else lax.Precision.HIGHEST
  return lax.dot_general(left, right, (contracted, ((), ())), precision=precision,
                         preferred_element_type=jnp.float32)


def _call(kernel, spec, shape, dtype, operands, problem, name):
  """Runs a kernel whose first grid axis is free and whose second one accumulates."""
  work = 2 * problem.m * problem.entries * problem.block[0] * problem.block[1]
  moved = sum(a.size * a.dtype.itemsize for a in operands)
  return pl.pallas_call(
      kernel, grid_spec=spec, name=name,
      out_shape=jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(operands[0]).mat),
      compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel', 'arbitrary')),
      cost_estimate=pl.CostEstimate(flops=work, bytes_accessed=moved, transcendentals=0),
  )(*operands)


def _spans(entries: int, arrays: int) -> list[tuple[int, int]]:
  """Cuts the entries so that each call's prefetched indices fit into scalar memory."""
  most = INDEX_WORDS // arrays
  count = -(-entries // most)
  size = -(-entries // count)
  return [(start, min(start + size, entries)) for start in range(0, entries, size)]


def _row_tiles(problem: Problem) -> tuple[int, int]:
  """Returns (rows of a tile, tiles): all of m if it fits, else equal multiples of a full tile."""
  step = _least_rows(problem)
  most = MAX_ROWS
  while most > step and vmem_bytes(problem, most) > VMEM_BYTES:
    most //= 2
  if problem.m <= most:
    return problem.m, 1
  count = -(-problem.m // most)
  rows = -(-problem.m // count)
  return -(-rows // step) * step, count


def _least_rows(problem: Problem) -> int:
  return 8 * 4 // jnp.dtype(problem.dtype).itemsize


def vmem_bytes(problem: Problem, rows: int) -> int:
  """Estimates what a kernel holds at a time, all three products taken together.

  Inputs and outputs are held twice, the accumulator and the product that is added to it once each;
  the last axis is padded to whole lanes.
  """
  size = jnp.dtype(problem.dtype).itemsize
  b_in, b_out = problem.block
  wide_in, wide_out = (-(-b // LANES) * LANES for b in (b_in, b_out))
  block = b_in * wide_out
  walk = 2 * size * (rows * (wide_in + wide_out) + block) + 2 * 4 * rows * max(wide_in, wide_out)
  gradient = 2 * size * rows * (wide_in + wide_out) + 3 * 4 * block
  return max(walk, gradient)


def refuses(problem: Problem) -> str | None:
  """See `Backend.refuses`."""
  if problem.platform != 'tpu':
    return (f'it is for TPUs and this is a {problem.platform}; take implementation=None, or lower '
            "for a TPU elsewhere under lowering_for('tpu')")
  if problem.dtype == 'float16':
    return 'TPUs do not multiply float16; cast x and the blocks to bfloat16 or float32'
  needed = vmem_bytes(problem, min(problem.m, _least_rows(problem)))
  if needed > VMEM_BYTES:
    return (f'a block of {problem.block[0]} x {problem.block[1]} in {problem.dtype} needs about '
            f'{needed / 2**20:.1f} MiB of the {VMEM_BYTES / 2**20:.0f} MiB that a kernel may hold '
            'at a time; take smaller blocks')
  return None


BACKEND = Backend(matmul, transposed, weight_gradient, refuses)
