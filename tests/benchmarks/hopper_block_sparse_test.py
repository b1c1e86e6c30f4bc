import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver

from benchmarks import hopper_block_sparse, hopper_cells, hopper_checks, hopper_limits
from benchmarks.hopper_cells import Cell
from sparsejax.kernels.block_sparse import hopper
from sparsejax.kernels.block_sparse.cost import OPERATIONS

ROOT = pathlib.Path(hopper_block_sparse.__file__).resolve().parents[1]
KIND = 'NVIDIA H100 80GB HBM3'
SMALL = Cell(32, 256, 32, 0.3)


def run(*flags):
  return subprocess.run([sys.executable, '-m', 'benchmarks.hopper_block_sparse', *flags], cwd=ROOT,
                        env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True,
                        timeout=300)


def test_without_a_gpu_nothing_is_measured(tmp_path):
  done = run('--stage=frontier', f'--out={tmp_path / "rows.jsonl"}')
  assert done.returncode == 1 and 'error: JAX runs on cpu' in done.stderr
  assert '--dry_run' in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.slow     # two problems of each kind, each traced and lowered
@pytest.mark.parametrize('stage', ['check_and_tune', 'frontier'])
def test_a_dry_run_compiles_for_an_h100(stage, tmp_path):
  done = run(f'--stage={stage}', '--dry_run', '--limit=1', f'--out={tmp_path / "rows.jsonl"}')
  assert done.returncode == 0, done.stderr
  assert f'compile for {KIND}; nothing was measured' in done.stdout
  assert not list(tmp_path.iterdir())


def test_every_cell_that_was_asked_for_is_timed_goals_first():
  assert len(set(hopper_cells.CELLS)) == 3 * 2 * 3 * 4
  goals = [cell.goal for cell in hopper_cells.CELLS]
  assert goals == sorted(goals, reverse=True) and sum(goals) == 2 * 2 * 2 * 2


@pytest.mark.slow
def test_merged_blocks_keep_their_inner_zeros():
  weight = hopper_cells.weight_of(SMALL)
  assert weight.block_size == (64, 64)
  fine = np.kron(hopper_cells.pattern(SMALL), np.ones((32, 32)))
  np.testing.assert_array_equal(np.asarray(weight.to_dense(), np.float32), fine)
  drawn = hopper_cells.operands(SMALL, weight, jax.random.key(0))
  np.testing.assert_array_equal(np.asarray(drawn.blocks) == 0, np.asarray(weight.blocks) == 0)


@pytest.mark.slow
def test_work_is_counted_by_hand():
  cell = Cell(2048, 4096, 128, 0.25)           # 256 of 32 x 32 blocks
  flops, moved = hopper_cells.flops_and_bytes(cell, hopper_cells.weight_of(cell), 'forward')
  assert flops == 2 * 2048 * 256 * 128**2
  assert moved == 2 * (2 * 2048 * 4096 + 256 * 128**2)
  three = hopper_cells.flops_and_bytes(cell, hopper_cells.weight_of(cell), 'training')
  assert three == (3 * flops, 3 * moved)


def test_the_roofline_is_the_slowest_of_its_three():
  limits = {'flops_per_second': 100.0, 'bytes_per_second': 10.0, 'launch_seconds': 1.0}
  assert hopper_limits.roofline(limits, 1000.0, 10.0, 3) == 10.0
  assert hopper_limits.roofline(limits, 100.0, 200.0, 3) == 20.0
  assert hopper_limits.roofline(limits, 100.0, 10.0, 3) == 3.0


@pytest.mark.slow
def test_all_candidates_fit():
  for operation, cell in list(hopper_cells.tuned_cells())[:6]:
    problem = hopper_cells.problem_of(cell, hopper_cells.weight_of(cell), KIND)
    configs = hopper_cells.candidates(operation, problem)
    assert configs[0] == hopper.heuristic(operation, problem) and len(set(configs)) == len(configs)
    assert len(configs) > 4
    for config in configs:
      assert hopper.why_not(operation, config, problem) is None
  assert {operation for operation, _ in hopper_cells.tuned_cells()} == set(OPERATIONS)


@pytest.mark.slow
@pytest.mark.parametrize('number', [3, 6])
def test_a_check_passes_the_dense_product_and_fails_a_wrong_one(number, monkeypatch):
  monkeypatch.setattr(hopper_checks, 'IMPLEMENTATION', 'dense')
  monkeypatch.setattr(hopper_checks, 'POISON_BYTES', 4096)
  check = hopper_checks.CHECKS[number]
  check = check._replace(spec=check.spec._replace(m=40, inputs=256, outputs=256))
  assert hopper_checks.check(check)['good']
  right = hopper_checks.reference

  def swapped(spec, args):       # as if one output tile had been written to another's place
    value, *grads = right(spec, args)
    return [np.roll(value, 64, axis=1), *grads]
  monkeypatch.setattr(hopper_checks, 'reference', swapped)
  assert not hopper_checks.check(check)['good']


