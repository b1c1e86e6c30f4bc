"""Atomic writing: the old file or the new one, and no litter."""
import errno
import os

import pytest

from sparsejax.codec import atomic


def test_replaces_the_file_and_leaves_nothing_else(tmp_path):
  path = tmp_path / 'a.bin'
  path.write_bytes(b'old')
  assert atomic.write_atomically(path, b'newer') == 5
  assert path.read_bytes() == b'newer'
  assert os.listdir(tmp_path) == ['a.bin']


def test_a_failed_write_keeps_the_old_file_and_no_litter(tmp_path, monkeypatch):
  path = tmp_path / 'a.bin'
  path.write_bytes(b'old')

  def broken(source, target):
    raise OSError('disk pulled')

  monkeypatch.setattr(atomic.os, 'replace', broken)
  with pytest.raises(OSError, match='disk pulled'):
    atomic.write_atomically(path, b'new')
  assert path.read_bytes() == b'old'
  assert os.listdir(tmp_path) == ['a.bin']


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
  def full(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))      # as a write fails: without a name

  monkeypatch.setattr(atomic.os, 'fsync', full)
  with pytest.raises(OSError, match=r'No space left on device: .*a\.bin') as caught:
    atomic.write_atomically(tmp_path / 'a.bin', b'new')
  assert caught.value.errno == errno.ENOSPC and os.listdir(tmp_path) == []


def test_a_bare_name_goes_to_the_current_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  atomic.write_atomically('a.bin', b'x')
  assert (tmp_path / 'a.bin').read_bytes() == b'x'


def test_missing_folder_and_folder_as_file_are_named(tmp_path):
  with pytest.raises(ValueError, match='no_such does not exist; create it'):
    atomic.write_atomically(tmp_path / 'no_such' / 'a.bin', b'x')
  with pytest.raises(ValueError, match='is a folder'):
    atomic.write_atomically(tmp_path, b'x')
