"""What one product costs in one form: the measurements behind a cost table, see `cost.py`."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import interleaved
from sparsejax.kernels.block_sparse import BlockSparse, cost, dense, xla
from sparsejax.kernels.block_sparse.backend import Epilogue, Problem

SIDE = 1024
BLOCKS = (8, 16, 32, 64, 128)
ROWS = (1, 8, 32, 128, 512, 2048)
DENSITIES = (0.05, 0.25)
WARM_BYTES = 4 * SIDE**2 * DENSITIES[1]
# Where the blocks are read from memory and reading them is what takes the time.
COLD_SIDE, COLD_ROWS, COLD_DENSITIES = 4096, (1, 8, 32), (0.25, 0.5)
COLD_BYTES = 4 * COLD_SIDE**2 * COLD_DENSITIES[0]
SIDES = (64, 256, 1024, 4096)
LEAST_MILLISECONDS = 2.0      # of a sample
MIN_MICROSECONDS = 0.001      # a slope lost in noise must not be negative


def forms_of(operation: str) -> tuple[str, ...]:
  return {'matmul': xla.FORMS, 'transposed': xla.WALKS,
          'weight_gradient': xla.GRADIENT_FORMS}[operation]


def sparse_costs(block: int, rows: int, rounds: int) -> dict[tuple[str, str], tuple[float, float]]:
  """Returns {(operation, form): (fixed, per entry)} in microseconds, for blocks in the caches."""
  result = _costs(SIDE, block, rows, DENSITIES, rounds)
  for operation in cost.OPERATIONS:
    for form in forms_of(operation):
      # Never asked for at this size: see cost.xla_forms. The table is a full grid all the same.
      result.setdefault((operation, form), (1e9, 1e9))
  return result


def cold_costs(block: int, rows: int, rounds: int) -> dict[tuple[str, str], float]:
  """Returns {(operation, form): per entry} in microseconds, for blocks read from memory.

  Forms that are never asked for at that size are left out; so is everything for more rows than
  `COLD_ROWS`, where arithmetic takes the time.
  """
  if rows not in COLD_ROWS:
    return {}
  found = _costs(COLD_SIDE, block, rows, COLD_DENSITIES, rounds)
  return {key: slope for key, (_, slope) in found.items()}


def _costs(side, block, rows, densities, rounds):
  """Returns {(operation, form): (fixed, per entry)} from a matrix at two densities."""
  functions, entries = {}, {}
  for density in densities:
    problem, arrays = _problem(side, block, rows, density)
    # The unrolled form skips fillers.
    entries[density] = {form: problem.entries for form in xla.WALKS} | {
        'unroll': sum(map(len, problem.frozen or ()))}
    for operation in cost.OPERATIONS:
      for form in cost.xla_forms(operation, problem):
        functions[operation, form, density] = _call(getattr(xla, operation), operation, problem,
                                                    arrays, form=form)
  times = _microseconds(functions, rounds)
  low, high = densities
  result = {}
  for operation, form, density in times:
    if density != low:
      continue
    at_low = times[operation, form, low]
    # What is too large to gather at the higher density costs what it costs at the lower one.
    at_high = times.get((operation, form, high))
    if at_high is None:
      result[operation, form] = (MIN_MICROSECONDS, at_low / entries[low][form])
      continue
    slope = max((at_high - at_low) / (entries[high][form] - entries[low][form]), MIN_MICROSECONDS)
    constant = max(at_low - slope * entries[low][form], MIN_MICROSECONDS)
    result[operation, form] = (constant, slope)
  return result


def dense_costs(side: int, rows: int, rounds: int) -> dict[str, tuple[float, float]]:
  """Returns {operation: (dense weight, blocks scattered first)} in microseconds."""
  problem, arrays = _problem(side, 16, rows, 0.25)
  x, g, blocks, layout = arrays
  weight = dense.densified(blocks, layout, problem)
  functions = {}
  plain = {'matmul': (jnp.dot, (x, weight)),
           'transposed': (lambda g, w: jnp.dot(g, w.T), (g, weight)),
           'weight_gradient': (lambda x, g: jnp.dot(x.T, g), (x, g))}
  for operation, (function, operands) in plain.items():
    functions[operation, 'plain'] = functools.partial(_run, jax.jit(function), operands)
    functions[operation, 'densified'] = _call(getattr(dense, operation), operation, problem,
                                              arrays)
  times = _microseconds(functions, rounds)
  return {operation: (times[operation, 'plain'], times[operation, 'densified'])
          for operation in plain}


def _problem(side, block, rows, density):
  rng = np.random.default_rng(0)
  mask = np.zeros((side // block) ** 2, bool)
  mask[rng.permutation(mask.size)[:max(4, round(density * mask.size))]] = True
  mask = mask.reshape(side // block, -1)
  x, g = (jnp.asarray(rng.standard_normal((rows, side)), jnp.float32) for _ in range(2))
  weight = BlockSparse.from_dense(rng.standard_normal((side, side)).astype(np.float32), block,
                                  mask=mask).freeze()
  problem = Problem(rows, weight.block_size, weight.grid, weight.capacity, 'float32',
                    jax.default_backend(), frozen=weight.frozen)
  return problem, (x, g, weight.blocks, weight.layout)


def _call(function, operation, problem, arrays, **options):
  x, g, blocks, layout = arrays
  if operation == 'matmul':
    def compute(x, blocks, layout):
      return function(x, blocks, layout, problem, None, Epilogue(), jnp.float32, **options)
    operands = (x, blocks, layout)
  elif operation == 'transposed':
    def compute(g, blocks, layout):
      return function(g, blocks, layout, problem, jnp.float32, **options)
    operands = (g, blocks, layout)
  else:
    def compute(x, g, layout):
      return function(x, g, layout, problem, **options)
    operands = (x, g, layout)
  return functools.partial(_run, jax.jit(compute), operands)


def _run(function, operands):
  jax.block_until_ready(function(*operands))


def _microseconds(functions, rounds):
  """Returns the lower quartile of each: other work on the machine only ever adds time."""
  samples = interleaved(functions, rounds, pause=0, least=LEAST_MILLISECONDS)
  return {name: 1e3 * float(np.quantile(values, 0.25)) for name, values in samples.items()}
