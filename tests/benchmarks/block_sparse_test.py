"""The block-sparse benchmark on tiny cells: what is timed is right, whatever its time."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from benchmarks import block_sparse_cells, block_sparse_costs, block_sparse_report
from benchmarks.block_sparse_cells import Cell
from sparsejax.kernels.block_sparse import cost

CELL = Cell(8, 256, 256, 128, 0.5)


@pytest.fixture(scope='module')
def rows():
  found = block_sparse_cells.time_cell(CELL, rounds=6, others=True)
  return [{**row, 'device': 'made up', 'threads': 1, 'jax_version': '0'} for row in found]


@pytest.mark.slow
def test_a_row_for_each_product_and_contender(rows):
  contenders = {(row['product'], row['contender']) for row in rows}
  assert {('forward', name) for name in ('ours', 'mask', 'BCSR', 'BCOO', 'SciPy CSR',
                                         'SciPy BSR')} <= contenders
  assert {('training', 'ours'), ('training', 'mask')} <= contenders
  for row in rows:
    assert row['density'] == 0.5 and row['block'] == 128
    assert row['low'] <= row['speedup'] <= row['high']
    assert row['efficiency'] == row['speedup'] * 0.5


@pytest.mark.slow
def test_tables_and_plot(rows, tmp_path):
  console = Console(file=io.StringIO(), width=200)
  for table in block_sparse_report.tables(rows):
    console.print(table)
  text = console.file.getvalue()
  assert '8x256x256, forward' in text and '8x256x256, training' in text and 'BCSR' in text
  assert '8x256x256, block 128, 50 % zero' in block_sparse_report.line(rows)
  block_sparse_report.plot(rows, tmp_path / 'plot.png')
  assert (tmp_path / 'plot.png').stat().st_size > 1000


def test_the_gradients_that_are_timed_are_those_of_the_product():
  x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)), jnp.float32)
  weight = {'w': x.T, 'index': jnp.arange(3)}
  y, (x_grad, (w_grad,)) = block_sparse_cells._both(
      lambda x, weight: x @ weight['w'][:, weight['index']], x, weight, jnp.ones((3, 3)))
  np.testing.assert_allclose(y, x @ x.T, rtol=1e-6)
  np.testing.assert_allclose(x_grad, jnp.ones((3, 3)) @ x, rtol=1e-6)
  np.testing.assert_allclose(w_grad, x.T @ jnp.ones((3, 3)), rtol=1e-6)


@pytest.mark.slow
def test_a_cost_table_is_measured_whole(monkeypatch):
  monkeypatch.setattr(block_sparse_costs, 'SIDE', 128)
  monkeypatch.setattr(block_sparse_costs, '_microseconds',
                      lambda functions, rounds: {name: call() or 7.0
                                                 for name, call in functions.items()})
  measured = block_sparse_costs.sparse_costs(16, 4, 6)
  wanted = {(operation, form) for operation in cost.OPERATIONS
            for form in block_sparse_costs.forms_of(operation)}
  assert set(measured) == wanted
  # The same time at both densities: all of it is fixed, but for the least slope there is.
  assert measured['matmul', 'scan'] == pytest.approx((7.0, 0.001), abs=0.01)
  assert set(block_sparse_costs.dense_costs(64, 4, 6)) == set(cost.OPERATIONS)
