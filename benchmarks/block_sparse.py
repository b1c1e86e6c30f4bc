"""The block-sparse product against the dense one, and against what else a user could run.

  python -m benchmarks.block_sparse            the table of CPU cells, tens of minutes
  python -m benchmarks.block_sparse --quick    a few cells, a minute

For M x K x N, block and density: speed-up over `jnp.dot` in the same process (interleaved, median
with a 95 % interval) and efficiency, which is speed-up times density: 100 % means that the zeros
cost nothing. `ours` is what a user gets who calls `sparsejax.packing.pack` before inference: below
the crossing point the dense product. `training` is the product with both its gradients.
Rows go to benchmarks/results, with a plot beside them.
"""

from __future__ import annotations

import datetime
import os
import pathlib

from absl import flags

from benchmarks import command

_DEVICE = flags.DEFINE_enum('device', None, ('cpu', 'gpu', 'tpu'), 'Where to run; where JAX runs '
                            'by default.')
_QUICK = flags.DEFINE_bool('quick', False, 'Few cells, few rounds.')
_SHAPES = flags.DEFINE_list('shapes', [], 'Only these, such as 128x1024x1024.')
_OTHERS = flags.DEFINE_bool('others', True, 'Also time masks, BCOO, BCSR, SciPy and PyTorch.')
_ROUNDS = flags.DEFINE_integer('rounds', 15, 'Timed calls of each.', lower_bound=6)
_RESULTS = flags.DEFINE_string('results', 'benchmarks/results/block_sparse.jsonl',
                               'File the rows are appended to; empty for none.')


def measure() -> None:
  """Times what the flags name, prints tables and appends rows."""
  import jax
  from rich.console import Console

  from benchmarks import block_sparse_report, results
  from benchmarks.block_sparse_cells import CELLS, QUICK_CELLS, time_cell
  from sparsejax.ledger.provenance import describe_run

  if _DEVICE.value and jax.default_backend() != _DEVICE.value:
    raise ValueError(f'--device={_DEVICE.value}, but JAX runs on {jax.default_backend()} here; '
                     f'set JAX_PLATFORMS or install the JAX of that device')
  cells = QUICK_CELLS if _QUICK.value else CELLS
  known = sorted({cell.shape for cell in cells})
  unknown = [shape for shape in _SHAPES.value if shape not in known]
  if unknown:
    raise ValueError(f'--shapes={unknown[0]} is not timed; choose from {", ".join(known)}')
  cells = [cell for cell in cells if not _SHAPES.value or cell.shape in _SHAPES.value]
  console = Console()
  setting = {'benchmark': 'block_sparse', **describe_run(), 'rounds': _ROUNDS.value,
             'quick': _QUICK.value, 'date': datetime.date.today().isoformat()}
  rows = []
  for number, cell in enumerate(cells, 1):
    found = time_cell(cell, _ROUNDS.value, _OTHERS.value)
    setting['load_before'] = os.getloadavg()[0]
    rows += [{**setting, **row} for row in found]
    console.print(f'{number} of {len(cells)}: {block_sparse_report.line(found)}')
    if _RESULTS.value:
      results.append(_RESULTS.value, rows[-len(found):])
  for table in block_sparse_report.tables(rows):
    console.print(table)
  if _RESULTS.value:
    plot = pathlib.Path(_RESULTS.value).with_suffix('.png')
    block_sparse_report.plot(rows, plot)
    console.print(f'Rows appended to {_RESULTS.value}; plot in {plot}')


if __name__ == '__main__':
  command.run(measure)
