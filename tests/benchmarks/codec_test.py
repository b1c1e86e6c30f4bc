"""The benchmark of containers: bytes against the bound, and that it runs as a command."""
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import codec as benchmark


def test_a_pruned_layer_is_within_two_percent_of_its_bound(tmp_path):
  arrays = {'w': benchmark.shared(np.random.default_rng(0), (500, 400), 0.08, 32)}
  row = benchmark.measure('case', arrays, tmp_path, 1)
  assert benchmark.verdicts(row)['bytes']
  assert row['bytes_streams'] < row['bytes_zstd'] and row['bytes_streams'] < row['bytes_scipy_npz']
  assert row['bytes_float32'] == 4 * row['entries'] == 800_000


def test_verdicts_follow_the_goals():
  row = {'over_bound': 1.03, 'encode_megabytes_per_second': 19.0, 'encode_memory': 1.0,
         'decode_megabytes_per_second': 80.0, 'decode_memory': 3.5}
  assert benchmark.verdicts(row) == {'bytes': False, 'speed': False, 'memory': False}
  row |= {'over_bound': 1.0, 'encode_megabytes_per_second': 21.0, 'decode_memory': 2.0}
  assert all(benchmark.verdicts(row).values())


@pytest.mark.slow
def test_it_runs_as_a_command(tmp_path):
  """Slow: a process of its own, which imports JAX."""
  done = subprocess.run([sys.executable, '-m', 'benchmarks.codec', '--quick',
                         f'--results={tmp_path / "rows.jsonl"}'], capture_output=True, text=True,
                        timeout=300, check=True)
  assert 'dense floats' in done.stdout and not (tmp_path / 'rows.jsonl').exists()
