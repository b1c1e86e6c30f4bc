"""The timing of populations: sizes, the point of doubling, and that it runs."""
import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks import population

ROOT = pathlib.Path(population.__file__).resolve().parents[1]


def test_sizes_are_powers_of_two_or_what_is_given():
  assert population.sizes([], 'cpu') == [1, 2, 4, 8, 16]
  assert population.sizes([], 'gpu')[-1] == 8192
  assert population.sizes(['8', '3'], 'cpu') == [3, 8]
  with pytest.raises(ValueError, match='--members=4,x: give positive integers'):
    population.sizes(['4', 'x'], 'cpu')


@pytest.mark.parametrize(('ratios', 'members'), [
    ({1: 1.0, 2: 1.0, 4: 4.0}, 2 * 2 ** 0.5),        # half of the way from 1 to 4, in logarithms
    ({1: 1.0, 8: 1.5, 16: 2.0}, 16),
    ({1: 1.0, 2: 1.1}, None),
    ({4: 3.0, 8: 6.0}, 4)])
def test_the_point_of_doubling_is_interpolated(ratios, members):
  assert population.doubling(ratios) == pytest.approx(members)


@pytest.mark.slow
def test_quick_run_appends_rows(tmp_path):
  path = tmp_path / 'rows.jsonl'
  done = subprocess.run([sys.executable, '-m', 'benchmarks.population', '--quick', '--device=cpu',
                         '--batch_size=8', f'--results={path}'], cwd=ROOT, capture_output=True,
                        text=True, check=False, env={**os.environ, 'JAX_PLATFORMS': 'cpu'})
  assert done.returncode == 0, done.stderr
  assert 'its numbers mean nothing' in done.stdout and 'twice that of one run' in done.stdout
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  kinds = ['milliseconds_per_epoch', 'ratio', 'speed_up'] * 2 + ['members_at_twice_the_time']
  assert [row['kind'] for row in rows] == kinds * 2
  for row in rows:
    assert row['quick'] and {'device', 'jax_version', 'commit', 'date', 'load_before'} <= set(row)
  # The quotient of one round and the other way round, as many members as there are.
  for ratio, speed_up in zip(rows[1::7], rows[2::7], strict=True):
    assert ratio['low'] <= ratio['median'] <= ratio['high'] and speed_up['median'] > 0
