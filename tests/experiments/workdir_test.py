"""A folder belongs to one config."""
import errno
import json
import os
import subprocess
import tempfile

import ml_collections
import pytest

import sparsejax
from experiments import workdir


def config(**changes):
  return ml_collections.ConfigDict({
      'seed': 0, 'rate': 0.1, 'model': {'name': 'mlp', 'widths': (3, 2)}, **changes})


def claimed(folder):
  made = workdir.check(folder, config())
  workdir.claim(made, config())
  return made


def test_a_new_folder_is_made_and_the_config_kept(tmp_path):
  folder = claimed(tmp_path / 'a' / 'b')
  stored = json.loads((folder / 'config.json').read_text())
  assert stored == {'seed': 0, 'rate': 0.1, 'model': {'name': 'mlp', 'widths': [3, 2]}}
  assert workdir.check(folder, config()) == folder
  assert sorted(path.name for path in folder.iterdir()) == ['config.json', 'version.json']


def test_checking_alone_claims_nothing(tmp_path):
  workdir.check(tmp_path, config())
  workdir.check(tmp_path, config(seed=1))
  assert list(tmp_path.iterdir()) == []


def test_another_config_is_refused_and_the_difference_shown(tmp_path):
  claimed(tmp_path)
  other = config(seed=1, model={'name': 'mlp', 'widths': (3, 4)}, extra=True)
  with pytest.raises(ValueError, match='holds a run of another config') as caught:
    workdir.check(tmp_path, other)
  assert str(caught.value).splitlines()[1:] == [
      '  extra: absent -> True', '  model.widths: [3, 2] -> [3, 4]', '  seed: 0 -> 1']


def test_a_field_that_went_and_one_that_is_none_are_told_apart():
  assert workdir.difference({'a': None, 'b': 1}, {'b': 1}) == '  a: None -> absent'
  assert workdir.difference({'a': 1}, {'a': 1}) == ''


@pytest.mark.parametrize('changes, tells', [({'new_field': 1}, '  new_field: absent -> 1'),
                                            ({}, 'The config is the same')])
def test_a_folder_of_a_newer_version_is_refused_and_both_are_named(tmp_path, monkeypatch, changes,
                                                                   tells):
  monkeypatch.setattr(sparsejax, '__version__', '0.10.0')
  folder = claimed(tmp_path)
  monkeypatch.setattr(sparsejax, '__version__', '0.9.1')
  with pytest.raises(ValueError, match=r'sparsejax 0\.10\.0, which is newer than this sparsejax, '
                                       r'0\.9\.1; install that version') as caught:
    workdir.check(folder, config(**changes))
  assert tells in str(caught.value)
  monkeypatch.setattr(sparsejax, '__version__', '0.10.0')
  assert workdir.check(folder, config()) == folder
  monkeypatch.setattr(sparsejax, '__version__', '0.11.0')
  assert workdir.check(folder, config()) == folder


def test_a_folder_without_a_version_is_older(tmp_path):
  folder = claimed(tmp_path)
  (folder / 'version.json').unlink()
  assert workdir.check(folder, config()) == folder


@pytest.mark.parametrize('damage', ['{', '{"sparsejax": "new"}', '{"sparsejax": 3}', '[]'])
def test_a_damaged_version_is_a_clear_error(tmp_path, damage):
  folder = claimed(tmp_path)
  (folder / 'version.json').write_text(damage)
  with pytest.raises(ValueError, match=r'version\.json is damaged: .*choose another --workdir'):
    workdir.check(folder, config())


@pytest.mark.parametrize('damage', [b'{"seed": 0', b'', b'\xff\xfe{}', b'[]', b'3'])
def test_a_damaged_config_is_a_clear_error(tmp_path, damage):
  claimed(tmp_path)
  (tmp_path / 'config.json').write_bytes(damage)
  with pytest.raises(ValueError, match=r'config\.json is damaged: .*choose another --workdir'):
    workdir.check(tmp_path, config())


def test_a_path_under_a_file_is_a_clear_error(tmp_path):
  (tmp_path / 'file').write_text('')
  for folder in (tmp_path / 'file', tmp_path / 'file' / 'run'):
    with pytest.raises(OSError, match='workdir .* cannot be used .*choose another --workdir'):
      workdir.check(folder, config())


def test_a_read_only_folder_is_a_clear_error(tmp_path, monkeypatch):
  def refuse(**options):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))

  monkeypatch.setattr(tempfile, 'TemporaryFile', refuse)
  with pytest.raises(OSError, match=r'cannot be used \(Read-only file system\)'):
    workdir.check(tmp_path, config())


def test_a_full_disk_is_a_clear_error(tmp_path):
  folder = tmp_path / 'small'
  folder.mkdir()
  mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(folder)],
                           capture_output=True, check=False).returncode == 0
  if not mounted:
    pytest.skip('mounting a small tmpfs needs root')
  try:
    with pytest.raises(OSError) as full, (folder / 'ballast').open('wb', buffering=0) as file:
      while True:
        file.write(b'x' * 4096)
    assert full.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match='is on a full disk .*No space left.*free it'):
      workdir.check(folder, config())
  finally:
    subprocess.run(['umount', str(folder)], check=True)


def test_a_full_disk_is_told_apart_without_one(tmp_path, monkeypatch):
  def full(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match='is on a full disk'):
    workdir.check(tmp_path, config())


def test_the_hash_depends_on_every_value_and_not_on_the_order():
  assert workdir.config_hash(config()) == workdir.config_hash(
      ml_collections.ConfigDict({'model': {'widths': (3, 2), 'name': 'mlp'}, 'rate': 0.1,
                                 'seed': 0}))
  assert workdir.config_hash(config()) != workdir.config_hash(config(rate=0.2))
