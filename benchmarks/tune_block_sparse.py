"""Measures the cost table of this device, by which the block-sparse product chooses its form.

  python -m benchmarks.tune_block_sparse --out=sparsejax/kernels/block_sparse/tables/cpu.json

Some minutes on a quiet machine. For every product, form, block and number of rows, two densities of
a 1024 x 1024 matrix give a cost per entry and a fixed cost; for few rows, two of a 4096 x 4096
matrix give the cost of an entry that is read from memory. The dense product is timed at four sizes.
What the numbers mean: sparsejax/kernels/block_sparse/cost.py.
"""

from __future__ import annotations

import datetime
import time

from absl import app, flags

from benchmarks import block_sparse_costs as costs
from sparsejax import ledger
from sparsejax.codec.atomic import write_atomically
from sparsejax.kernels.block_sparse import cost

_OUT = flags.DEFINE_string('out', 'out/cost_table.json', 'File to write.')
_ROUNDS = flags.DEFINE_integer('rounds', 11, 'Timed calls of each.', lower_bound=6)


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
  started = time.perf_counter()
  fixed, per_entry, cold_per_entry = {}, {}, {}
  for operation in cost.OPERATIONS:
    for form in costs.forms_of(operation):
      for grid in (fixed, per_entry, cold_per_entry):
        grid[operation, form] = {}
  for block in costs.BLOCKS:
    for rows in costs.ROWS:
      for key, (constant, slope) in costs.sparse_costs(block, rows, _ROUNDS.value).items():
        fixed[key][block, rows], per_entry[key][block, rows] = constant, slope
        cold_per_entry[key][block, rows] = slope
      for key, slope in costs.cold_costs(block, rows, _ROUNDS.value).items():
        cold_per_entry[key][block, rows] = slope
      print(f'block {block}, {rows} rows: {time.perf_counter() - started:.0f} s', flush=True)
  plain, densified = ({operation: {} for operation in cost.OPERATIONS} for _ in range(2))
  for side in costs.SIDES:
    for rows in costs.ROWS:
      for operation, (alone, scattered) in costs.dense_costs(side, rows, _ROUNDS.value).items():
        plain[operation][side * side, rows] = alone
        densified[operation][side * side, rows] = scattered
    print(f'dense, {side} x {side}: {time.perf_counter() - started:.0f} s', flush=True)
  run = ledger.describe_run()
  table = cost.Table(run['device'], 2 * costs.SIDE, costs.WARM_BYTES, costs.COLD_BYTES, fixed,
                     per_entry, cold_per_entry, plain, densified)
  text = cost.to_json(table, commit=run['commit'], jax=run['jax_version'],
                      threads=run['threads'], rounds=_ROUNDS.value,
                      date=datetime.date.today().isoformat())
  write_atomically(_OUT.value, text.encode())
  print(f'{_OUT.value}: {len(text):,} bytes, {time.perf_counter() - started:.0f} s')


if __name__ == '__main__':
  app.run(main)
