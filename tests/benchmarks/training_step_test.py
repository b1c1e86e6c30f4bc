import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks import training_step

ROOT = pathlib.Path(training_step.__file__).resolve().parents[1]


def run(*flags):
  return subprocess.run([sys.executable, '-m', 'benchmarks.training_step', *flags], cwd=ROOT,
                        env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True,
                        timeout=120)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, 'sched_setaffinity'), reason='binds the process to one core')
def test_quick_run_prints_the_targets_and_appends_rows(tmp_path):
  path = tmp_path / 'rows.jsonl'
  done = run('--quick', '--threads=1', '--networks=lenet_300_100', '--methods=dense,l0',
             '--torch=off', '--batch_size=8', f'--results={path}')
  assert done.returncode == 0, done.stderr
  for part in ('PyTorch: left out by --torch=off', '<= 1.25', 'its numbers mean nothing'):
    assert part in done.stdout
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert [(row['kind'], row['method']) for row in rows] == [
      ('milliseconds_per_step', 'dense'), ('milliseconds_per_step', 'l0'), ('ratio', 'l0')]
  for row in rows:
    assert row['threads'] == 1 and row['quick'] and row['batch_size'] == 8
    assert row['low'] <= row['median'] <= row['high']
    assert {'device', 'jax_version', 'torch_version', 'commit', 'date'} <= set(row)


def test_an_unknown_method_is_named():
  done = run('--methods=dense,l1')
  assert done.returncode == 1
  assert 'error: --methods=dense,l1: choose from dense, l0, vd' in done.stderr


@pytest.mark.skipif(not hasattr(os, 'sched_setaffinity'), reason='needs affinity masks')
def test_more_threads_than_cores_raise():
  with pytest.raises(ValueError, match='--threads=100000'):
    training_step.restrict_threads(100_000)
  assert training_step.restrict_threads(0) == len(os.sched_getaffinity(0))


def test_without_torch_its_rows_are_left_out_and_it_says_so(monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)  # import torch then raises ModuleNotFoundError
  kinds, line = training_step.torch_kinds('auto', 1, 'cpu')
  assert kinds == {} and 'not installed' in line and 'sparsejax[bench]' in line
  with pytest.raises(ValueError, match='--torch=compiled'):
    training_step.torch_kinds('compiled', 1, 'cpu')
