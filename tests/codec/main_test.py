"""The commands: there and back bit for bit, a table, and a line instead of a traceback."""
import subprocess
import sys

import numpy as np
import pytest

from sparsejax import codec
from sparsejax.codec import __main__ as command
from sparsejax.models import MLP


@pytest.fixture
def weights():
  kernel = np.zeros((40, 30), np.float32)
  kernel[::7] = np.float32([-0.5, 0.25, 0.5])[np.arange(30) % 3]
  return {'params': {'dense0': {'kernel': kernel, 'bias': np.arange(30, dtype=np.float32)}}}


def test_there_and_back(tmp_path, weights, capsys):
  first = tmp_path / 'w.safetensors'
  codec.write(first, weights, seed=3)
  before = first.read_bytes()
  assert command.main(['write', str(first)]) == 0
  assert codec.read_provenance(tmp_path / 'w.sjx') == {'seed': 3}
  assert (tmp_path / 'w.sjx').stat().st_size < len(before)
  again = tmp_path / 'again.safetensors'
  assert command.main(['read', str(tmp_path / 'w.sjx'), f'--out={again}']) == 0
  assert again.read_bytes() == before
  assert command.main(['verify', str(tmp_path / 'w.sjx')]) == 0
  assert 'sound' in capsys.readouterr().out


def test_inspect_prints_a_row_a_leaf(tmp_path, weights, capsys):
  path = tmp_path / 'w.sjx'
  codec.write(path, weights, coding={'params/dense0/kernel': 'deep_compression'}, seed=3)
  assert command.main(['inspect', str(path)]) == 0
  out = capsys.readouterr().out
  assert 'params/dense0/kernel' in out and '40x30' in out and '180 (15.0 %)' in out
  assert 'relative (huffman) + codebook of 4 (huffman)' in out     # three values, and a filler's 0
  assert f'{path.stat().st_size:,}' in out and "{'seed': 3}" in out


def test_damage_gives_a_line_and_status_one(tmp_path, weights, capsys):
  path = tmp_path / 'w.sjx'
  codec.write(path, weights)
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  for name in ('read', 'inspect', 'verify'):
    assert command.main([name, str(path)]) == 1
    assert 'w.sjx is damaged' in capsys.readouterr().err
  assert command.main(['verify', str(tmp_path / 'none.sjx')]) == 1
  assert 'none.sjx' in capsys.readouterr().err
  assert command.main(['write', str(path), '--out=x.npz']) == 1
  assert 'must end in .sjx' in capsys.readouterr().err


def test_verify_sees_weights_that_are_not_the_models(tmp_path, weights, capsys):
  path = tmp_path / 'w.sjx'
  codec.write(path, weights, model=MLP((30,)), facts={'input_shape': [40]})
  assert command.main(['verify', str(path)]) == 1
  assert 'head/bias has shape None in the file' in capsys.readouterr().err


def test_help_comes_from_the_module():
  done = subprocess.run([sys.executable, '-m', 'sparsejax.codec', '--help'], capture_output=True,
                        text=True, timeout=120, check=True)
  for name in ('write', 'read', 'inspect', 'verify'):
    assert name in done.stdout
