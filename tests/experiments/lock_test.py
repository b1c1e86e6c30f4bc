"""One holder a folder, whatever becomes of it."""
import errno
import fcntl
import os
import subprocess
import sys

import pytest

from experiments import lock, run
from tests.experiments import run_test

HOLD = """
import pathlib, sys, time
from experiments.lock import held
with held(pathlib.Path(sys.argv[1]), print):
  print('held', flush=True)
  time.sleep(60)
"""


def test_a_second_holder_is_told_of_the_first_and_the_file_goes_with_it(tmp_path):
  with lock.held(tmp_path, pytest.fail):
    holder = f'process {os.getpid()} on {os.uname().nodename}'
    with pytest.raises(ValueError, match=f'workdir {tmp_path} is in use by {holder}; wait for it'):
      with lock.held(tmp_path, pytest.fail):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ['lock']
  assert list(tmp_path.iterdir()) == []
  with lock.held(tmp_path, pytest.fail):
    pass


def test_a_process_that_is_killed_holds_nothing(tmp_path):
  with subprocess.Popen([sys.executable, '-c', HOLD, str(tmp_path)], stdout=subprocess.PIPE,
                        text=True) as process:
    assert process.stdout.readline() == 'held\n'
    with pytest.raises(ValueError, match=f'in use by process {process.pid} on '):
      with lock.held(tmp_path, pytest.fail):
        pass
    process.kill()
  assert (tmp_path / 'lock').exists()                      # and means nothing
  with lock.held(tmp_path, pytest.fail):
    pass


def test_a_file_removed_between_opening_and_locking_is_not_the_lock(tmp_path, monkeypatch):
  flock, calls = fcntl.flock, []

  def slow(file, how):
    if not calls:                      # the holder until now removes it, and another comes
      (tmp_path / 'lock').unlink()
      (tmp_path / 'lock').write_text('')
    calls.append(file)
    flock(file, how)

  monkeypatch.setattr(lock.fcntl, 'flock', slow)
  with lock.held(tmp_path, pytest.fail):
    assert len(calls) == 2
    assert (tmp_path / 'lock').read_text() == f'process {os.getpid()} on {os.uname().nodename}\n'


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch):
  def unsupported(file, how):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(lock.fcntl, 'flock', unsupported)
  warnings = []
  with lock.held(tmp_path, warnings.append):
    assert 'without locks (No locks available)' in warnings[0]


def test_a_run_is_refused_in_a_folder_in_use_and_claims_nothing(tmp_path):
  with lock.held(tmp_path, pytest.fail):
    with pytest.raises(ValueError, match='is in use by process'):
      run.run(run_test.small_config(), tmp_path, 'small.py', run_test.new_console())
    assert [path.name for path in tmp_path.iterdir()] == ['lock']
