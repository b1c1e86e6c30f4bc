"""The products on NVIDIA Hopper: Pallas Mosaic GPU kernels with TMA loads and wgmma.

Every kernel is persistent and warp-specialised. One thread block runs on each multiprocessor; its
last warpgroup loads, by indices that it reads from device memory, into a ring of stages in shared
memory; the others multiply what arrived, and while they finish one tile the loads of the next are
under way. Sums stay in registers in float32; bias, activation and output gate are applied there.

The product with the transpose is the same walk in permuted order, where wgmma reads each block
turned. The gradient of the blocks is formed at the stored blocks alone: entries of one column share
the loads of the cotangent.

Mosaic GPU compiles for Hopper on a machine without a GPU and has a simulator; the speed of these
kernels has not been measured (`benchmarks/hopper_block_sparse.py` is what measures it).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from sparsejax.kernels.block_sparse import hopper
from sparsejax.kernels.block_sparse import hopper_ring as ring
from sparsejax.kernels.block_sparse.backend import ACTIVATIONS, Backend, Epilogue, Problem, gated
from sparsejax.kernels.block_sparse.hopper import Config
from sparsejax.kernels.block_sparse.layout import Layout

Array = jax.Array

DTYPES = ('bfloat16', 'float16')


def matmul(x: Array, blocks: Array, layout: Layout, problem: Problem, input_gate: Array | None,
           epilogue: Epilogue, out_dtype: Any, config: Config | None = None) -> Array:
  """See `Backend.matmul`; `config` replaces the default tiles."""
  config = _checked('matmul', config, problem)
  return _walk(gated(x, input_gate), blocks, layout.row, None, layout.ptr, epilogue.bias,
               epilogue.output_gate, epilogue.activation, jnp.dtype(out_dtype), problem, config,
               ring.simulator())


def transposed(g: Array, blocks: Array, layout: Layout, problem: Problem, out_dtype: Any,
               config: Config | None = None) -> Array:
  """See `Backend.transposed`; rows without blocks get zeros."""
  config = _checked('transposed', config, problem)
  return _walk(g, blocks, layout.col, layout.perm, layout.row_ptr, None, None, None,
               jnp.dtype(out_dtype), problem.transposed, config, ring.simulator())


# Jitted, so that layers of one shape are traced and lowered once.
@functools.partial(jax.jit, static_argnums=(7, 8, 9, 10, 11))
def _walk(x: Array, blocks: Array, source: Array, order: Array | None, ptr: Array,
          bias: Array | None, output_gate: Array | None, activation_name: str | None,
          out_dtype: Any, problem: Problem, config: Config, simulator: Any) -> Array:
  """Returns activation(x @ W + bias) * output_gate, W (inputs, outputs) as `problem` says.

  Args:
    source: block of inputs of each entry. order: the entry at each position of the walk, whose
      blocks are then read transposed; None: the entries as they stand.
    ptr: positions of each block of outputs.
  """
  (_, targets), (b_k, b_n) = problem.grid, problem.block
  tile_m, tile_k, stages, workers = (config.tile_m, config.tile_k, config.stages,
                                     config.warpgroups)
  tile_n, parts, turned = hopper.tile_of(b_n), b_n // hopper.tile_of(b_n), order is not None
  rows = tile_m * workers
  x, m = _padded_rows(x, rows), x.shape[0]
  row_tiles = x.shape[0] // rows
  units = row_tiles * targets * parts
  programs = min(hopper.multiprocessors(problem.device_kind), units)
  group = min(config.row_group, row_tiles)
  last = source.shape[0] - 1
  ranked = _ranked(ptr, config.balanced)
  extras = [a.astype(jnp.float32) for a in (bias, output_gate) if a is not None]
  activation = _activation(activation_name)
  store_n = ring.store_columns(out_dtype)

  def place(unit):
    """Row tile, part of the columns, and rank of the block of columns of one unit of work."""
    first = unit // (group * targets * parts) * group
    height = jnp.minimum(row_tiles - first, group)
    rest = lax.rem(unit, group * targets * parts)
    column = rest // height
    return first + lax.rem(rest, height), lax.rem(column, parts), column // parts

  def body(x_ref, blocks_ref, source_ref, *refs):
    order_ref, refs = (refs[0], refs[1:]) if turned else (None, refs)
    ranked_ref, refs = refs[0], refs[1:]
    extra_refs, (y_ref, x_smem, blocks_smem, y_smem, full, empty) = (refs[:len(extras)],
                                                                     refs[len(extras):])
    worker = lax.axis_index('warpgroup')

    def entry_at(position):
      entry = order_ref[position] if turned else position
      return entry, source_ref[entry]

    def load():
      def tile(unit, step):
        i, part, rank = place(unit)
        begin, end = ranked_ref[1, rank], ranked_ref[2, rank]

        def block(position, carry):
          step, entry, origin = carry
          following = entry_at(jnp.minimum(position + 1, last))    # on its way while we wait
          for k in range(0, b_k, tile_k):
            slot = ring.free_slot(step, stages, empty)
            plgpu.copy_gmem_to_smem(
                x_ref.at[pl.ds(i * rows, rows), pl.ds(origin * b_k + k, tile_k)],
                x_smem.at[slot], full.at[slot])
            if turned:
              tall, wide = pl.ds(entry * b_n + part * tile_n, tile_n), pl.ds(k, tile_k)
            else:
              tall, wide = pl.ds(entry * b_k + k, tile_k), pl.ds(part * tile_n, tile_n)
            plgpu.copy_gmem_to_smem(blocks_ref.at[tall, wide], blocks_smem.at[slot], full.at[slot])
            step += 1
          return step, *following
        return lax.fori_loop(begin, end, block, (step, *entry_at(jnp.minimum(begin, last))))[0]
      ring.drain(ring.for_each_unit(units, programs, tile), stages, empty)

    def multiply():
      def tile(unit, step):
        i, part, rank = place(unit)
        target, begin, end = ranked_ref[0, rank], ranked_ref[1, rank], ranked_ref[2, rank]
        steps = (end - begin) * (b_k // tile_k)

        def accumulate(sums):
          def product(at, step):
            slot = lax.rem(step, stages)
            plgpu.barrier_wait(full.at[slot])
            right = blocks_smem.at[slot]
            plgpu.wgmma(sums, x_smem.at[slot, pl.ds(worker * tile_m, tile_m)],
                        right.T if turned else right)
            ring.release_previous(at, step, stages, empty)
            return step + 1
          following = lax.fori_loop(0, steps, product, step)
          return sums[...], following
        sums, step = pl.run_scoped(accumulate, plgpu.ACC((tile_m, tile_n), jnp.float32))
        ring.release_last(steps, step, stages, empty)

        def finish(values, column):
          at = pl.ds(target * b_n + part * tile_n + column, store_n)
          vectors = [lax.broadcast_in_dim(ring.read(ref, at, simulator), values.shape, (1,))
                     for ref in extra_refs]
          if bias is not None:
            values = values + vectors[0]
          values = activation(values)
          return values if output_gate is None else values * vectors[-1]
        ring.store(sums, finish, y_smem, worker, y_ref, i * rows + worker * tile_m,
               target * b_n + part * tile_n)
        return step
      ring.for_each_unit(units, programs, tile)
      plgpu.wait_smem_to_gmem(0)

    ring.specialise(worker, workers, load, multiply)

  y = ring.kernel(
      body, jax.ShapeDtypeStruct((x.shape[0], targets * b_n), out_dtype), programs, workers,
      [ring.shared((stages, rows, tile_k), x.dtype),
       ring.shared((stages, *((tile_n, tile_k) if turned else (tile_k, tile_n))), x.dtype),
       ring.shared((workers, hopper.STORE_SLOTS, hopper.STORE_ROWS, store_n), out_dtype),
       plgpu.Barrier(num_arrivals=2, num_barriers=stages),
       plgpu.Barrier(num_arrivals=workers, num_barriers=stages)], simulator,
  )(x, blocks.reshape(-1, blocks.shape[-1]), source, *([order] if turned else []), ranked, *extras)
  return y[:m]


def weight_gradient(x: Array, g: Array, layout: Layout, problem: Problem,
                    config: Config | None = None) -> Array:
  """See `Backend.weight_gradient`; what it leaves at padding was never written."""
  config = _checked('weight_gradient', config, problem)
  return _weight_gradient(x, g, layout.row, layout.ptr, problem, config, ring.simulator())


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _weight_gradient(x: Array, g: Array, row: Array, ptr: Array, problem: Problem, config: Config,
                     simulator: Any) -> Array:
  b_in, b_out = problem.block
  tile_k, stages, workers, stacked = (config.tile_k, config.stages, config.warpgroups,
                                      config.tile_m)
  tall, wide = hopper.tile_of(b_in), hopper.tile_of(b_out)
  down, across = b_in // tall, b_out // wide
  x, g = _padded_rows(x, tile_k), _padded_rows(g, tile_k)
  steps = x.shape[0] // tile_k
  split = min(config.split, steps)
  groups, counts = _groups(ptr, problem, workers * stacked)
  most = groups.shape[1] * down * across * split
  programs = min(hopper.multiprocessors(problem.device_kind), most)
  n = problem.entries

  def body(x_ref, g_ref, row_ref, groups_ref, count_ref, out_ref, x_smem, g_smem, out_smem, full,
           empty):
    worker = lax.axis_index('warpgroup')
    count = count_ref[0]
    units = count * (down * across * split)

    def place(unit):
      """Parts of the block, the steps over the rows, and the entries of one unit of work."""
      index, rest = lax.rem(unit, count), unit // count
      cut = rest // (down * across)
      begin, end = cut * steps // split, (cut + 1) * steps // split
      column, first, last = groups_ref[0, index], groups_ref[1, index], groups_ref[2, index]
      return (lax.rem(rest // across, down), lax.rem(rest, across), cut, begin, end,
              column, first, last)

    def load():
      def tile(unit, step):
        part_in, part_out, _, begin, end, column, first, last = place(unit)
        origins = [row_ref[jnp.minimum(first + e, last)] * b_in + part_in * tall
                   for e in range(workers * stacked)]

        def rows(at, step):
          slot = ring.free_slot(step, stages, empty)
          here = pl.ds(at * tile_k, tile_k)
          for e, origin in enumerate(origins):
            plgpu.copy_gmem_to_smem(x_ref.at[here, pl.ds(origin, tall)], x_smem.at[slot, e],
                                    full.at[slot])
          plgpu.copy_gmem_to_smem(g_ref.at[here, pl.ds(column * b_out + part_out * wide, wide)],
                                  g_smem.at[slot], full.at[slot])
          return step + 1
        return lax.fori_loop(begin, end, rows, step)
      ring.drain(ring.for_each_unit(units, programs, tile), stages, empty)

    def multiply():
      def tile(unit, step):
        part_in, part_out, cut, begin, end, _, first, last = place(unit)

        def accumulate(*sums):
          def product(at, step):
            slot = lax.rem(step, stages)
            plgpu.barrier_wait(full.at[slot])
            for e in range(stacked):
              plgpu.wgmma(sums[e], x_smem.at[slot, worker * stacked + e].T, g_smem.at[slot])
            ring.release_previous(at - begin, step, stages, empty, stacked)
            return step + 1
          following = lax.fori_loop(begin, end, product, step)
          return [s[...] for s in sums], following
        sums, step = pl.run_scoped(accumulate,
                                   *[plgpu.ACC((tall, wide), jnp.float32)] * stacked)
        ring.release_last(end - begin, step, stages, empty)
        for e in range(stacked):
          entry = first + worker * stacked + e

          @pl.when(entry <= last)           # the last entries of a column may not fill a group
          def _(e=e, entry=entry):
            ring.store(sums[e], lambda values, column: values, out_smem, worker, out_ref,
                   (cut * n + entry) * b_in + part_in * tall, part_out * wide)
        return step
      ring.for_each_unit(units, programs, tile)
      plgpu.wait_smem_to_gmem(0)

    ring.specialise(worker, workers, load, multiply)

  out = ring.kernel(
      body, jax.ShapeDtypeStruct((split * n * b_in, b_out), jnp.float32), programs, workers,
      [ring.shared((stages, workers * stacked, tile_k, tall), x.dtype),
       ring.shared((stages, tile_k, wide), g.dtype),
       ring.shared((workers, hopper.STORE_SLOTS, hopper.STORE_ROWS,
                    ring.store_columns(jnp.float32)), jnp.float32),
       plgpu.Barrier(num_arrivals=workers * stacked + 1, num_barriers=stages),
       plgpu.Barrier(num_arrivals=workers, num_barriers=stages)], simulator,
  )(x, g, row, groups, counts)
  out = out.reshape(split, n, b_in, b_out)
  return out[0] if split == 1 else out.sum(axis=0)


def refuses(problem: Problem) -> str | None:
  """See `Backend.refuses`."""
  instead = "or use implementation='xla'"
  if problem.platform != 'gpu':
    return (f'its kernels are for NVIDIA Hopper GPUs and this is {problem.platform}; '
            f"use None or implementation='xla'")
  if not any(name in problem.device_kind for name in hopper.HOPPER):
    seen = repr(problem.device_kind) if problem.device_kind else 'not named'
    return (f'the GPU is {seen}; wgmma exists on Hopper alone ({", ".join(hopper.HOPPER)}): name '
            f'such a device {instead}')
  if problem.dtype not in DTYPES:
    return (f'x is {problem.dtype}; wgmma multiplies {" or ".join(DTYPES)} here: cast x and the '
            f'blocks to bfloat16, {instead}')
  ragged = [side for side in problem.block if side % hopper.SIDE]
  if ragged:
    return (f'blocks of {problem.block[0]} x {problem.block[1]} do not consist of tiles of '
            f'{hopper.SIDE} x {hopper.SIDE}: merge them beforehand, weight.merge({hopper.SIDE}), '
            f'{instead}')
  return None


BACKEND = Backend(matmul, transposed, weight_gradient, refuses)


def _checked(operation: str, config: Config | None, problem: Problem) -> Config:
  config = config or hopper.config_for(operation, problem)
  why = hopper.why_not(operation, config, problem)
  if why is not None:
    raise ValueError(f'{config} cannot run the {operation} of blocks of {problem.block[0]} x '
                     f'{problem.block[1]}: {why}')
  return config


def _activation(name: str | None) -> Callable[[Array], Array]:
  # jax.nn.relu carries a derivative of its own, which some releases of Mosaic GPU do not lower.
  return (lambda z: jnp.maximum(z, 0.)) if name == 'relu' else ACTIVATIONS[name]


def _padded_rows(x: Array, multiple: int) -> Array:
  short = -x.shape[0] % multiple
  return jnp.pad(x, ((0, short), (0, 0))) if short else x


def _ranked(ptr: Array, balanced: bool) -> Array:
  """Returns (3, targets) int32: targets by falling number of blocks, where each begins and ends."""
  counts = ptr[1:] - ptr[:-1]
  order = jnp.argsort(-counts, stable=True) if balanced else jnp.arange(len(counts))
  return jnp.stack([order.astype(jnp.int32), ptr[:-1][order], ptr[1:][order]])


def _groups(ptr: Array, problem: Problem, size: int) -> tuple[Array, Array]:
  """Cuts the entries of each column into groups of at most `size`.

  Returns (3, most) int32, column, first and last entry of each group, and their number (1,).
  """
  columns = problem.grid[1]
  most = (problem.entries + (size - 1) * columns) // size
  ends = jnp.cumsum((ptr[1:] - ptr[:-1] + (size - 1)) // size)
  index = jnp.arange(most)
  column = jnp.minimum((ends[None, :] <= index[:, None]).sum(axis=1), columns - 1)
  begin = jnp.where(column > 0, ends[column - 1], 0)
  first = ptr[column] + size * (index - begin)
  groups = jnp.stack([column, first, ptr[column + 1] - 1]).astype(jnp.int32)
  return groups, ends[-1:].astype(jnp.int32)
