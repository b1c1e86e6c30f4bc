"""Measures the cost table of this device, by which the block-sparse product chooses its form.

  python -m benchmarks.tune_block_sparse --out=sparsejax/kernels/block_sparse/tables/cpu.json

Some minutes on a quiet machine. For every product, form, block and number of rows, two densities of
a 1024 x 1024 matrix give a cost per entry and a fixed cost; the dense product is timed at four
sizes. What the numbers mean: sparsejax/kernels/block_sparse/cost.py.
"""

from __future__ import annotations

import datetime
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.timing import interleaved
from sparsejax import ledger
from sparsejax.codec.atomic import write_atomically
from sparsejax.kernels.block_sparse import cost, dense, xla
from sparsejax.kernels.block_sparse.backend import Epilogue, Problem
from sparsejax.kernels.block_sparse.layout import capacity_for, layout_of_mask

_OUT = flags.DEFINE_string('out', 'out/cost_table.json', 'File to write.')
_ROUNDS = flags.DEFINE_integer('rounds', 11, 'Timed calls of each.', lower_bound=6)

SIDE = 1024
BLOCKS = (8, 16, 32, 64, 128)
ROWS = (1, 8, 32, 128, 512, 2048)
DENSITIES = (0.05, 0.25)
SIDES = (64, 256, 1024, 4096)
LEAST_MILLISECONDS = 2.0      # of a sample
MIN_MICROSECONDS = 0.001      # a slope lost in noise must not be negative


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
  started = time.perf_counter()
  fixed, per_entry = {}, {}
  for operation in cost.OPERATIONS:
    for form in _forms(operation):
      fixed[operation, form], per_entry[operation, form] = {}, {}
  for block in BLOCKS:
    for rows in ROWS:
      for key, (constant, slope) in _sparse(block, rows).items():
        fixed[key][block, rows], per_entry[key][block, rows] = constant, slope
      print(f'block {block}, {rows} rows: {time.perf_counter() - started:.0f} s', flush=True)
  plain, densified = ({operation: {} for operation in cost.OPERATIONS} for _ in range(2))
  for side in SIDES:
    for rows in ROWS:
      for operation, (alone, scattered) in _dense(side, rows).items():
        plain[operation][side * side, rows] = alone
        densified[operation][side * side, rows] = scattered
    print(f'dense, {side} x {side}: {time.perf_counter() - started:.0f} s', flush=True)
  run = ledger.describe_run()
  table = cost.Table(run['device'], 2 * SIDE, fixed, per_entry, plain, densified)
  text = cost.to_json(table, commit=run['commit'], jax=run['jax_version'],
                      threads=run['threads'], rounds=_ROUNDS.value,
                      date=datetime.date.today().isoformat())
  write_atomically(_OUT.value, text.encode())
  print(f'{_OUT.value}: {len(text):,} bytes, {time.perf_counter() - started:.0f} s')


def _forms(operation: str) -> tuple[str, ...]:
  return {'matmul': xla.FORMS, 'transposed': xla.WALKS,
          'weight_gradient': xla.GRADIENT_FORMS}[operation]


def _sparse(block: int, rows: int) -> dict[tuple[str, str], tuple[float, float]]:
  """Returns {(operation, form): (fixed, per entry)} in microseconds."""
  functions, entries = {}, {}
  for density in DENSITIES:
    problem, arrays = _problem(SIDE, block, rows, density)
    # The unrolled form skips fillers.
    entries[density] = {form: problem.entries for form in xla.WALKS} | {
        'unroll': sum(map(len, problem.frozen or ()))}
    for operation in cost.OPERATIONS:
      for form in cost.xla_forms(operation, problem):
        functions[operation, form, density] = _call(getattr(xla, operation), operation, problem,
                                                    arrays, form=form)
  times = _microseconds(functions)
  low, high = DENSITIES
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
  for operation in cost.OPERATIONS:
    for form in _forms(operation):
      # Never asked for at this size: see cost.xla_forms. The table is a full grid all the same.
      result.setdefault((operation, form), (1e9, 1e9))
  return result


def _dense(side: int, rows: int) -> dict[str, tuple[float, float]]:
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
  times = _microseconds(functions)
  return {operation: (times[operation, 'plain'], times[operation, 'densified'])
          for operation in plain}


def _problem(side, block, rows, density):
  rng = np.random.default_rng(0)
  mask = np.zeros((side // block) ** 2, bool)
  mask[rng.permutation(mask.size)[:max(4, round(density * mask.size))]] = True
  mask = mask.reshape(side // block, -1)
  layout = layout_of_mask(mask, capacity_for(mask))
  entries = len(layout.row)
  x, g = (jnp.asarray(rng.standard_normal((rows, side)), jnp.float32) for _ in range(2))
  blocks = jnp.asarray(rng.standard_normal((entries, block, block)), jnp.float32)
  ptr, row = np.asarray(layout.ptr), np.asarray(layout.row)
  live = np.asarray(layout.live)
  frozen = tuple(tuple(map(int, row[start:end][live[start:end]]))
                 for start, end in zip(ptr, ptr[1:]))
  problem = Problem(rows, (block, block), mask.shape, entries, 'float32', jax.default_backend(),
                    frozen=frozen)
  return problem, (x, g, blocks, layout)


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


def _microseconds(functions):
  """Returns the lower quartile of each: other work on the machine only ever adds time."""
  samples = interleaved(functions, _ROUNDS.value, pause=0, least=LEAST_MILLISECONDS)
  return {name: 1e3 * float(np.quantile(values, 0.25)) for name, values in samples.items()}


if __name__ == '__main__':
  app.run(main)