def test_what_is_not_finite_is_infinitely_wrong():
  found, wanted = np.array([1.0, np.nan]), np.ones(2)
  assert hopper_checks._relative(found, wanted) == float('inf')
  assert hopper_checks._relative(wanted, wanted) == 0


@pytest.mark.slow     # compiles two networks, dense and sparse
@pytest.mark.parametrize('make', [hopper_cells.mlp_step, hopper_cells.lstm_step])
def test_whole_steps_train_dense_and_sparse(make):
  sizes = {'batch': 8, 'width': 128, 'block': 64, 'density': 0.5}
  if make is hopper_cells.lstm_step:
    sizes |= {'length': 3, 'symbols': 16}
  for sparse in (False, True):
    step = make(sparse, **sizes)
    before, after = (jax.tree.leaves(state) for state in (step.state, step.run(step.state)))
    changed = [bool(jnp.any(a != b)) for a, b in zip(before, after)]
    assert any(changed) and all(np.isfinite(np.asarray(a, np.float32)).all() for a in after)


def test_rows_of_this_commit_and_device_are_not_measured_again(tmp_path):
  path = tmp_path / 'rows.jsonl'
  same = {'commit': 'c', 'device': 'd', 'tables': False}
  rows = [{**same, 'kind': 'step', 'name': 'a'},
          {**same, 'commit': 'b', 'kind': 'step', 'name': 'e'}]
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  found = hopper_block_sparse.Run(same, path)
  assert found.find(kind='step', name='a') and found.find(name='e') is None
  found.add(kind='step', name='f', speedup=2.0)
  assert json.loads(path.read_text().splitlines()[-1]) == {**same, 'kind': 'step', 'name': 'f',
                                                           'speedup': 2.0}


@pytest.fixture
def small_on_this_machine(monkeypatch, tmp_path):
  """Both stages cut down to tiny cells on XLA, so that every line of them runs once."""
  tiny = Cell(2048, 128, 64, 0.2)
  assert tiny.goal
  monkeypatch.setattr(hopper_cells, 'IMPLEMENTATION', 'xla')
  monkeypatch.setattr(hopper_cells, 'CELLS', [tiny, tiny._replace(m=8, block=32)])
  monkeypatch.setattr(hopper_cells, 'COPIES', (2, 2))
  monkeypatch.setattr(hopper_cells, 'tuned_cells', lambda: [('matmul', tiny)])
  monkeypatch.setattr(hopper_cells, 'with_config',
                      lambda operation, weight, problem, config: lambda o: o.x @ o.weight)
  for name, sizes in (('mlp_step', {}), ('lstm_step', {'length': 2, 'symbols': 8})):
    make = functools.partial(getattr(hopper_cells, name), batch=8, width=128, block=64,
                             density=0.5, **sizes)
    make.__name__ = name
    monkeypatch.setattr(hopper_cells, name, make)
  for name, value in (('SIDE', 256), ('COPIED', 2**20), ('LAUNCHES', 4)):
    monkeypatch.setattr(hopper_limits, name, value)
  monkeypatch.setattr(hopper_checks, 'IMPLEMENTATION', 'dense')
  monkeypatch.setattr(hopper_checks, 'POISON_BYTES', 4096)
  setting = {'commit': 'c', 'device': 'tiny', 'tables': False}
  with flagsaver.flagsaver():
    hopper_block_sparse.flags.FLAGS(['', '--stage=frontier', '--samples=6', '--limit=2'])
    yield lambda: hopper_block_sparse.Run(setting, tmp_path / 'rows.jsonl')


@pytest.mark.slow     # compiles some twenty programs
def test_the_frontier_runs_through_and_is_continued(small_on_this_machine):
  run = small_on_this_machine()
  hopper_block_sparse.frontier(run)
  kinds = [row['kind'] for row in run.rows]
  assert kinds == ['limits', 'product', 'product', 'step', 'step', 'product', 'product']
  for row in run.rows:
    if row['kind'] == 'product':
      assert row['low'] <= row['speedup'] <= row['high'] and row['share_of_roofline'] > 0
      assert row['efficiency'] == pytest.approx(row['speedup'] * row['density'])
  again = small_on_this_machine()
  hopper_block_sparse.frontier(again)
  assert len(again.rows) == len(run.rows)


@pytest.mark.slow     # compiles a dozen programs
def test_checks_and_tiles_run_through_and_leave_a_table(small_on_this_machine, monkeypatch):
  run = small_on_this_machine()
  assert hopper_block_sparse.check(run)
  hopper_block_sparse.tune(run, KIND)
  table = hopper.from_json((run.path.parent / hopper.table_name(KIND)).read_text())
  assert list(table) == [('matmul', (64, 64), 2048)]
  assert [row['kind'] for row in run.rows] == ['check', 'check', 'tiles']
