"""Missing, damaged and exchanged files are refused by name, with the repair."""
import json
import re
import shutil

import numpy as np
import pytest

from experiments.report.folder import kernel_path, read_run
from sparsejax import codec

FILES = ('config.json', 'ledger.json', 'metrics.jsonl', 'model.safetensors',
         'parameters.safetensors', 'deployed.safetensors')


@pytest.fixture
def folder(l0_source, tmp_path):
  return shutil.copytree(l0_source, tmp_path / 'run')


def _refused(folder, file, *words):
  with pytest.raises(ValueError, match=re.escape(str(folder / file))) as error:
    read_run(folder)
  for word in words:
    assert word in str(error.value)


def test_reads_what_the_run_left(folder):
  run = read_run(folder)
  assert run.config['dataset'] == run.ledger['dataset'] == 'digits'
  assert [row['epoch'] for row in run.metrics] == list(range(1, 41))
  assert run.params['gates']['log_alpha']['dense0']['kernel'].shape == (64, 1)
  assert [kernel_path(run, row) for row in run.ledger['layers']] == [
      'dense0/kernel', 'dense1/kernel', 'head/kernel']
  assert sum(np.count_nonzero(run.deployed[kernel_path(run, row)])
             for row in run.ledger['layers']) == run.ledger['weights_kept']


@pytest.mark.parametrize('file', FILES)
def test_missing_file(folder, file):
  (folder / file).unlink()
  _refused(folder, file, 'is missing; ', 'train')


@pytest.mark.parametrize('file', [file for file in FILES if file != 'metrics.jsonl'])
def test_half_a_file(folder, file):
  data = (folder / file).read_bytes()
  (folder / file).write_bytes(data[:len(data) // 2])
  _refused(folder, file, 'again' if file != 'config.json' else 'restore it from a copy')


def test_config_of_another_run(folder):
  config = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(config))        # layout does not matter
  read_run(folder)
  (folder / 'config.json').write_text(json.dumps(config | {'seed': 4}))
  _refused(folder, 'config.json', 'config_hash', 'restore')
  for broken in ({'a.b': 1}, [1]):
    (folder / 'config.json').write_text(json.dumps(broken))
    _refused(folder, 'config.json', 'restore')


def test_weights_of_another_run(folder, vd_source):
  model = (folder / 'model.safetensors').read_bytes()
  shutil.copy(vd_source / 'model.safetensors', folder)
  _refused(folder, 'model.safetensors', 'file_sha256', 'remove ledger.json')
  (folder / 'model.safetensors').write_bytes(model)
  deployed = codec.read(folder / 'deployed.safetensors')
  deployed['params']['head']['kernel'][:] = 1
  codec.write(folder / 'deployed.safetensors', deployed)
  _refused(folder, 'deployed.safetensors', 'non-zero kernel entries', 'different runs')
  shutil.copy(vd_source / 'deployed.safetensors', folder)
  _refused(folder, 'deployed.safetensors', "(64, 300) in the layer 'dense0'")
  codec.write(folder / 'deployed.safetensors', {'weights': {}})
  _refused(folder, 'deployed.safetensors', 'holds weights but not params')


@pytest.mark.parametrize(('text', 'words'), [
    ('', 'holds no epoch'),
    ('{"epoch": 1}\n{"epoch": \n{"epoch": 3}\n', 'line 2'),
    ('{"epoch": 1}\n{"epoch": 1}\n', 'line 2'),
    ('{"epoch": 1}\n{"seconds": 1}\n{"epoch": 2}\n', 'line 2'),
    ('{"epoch": 1, "density": "0.5"}\n', 'line 1'),
    ('[1]\n{"epoch": 1}\n', 'line 1'),
])
def test_damaged_metrics(folder, text, words):
  (folder / 'metrics.jsonl').write_text(text)
  _refused(folder, 'metrics.jsonl', words)
