"""Commit and versions, in throw-away checkouts."""
import datetime
import re
import shutil
import subprocess

import jax
import pytest

from sparsejax import ledger
from sparsejax.ledger import provenance

needs_git = pytest.mark.skipif(shutil.which('git') is None, reason='git is not installed')


@pytest.fixture
def checkout(tmp_path, monkeypatch):
  """A checkout with package/code.py in one commit; the settings of the user are kept out."""
  monkeypatch.setenv('HOME', str(tmp_path))
  for key in ('GIT_DIR', 'GIT_WORK_TREE', 'GIT_INDEX_FILE'):
    monkeypatch.delenv(key, raising=False)
  root = tmp_path / 'checkout'
  file = root / 'package' / 'code.py'
  file.parent.mkdir(parents=True)
  file.write_text('x = 1\n')
  git(root, 'init', '-q')
  git(root, 'add', '.')
  git(root, '-c', 'user.name=A', '-c', 'user.email=a@b', 'commit', '-q', '-m', 'First')
  return root, file, git(root, 'rev-parse', 'HEAD').strip()


def git(folder, *arguments):
  return subprocess.run(['git', *arguments], cwd=folder, check=True, capture_output=True,
                        text=True).stdout


@needs_git
def test_commit_of_a_clean_and_of_a_changed_checkout(checkout):
  root, file, head = checkout
  assert re.fullmatch('[0-9a-f]{40}', head)
  assert provenance.commit(file) == head
  (root / 'results.csv').write_text('1')                 # not code
  assert provenance.commit(file) == head
  extra = root / 'new folder' / 'é.py'
  extra.parent.mkdir()
  extra.write_text('')                                   # code that the commit does not hold
  assert provenance.commit(file) == head + '-dirty'
  extra.unlink()
  file.write_text('x = 2\n')
  assert provenance.commit(file) == head + '-dirty'


@needs_git
def test_a_file_installed_inside_a_foreign_checkout_is_unknown(checkout):
  root, _, _ = checkout
  (root / '.gitignore').write_text('venv/\n')
  installed = root / 'venv' / 'code.py'
  installed.parent.mkdir()
  installed.write_text('')
  assert provenance.commit(installed) == 'unknown'


@needs_git
def test_a_git_hook_does_not_point_elsewhere(checkout, tmp_path, monkeypatch):
  _, file, head = checkout
  monkeypatch.setenv('GIT_DIR', str(tmp_path / 'elsewhere'))
  assert provenance.commit(file) == head


def test_without_git_or_checkout_it_is_unknown(tmp_path, monkeypatch):
  file = tmp_path / 'code.py'
  file.write_text('')
  assert provenance.commit(file) == 'unknown'
  monkeypatch.setenv('PATH', str(tmp_path))
  assert provenance.commit() == 'unknown'


def test_describe_run_fills_keys_of_the_ledger_with_their_types():
  run = ledger.describe_run()
  assert set(run) <= set(ledger.KEYS)
  assert all(type(value) is ledger.KEYS[key].type for key, value in run.items())
  assert run['jax_version'] == jax.__version__
  assert run['device'].startswith(f'{jax.default_backend()}: {jax.device_count()} x ')
  assert re.fullmatch(r'3\.\d+\.\d+\S*', run['python_version'])
  age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(
      run['time_utc'])
  assert datetime.timedelta(seconds=-2) < age < datetime.timedelta(minutes=5)


def test_a_machine_without_cpuinfo_still_has_a_name(monkeypatch):
  def missing(self):
    raise OSError

  monkeypatch.setattr(provenance.pathlib.Path, 'read_text', missing)
  assert provenance._cpu_model()
