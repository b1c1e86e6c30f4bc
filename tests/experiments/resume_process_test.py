"""Runs in processes that are killed: their end is that of a run left alone, but for times."""
import json
import subprocess
import sys

import pytest

from sparsejax.training.metrics import read_metrics

EXACT = ('parameters.safetensors', 'deployed.safetensors', 'model.safetensors', 'model.sjx')


def killed(folder, epochs, part, signals):
  done = subprocess.run([sys.executable, '-m', 'tests.experiments.killed_runs', str(folder),
                         str(epochs), part, *signals], text=True, capture_output=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


def ledger(folder):
  """The ledger without times; whoever works beside the test may have made a commit."""
  sheet = json.loads((folder / 'ledger.json').read_text())
  return {key: value for key, value in sheet.items()
          if not key.startswith('ms_') and key not in ('time_utc', 'wall_seconds', 'commit')}


def metrics(folder):
  return [{key: value for key, value in row.items() if key != 'seconds'}
          for row in read_metrics(folder / 'metrics.jsonl')]


def assert_same_end(folder, result, files):
  assert (result['whole'], result['end']) == (0, 0)
  for name in files:
    assert (folder / 'cut' / name).read_bytes() == (folder / 'whole' / name).read_bytes(), name
  assert metrics(folder / 'cut') == metrics(folder / 'whole')
  code, text, holder = result['second']
  assert code == 1 and f'is in use by process {holder} on ' in text


@pytest.mark.slow                       # five starts of a process; resume_test.py does it in one
def test_a_killed_and_a_stopped_run_end_as_one_left_alone(tmp_path):
  result = killed(tmp_path, 5, 'training', ['SIGKILL', 'SIGTERM'])
  assert_same_end(tmp_path, result, ['parameters.safetensors'])
  assert [code for _, code, _ in result['starts']] == [-9, 143]
  assert 'stopped by SIGTERM; ' in result['starts'][1][2]
  assert 'The same command goes on from there' in result['starts'][1][2]


@pytest.mark.slow                       # 22 starts of a process
def test_twenty_kills_at_random_moments(tmp_path):
  signals = ['SIGKILL'] * 8 + ['SIGTERM', 'SIGINT'] + ['SIGKILL'] * 12
  result = killed(tmp_path, 80, 'whole', signals)
  assert_same_end(tmp_path, result, EXACT)
  assert ledger(tmp_path / 'cut') == ledger(tmp_path / 'whole')
  codes = [code for _, code, _ in result['starts']]
  assert codes == [{'SIGKILL': -9, 'SIGTERM': 143, 'SIGINT': 130}[name] for name in signals]
