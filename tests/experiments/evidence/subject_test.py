"""Networks under test, from the folder of a run and from a point; nothing here was trained."""
import pathlib

import numpy as np
import pytest

from experiments import workdir
from experiments.evidence.configs import load_config
from experiments.evidence.subject import examples_of, of_point, of_run
from sparsejax import codec, ledger


@pytest.fixture(scope='module')
def config():
  config = load_config('frontier/mlp:magnitude', 1)
  config.dataset = 'digits'
  config.model.widths = (6, 5)
  return config


@pytest.fixture(scope='module')
def variables():
  rng = np.random.default_rng(0)
  weights = {name: {'kernel': rng.normal(size=shape).astype(np.float32),
                    'bias': np.zeros(shape[1], np.float32)}
             for name, shape in (('dense0', (64, 6)), ('dense1', (6, 5)), ('head', (5, 10)))}
  weights['dense0']['kernel'][:, 2:] = 0
  weights['dense1']['kernel'][2:] = 0
  return {'params': weights}


@pytest.fixture
def folder(tmp_path, config, variables, ledger_of):
  """What a finished run leaves, as far as controls read it."""
  (tmp_path / 'config.json').write_text(workdir.config_text(config))
  ledger.write(tmp_path / 'ledger.json', ledger_of(
      config='digits/net.py', config_hash=workdir.config_hash(config), bytes_file=4321))
  codec.write(tmp_path / 'deployed.safetensors', variables)
  logits = np.array([[0.0, 1.0, 0.5], [2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
  np.savez(tmp_path / 'test_logits.npz', logits=logits, labels=np.array([1, 1, 2]))
  return tmp_path


def check(subject, variables):
  found, wanted = subject.variables['params'], variables['params']
  for name, layer in wanted.items():
    np.testing.assert_array_equal(found[name]['kernel'], layer['kernel'])
  assert subject.facts.weights_kept == 64 * 2 + 2 * 5 + 5 * 10
  assert subject.facts.compact_fields['widths'] == (2, 5) and subject.facts.compacted


def test_a_finished_run(folder, config, variables):
  subject = of_run(folder)
  assert subject.name == 'digits/net.py'
  assert workdir.config_hash(subject.config) == workdir.config_hash(config)
  np.testing.assert_array_equal(subject.wrong, [False, True, False])
  assert subject.facts.bytes_file == 4321
  check(subject, variables)


@pytest.mark.parametrize('name', ['ledger.json', 'config.json', 'deployed.safetensors',
                                  'test_logits.npz'])
def test_a_run_that_has_not_ended_is_named_with_its_repair(folder, name):
  (folder / name).unlink()
  with pytest.raises(ValueError, match=rf'{folder / name} is missing: a control needs a finished '
                                       rf'run; run experiments.train --workdir={folder}'):
    of_run(folder)


def test_an_empty_folder_is_named(tmp_path):
  with pytest.raises(ValueError, match='ledger.json is missing'):
    of_run(tmp_path / 'none')


def test_a_config_of_another_run_is_refused(folder, config):
  other = config.copy_and_resolve_references()
  other.epochs = 77
  (folder / 'config.json').write_text(workdir.config_text(other))
  with pytest.raises(ValueError, match='config.json is not the config that ledger.json was made'):
    of_run(folder)


def test_damaged_files_are_named(folder):
  path = folder / 'ledger.json'
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(ValueError, match='ledger.json is damaged'):
    of_run(folder)


def test_a_damaged_network_is_named(folder):
  path = folder / 'deployed.safetensors'
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(ValueError, match='deployed.safetensors'):
    of_run(folder)


def test_one_network_of_a_point(tmp_path, config, variables):
  class Finished:
    """A point with three networks, of which the third was scored."""

    def built(self):
      return config

    def folder(self, root):
      return pathlib.Path(root) / 'point'
  folder = Finished().folder(tmp_path)
  folder.mkdir()
  codec.write(folder / 'deployed_2.safetensors', variables)
  np.save(folder / 'test_wrong_2.npy', np.array([True, False, True]))
  content = {'networks': [{'bytes_file': 1}, {'bytes_file': 2}, {'bytes_file': 3}]}
  subject = of_point('a name', Finished(), tmp_path, content, 2)
  assert subject.name == 'a name' and subject.config is config
  np.testing.assert_array_equal(subject.wrong, [True, False, True])
  assert subject.facts.bytes_file == 3
  check(subject, variables)


def test_the_examples_of_images(config):
  assert examples_of(config) == ((8, 8, 1), (), True)
  config = config.copy_and_resolve_references()
  config.validation_examples = 0
  assert not examples_of(config).held_out


def test_a_finished_run_of_a_language_model(tmp_path, ledger_of):
  config = load_config('LoCV17/ptb_word:smoke', 0)
  config.model.widths = (2,)
  rng = np.random.default_rng(0)
  cell = {f'i{gate}': {'kernel': rng.normal(size=(30, 2)).astype(np.float32)} for gate in 'ifgo'}
  cell |= {f'h{gate}': {'kernel': rng.normal(size=(2, 2)).astype(np.float32),
                        'bias': np.zeros(2, np.float32)} for gate in 'ifgo'}
  head = {'kernel': np.ones((2, 30), np.float32), 'bias': np.zeros(30, np.float32)}
  (tmp_path / 'config.json').write_text(workdir.config_text(config))
  ledger.write(tmp_path / 'ledger.json', ledger_of(
      config='LoCV17/ptb_word.py', config_hash=workdir.config_hash(config), bytes_file=4321))
  codec.write(tmp_path / 'deployed.safetensors', {'params': {'cell0': cell, 'head': head}})
  nll = rng.exponential(size=(3, 8)).astype(np.float32)
  np.savez(tmp_path / 'test_tokens.npz', nll_nats=nll, wrong=nll > 1)
  subject = of_run(tmp_path)
  np.testing.assert_array_equal(subject.nll_nats, nll)
  np.testing.assert_array_equal(subject.wrong, (nll > 1).reshape(-1))
  assert subject.facts.weights_kept == 4 * (30 * 2 + 2 * 2) + 2 * 30
  assert not subject.facts.compacted and examples_of(config).shape == (8,)
  (tmp_path / 'test_tokens.npz').unlink()
  with pytest.raises(ValueError, match='test_logits.npz is missing'):
    of_run(tmp_path)
