"""What the Hopper kernels share: a ring of stages in shared memory inside a persistent grid.

One warpgroup of a thread block loads into free slots of the ring, the others multiply what is
there. `full` tells that a slot's loads have arrived, `empty` that all have multiplied it. Steps are
counted through all tiles of a thread block, so that loads run ahead from one tile into the next.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from sparsejax.kernels.block_sparse import hopper

Array = jax.Array

# Here `load` takes the index apart, and the simulator knows no `load` at all.
OLD_LOAD = jax.__version_info__ < (0, 11)

_simulator = contextvars.ContextVar('parameters of the GPU simulator', default=None)


@contextlib.contextmanager
def simulated(params: Any) -> Iterator[None]:
  """Runs the kernels that are traced inside in JAX's GPU simulator, to test them without a GPU.

  Args:
    params: `jax.experimental.pallas.mosaic_gpu.InterpretGPUParams`.
  """
  token = _simulator.set(params)
  try:
    yield
  finally:
    _simulator.reset(token)


def simulator() -> Any:
  """Returns the parameters of the simulator that kernels run in; None for the device."""
  return _simulator.get()


def kernel(body: Callable, out_type: Any, programs: int, workers: int, scratch: list[Any],
           simulator: Any) -> Callable:
  """Returns a kernel of `programs` thread blocks of `workers` multiplying warpgroups and a loader.

  Args:
    body: (*inputs, output, *scratch), all references; axes 'multiprocessor' and 'warpgroup'.
  """
  return plgpu.kernel(
      body, out_type=out_type, scratch_types=scratch, grid=(programs,),
      grid_names=('multiprocessor',), num_threads=workers + 1, thread_name='warpgroup',
      interpret=simulator, compiler_params=plgpu.CompilerParams(
          lowering_semantics=plgpu.LoweringSemantics.Warpgroup))


def specialise(worker: Array, workers: int, load: Callable, multiply: Callable) -> None:
  """Runs `load` in the last warpgroup and `multiply` in the others; registers move to those."""
  share = min(256, (hopper.REGISTERS - hopper.PRODUCER_REGISTERS) // workers) // 8 * 8

  def loading():
    plgpu.set_max_registers(hopper.PRODUCER_REGISTERS, action='decrease')
    load()

  def multiplying():
    plgpu.set_max_registers(share, action='increase')
    multiply()
  lax.cond(worker == workers, loading, multiplying)


def for_each_unit(units: Array | int, programs: int, tile: Callable) -> Array:
  """Deals the units out, forwards and backwards in turn, and calls tile(unit, step) on each.

  Units come in falling order of work, so that who gets the largest of one round gets the smallest
  of the next. Returns the steps that were counted.
  """
  me = lax.axis_index('multiprocessor')

  def unit_of(turn):
    return turn * programs + jnp.where(lax.rem(turn, 2) == 0, me, programs - 1 - me)
  turns = jnp.int32(units) // programs
  turns += (unit_of(turns) < units).astype(jnp.int32)
  return lax.fori_loop(0, turns, lambda turn, step: tile(unit_of(turn), step), jnp.int32(0))


def free_slot(step: Array, stages: int, empty: Any) -> Array:
  """Returns the slot of a step once what it held was multiplied."""
  slot = lax.rem(step, stages)

  @pl.when(step >= stages)
  def _():
    plgpu.barrier_wait(empty.at[slot])
  return slot


def drain(steps: Array, stages: int, empty: Any) -> None:
  """Sees the last slots freed, so that no barrier is left half-way."""
  def wait(step, carry):
    plgpu.barrier_wait(empty.at[lax.rem(step, stages)])
    return carry
  lax.fori_loop(jnp.maximum(steps - stages, 0), steps, wait, jnp.int32(0))


def release_previous(at: Array, step: Array, stages: int, empty: Any, products: int = 1) -> None:
  """Frees the slot before this one: with this step's products in flight, the earlier are done."""
  plgpu.wgmma_wait(products)

  @pl.when(at > 0)
  def _():
    plgpu.barrier_arrive(empty.at[lax.rem(step + (stages - 1), stages)])


def release_last(steps: Array, step: Array, stages: int, empty: Any) -> None:
  """Frees the last slot of a tile of `steps` steps, once its sums have been read."""
  @pl.when(steps > 0)
  def _():
    plgpu.barrier_arrive(empty.at[lax.rem(step + (stages - 1), stages)])


def store(values: Array, finish: Callable, smem: Any, worker: Array, out: Any, row: Array,
          column: Array) -> None:
  """Writes a tile of sums through shared memory, piece by piece, two pieces on their way.

  Args:
    finish: (values of a piece, its first column in the tile) -> what is stored.
    smem: (workers, slots, rows, columns) of a piece. row, column: where the tile begins in `out`.
  """
  height, width = smem.shape[-2:]
  pieces = [(i, j) for i in range(0, values.shape[0], height)
            for j in range(0, values.shape[1], width)]
  for count, (i, j) in enumerate(pieces):
    slot = count % hopper.STORE_SLOTS
    # The tile before may have ended on this very slot.
    plgpu.wait_smem_to_gmem(hopper.STORE_SLOTS - 1 if count else 0, wait_read_only=True)
    smem[worker, slot] = finish(values[i:i + height, j:j + width], j).astype(smem.dtype)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(smem.at[worker, slot],
                            out.at[pl.ds(row + i, height), pl.ds(column + j, width)])


def read(ref: Any, index: Any, simulator: Any) -> Array:
  """Loads part of a vector from device memory into whatever registers its use asks for."""
  load: Any = plgpu.load
  if not OLD_LOAD:
    return load(ref.at[index], optimized=False)
  if simulator is not None:
    return ref[index]
  return load(ref, (index,), optimized=False)


def store_columns(dtype: Any) -> int:
  """Returns the width of a piece on its way out, a swizzled row."""
  return hopper.SWIZZLE_BYTES // jnp.dtype(dtype).itemsize


def shared(shape: tuple[int, ...], dtype: Any) -> Any:
  """Returns shared memory in the layout that wgmma and TMA read without bank conflicts."""
  tiling = plgpu.TilingTransform((8, store_columns(dtype)))
  swizzle = plgpu.SwizzleTransform(hopper.SWIZZLE_BYTES)
  return plgpu.SMEM(shape, dtype, transforms=(tiling, swizzle))
