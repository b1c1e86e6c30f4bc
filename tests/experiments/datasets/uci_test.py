"""Regression sets: the loader on a small published table, and the real ones where present."""
import hashlib

import numpy as np
import pytest

from experiments.datasets import fetch, uci


@pytest.fixture
def published(monkeypatch):
  """Makes 'yacht' a table of 20 rows; returns it and the bytes of its data.txt."""
  table = np.random.default_rng(0).normal(size=(20, 4)).round(3)
  content = ''.join(' '.join(map(str, row)) + '\n' for row in table).encode()
  record = uci.Regression('yacht', table[:, :-1], table[:, -1])
  monkeypatch.setitem(uci.SETS, 'yacht', uci._Published(
      'yacht', len(content), hashlib.sha256(content).hexdigest(), 20, record.hash))
  return table, content


def test_loads_what_a_mirror_gives_and_then_needs_none(tmp_path, mirrors, published):
  table, content = published
  one, two = uci.SETS['yacht'].remote('yacht').urls
  mirrors[one], mirrors[two] = ConnectionError('down'), content
  data = uci.load('yacht', tmp_path)
  np.testing.assert_array_equal(data.inputs, table[:, :3])
  np.testing.assert_array_equal(data.targets, table[:, 3])
  assert data.inputs.dtype == data.targets.dtype == np.float64
  assert not data.inputs.flags.writeable
  mirrors.clear()                                          # asking again would be a KeyError
  assert uci.load('yacht', tmp_path).hash == data.hash


def test_an_archive_takes_the_place_of_the_text(tmp_path, published):
  table, _ = published
  (tmp_path / 'uci').mkdir()
  archive = tmp_path / 'uci' / 'yacht.npz'
  np.savez(archive, data=table)
  np.testing.assert_array_equal(uci.load('yacht', tmp_path).targets, table[:, 3])
  np.savez(archive, data=table + 1e-3)
  with pytest.raises(ValueError, match='yacht.npz holds other numbers than the published yacht'):
    uci.load('yacht', tmp_path)
  np.savez(archive, data=table[:5])
  with pytest.raises(ValueError, match=r'float64 table \(5, 4\); yacht has 20 rows'):
    uci.load('yacht', tmp_path)
  np.savez(archive, other=table)
  with pytest.raises(ValueError, match='no archive with a table `data`'):
    uci.load('yacht', tmp_path)
  archive.write_bytes(archive.read_bytes()[:100])
  with pytest.raises(ValueError, match='yacht.npz is damaged'):
    uci.load('yacht', tmp_path)


def test_a_damaged_text_is_named(tmp_path, published):
  _, content = published
  (tmp_path / 'uci' / 'yacht').mkdir(parents=True)
  (tmp_path / 'uci' / 'yacht' / 'data.txt').write_bytes(content[:-3])
  with pytest.raises(ValueError, match='data.txt is truncated'):
    uci.load('yacht', tmp_path)


def test_an_unknown_name_gets_a_suggestion(tmp_path):
  with pytest.raises(ValueError, match="'yatch'.*did you mean 'yacht'"):
    uci.load('yatch', tmp_path)


def numbered(count):
  """A set whose targets are the numbers of the rows."""
  return uci.Regression('numbered', np.ones((count, 1)), np.arange(count, dtype=np.float64))


def test_splits_of_yacht_are_the_published_ones():
  """First lines of index_test_0.txt and last of index_test_19.txt, as published for 308 rows."""
  first, last = (uci.split(numbered(308), index) for index in (0, 19))
  np.testing.assert_array_equal(first.test_targets[:6], [121, 115, 286, 216, 264, 209])
  np.testing.assert_array_equal(last.test_targets[-6:], [27, 68, 19, 75, 135, 290])
  for part in (first, last):
    assert (len(part.train_targets), len(part.test_targets)) == (277, 31)
    both = np.concatenate([part.train_targets, part.test_targets])
    np.testing.assert_array_equal(np.sort(both), np.arange(308))
  with pytest.raises(ValueError, match='split 20 of numbered'):
    uci.split(numbered(308), 20)


def test_standardised_by_the_training_part_alone():
  rng = np.random.default_rng(0)
  inputs = rng.normal(3, 5, (50, 3))
  inputs[:, 1] = 7.0
  part = uci.split(uci.Regression('set', inputs, rng.normal(-2, 4, 50)), 0)
  whitened, mean, scale = uci.standardise(part)
  np.testing.assert_allclose(whitened.train_inputs.mean(0), 0, atol=1e-12)
  np.testing.assert_allclose(whitened.train_inputs.std(0), [1, 0, 1], rtol=1e-12, atol=0)
  assert whitened.train_targets.std() == pytest.approx(1, rel=1e-12)
  np.testing.assert_allclose(whitened.test_targets * scale + mean, part.test_targets, rtol=1e-12)
  np.testing.assert_allclose(
      whitened.test_inputs[:, 0] * part.train_inputs[:, 0].std() + part.train_inputs[:, 0].mean(),
      part.test_inputs[:, 0], rtol=1e-12)
  flat = uci.Split(part.train_inputs, np.ones(45), part.test_inputs, np.ones(5))
  with pytest.raises(ValueError, match='all training targets are equal'):
    uci.standardise(flat)


@pytest.mark.parametrize('inputs, targets, message', [
    (np.ones((3, 2), np.float32), np.ones(3), r'inputs are float32 \(3, 2\)'),
    (np.ones((3, 2)), np.ones((3, 1)), r'targets are float64 \(3, 1\)'),
    (np.ones((3, 2)), np.ones(4), '3 rows of inputs but 4'),
    (np.full((3, 2), np.nan), np.ones(3), 'not finite')])
def test_a_record_refuses_other_arrays(inputs, targets, message):
  with pytest.raises(ValueError, match=message):
    uci.Regression('set', inputs, targets)


@pytest.mark.parametrize('name', uci.SETS)
def test_the_real_set_where_it_is_at_hand(name):
  folder = fetch.data_folder() / 'uci'
  archive = folder / f'{name}.npz'
  if not archive.exists() and not (folder / name / 'data.txt').exists():
    pytest.skip(f'{name} is not in {folder}; point SPARSEJAX_DATA_DIR to a folder that has it')
  data = uci.load(name)
  features = {'concrete': 8, 'energy': 8, 'power_plant': 4, 'wine_quality_red': 11, 'yacht': 6}
  assert data.inputs.shape == (uci.SETS[name].examples, features[name])
  if not archive.exists():
    return
  with np.load(archive) as stored:                         # the published index files, stacked
    if 'index_test' not in stored:
      return
    for index in (0, 7, 19):
      part = uci.split(data, index)
      np.testing.assert_array_equal(part.test_targets, data.targets[stored['index_test'][index]])
      np.testing.assert_array_equal(part.train_inputs, data.inputs[stored['index_train'][index]])
