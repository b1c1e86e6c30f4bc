"""Which cores a benchmark of several processes takes; that it runs."""
import json
import os
import subprocess
import sys

import pytest

from benchmarks import data_parallel


def test_cores_are_different_and_allowed():
  allowed = sorted(os.sched_getaffinity(0))
  if len(allowed) >= 2:
    assert data_parallel.cores_of([]) == allowed[:2]
    assert data_parallel.cores_of([str(allowed[1]), str(allowed[0])]) == [allowed[1], allowed[0]]
  for given in ([str(allowed[0])], [str(allowed[0])] * 2, [str(allowed[0]), '100000']):
    with pytest.raises(ValueError, match='^--cores=.*: name two or more different cores of '):
      data_parallel.cores_of(given)


@pytest.mark.slow                       # three processes, each compiling its program
def test_the_command_writes_its_rows(tmp_path):
  rows = tmp_path / 'rows.jsonl'
  done = subprocess.run([sys.executable, '-m', 'benchmarks.data_parallel', '--quick',
                         '--network=lenet_300_100', '--batch_size=64', f'--results={rows}'],
                        text=True, capture_output=True, timeout=300, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  found = [json.loads(line) for line in rows.read_text().splitlines()]
  assert [(row['kind'], row['processes']) for row in found] == [
      ('milliseconds_per_step', 1), ('milliseconds_per_step', 2), ('speed_up', 2)]
  assert all(row['quick'] and row['batch_size'] == 64 and row['median'] > 0 for row in found)
  assert found[2]['at_least'] is None
