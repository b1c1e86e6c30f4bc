"""The recurrent benchmark on tiny networks: what is timed is right, whatever its time."""

import io
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from rich.console import Console

import sparsejax
from benchmarks import recurrent_cells as cells
from benchmarks import recurrent_report

STEPS, TOKENS = cells.QUICK_STEPS[0], cells.QUICK_TOKENS[0]
ROOT = pathlib.Path(cells.__file__).resolve().parents[1]


@pytest.mark.slow
def test_drawn_steps_draw_every_matrix_and_learn():
  made = cells.recipe(STEPS, 'vd')
  steps = cells.TrainingSteps(STEPS, 'vd', 3)
  assert sorted(steps.state.params) == ['cells', 'free', 'head']
  free = jax.tree.leaves(steps.state.params['free'])
  assert free and all(leaf.ndim == 1 for leaf in free)
  a, b = (made.regulariser.weights(steps.state.params, steps.state.method_state, jax.random.key(i))
          for i in range(2))
  assert not np.array_equal(a['cell0']['hf']['kernel'], b['cell0']['hf']['kernel'])
  steps()
  first = steps.losses[0]
  for _ in range(20):
    steps()
  assert steps.losses.shape == (3,) and steps.losses[-1] < first


@pytest.mark.slow
def test_deployed_networks_are_what_they_are_called():
  weights = TOKENS.model().init(jax.random.key(1), TOKENS.tokens())['params']
  masked = cells.without_blocks(weights, 16)
  assert np.mean(np.asarray(masked['cell0']['hr']['kernel']) != 0) <= 0.125 + 1e-9  # 2 of 16 blocks
  np.testing.assert_array_equal(masked['cell0']['ir']['kernel'], weights['cell0']['ir']['kernel'])
  small = cells.without_units(TOKENS, weights, 2)
  assert np.mean(np.any(small['cell0']['hn']['kernel'], axis=0)) == 0.5
  # What is left alone is a smaller network of the same function, which compact finds.
  compacted = cells.compact(TOKENS.model(), {'params': small})
  assert compacted.model.widths == (32,)
  np.testing.assert_allclose(
      compacted.model.apply(compacted.variables, TOKENS.tokens()),
      sparsejax.apply(TOKENS.model(), {'params': small}, TOKENS.tokens()), atol=1e-5)


def test_rows_and_table_of_the_memory(monkeypatch):
  assert cells.bytes_per_step((1, 2, 4), [110, 120, 140]) == pytest.approx(10)
  # Compiling for each length is what the slow test below does.
  monkeypatch.setattr(cells, 'scratch_bytes', lambda setting, method, length: (
      100 + 10 * length if method == 'dense' else 300 + 11 * length))
  rows = recurrent_report.measure_memory(STEPS, (8, 16))
  assert [row['kind'] for row in rows] == 2 * [*2 * ['scratch_bytes'],
                                               'scratch_bytes_per_time_step'] + ['slope_ratio']
  assert rows[-1]['median'] == pytest.approx(1.1) and rows[-1]['verdict'] == 'missed'
  console = Console(file=io.StringIO(), width=120)
  console.print(recurrent_report.table(rows))
  assert 'slope / dense' in console.file.getvalue() and '<= 1.05: missed' in console.file.getvalue()


@pytest.mark.slow                      # compiles a dozen programs with all optimisations
def test_quick_run_appends_rows(tmp_path):
  path = tmp_path / 'rows.jsonl'
  done = subprocess.run(
      [sys.executable, '-m', 'benchmarks.recurrent', '--quick', f'--results={path}'], cwd=ROOT,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True, timeout=600)
  assert done.returncode == 0, done.stderr
  assert 'its numbers mean nothing' in done.stdout and '<= 1.25' in done.stdout
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert {row['kind'] for row in rows} == {
      'milliseconds_per_step', 'ratio', 'milliseconds_per_token', 'speedup', 'scratch_bytes',
      'scratch_bytes_per_time_step', 'slope_ratio'}
  for row in rows:
    assert row['quick'] and {'device', 'jax_version', 'commit', 'date', 'load_before'} <= set(row)


@pytest.mark.slow
def test_an_unknown_part_is_named():
  done = subprocess.run([sys.executable, '-m', 'benchmarks.recurrent', '--parts=speed'], cwd=ROOT,
                        env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True,
                        timeout=120)
  assert done.returncode == 1
  assert 'error: --parts=speed: choose from steps, tokens, memory' in done.stderr
