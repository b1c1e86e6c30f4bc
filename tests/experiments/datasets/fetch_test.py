"""Fetching from a fake network and, once, a loopback HTTP server: what is written, what is said."""
import functools
import hashlib
import http.server
import pathlib
import socket
import threading

import pooch
import pytest
import requests

from experiments.datasets import fetch

CONTENT = b'published bytes'
ONE, TWO = 'https://one.test/part.gz', 'https://two.test/part.gz'
HTTP_CALL = pooch.HTTPDownloader.__call__        # before the fixture takes it away


def _snapshot(folder):
  """Every entry with its size and time of change, so that a rewrite with equal bytes shows too."""
  return {p: (p.stat().st_mtime_ns, p.stat().st_ino, p.stat().st_size)
          for p in (folder, *folder.rglob('*'))}


def _place(folder, content):
  path = folder / 'set' / 'part.gz'
  path.parent.mkdir(parents=True)
  path.write_bytes(content)
  return path


def test_first_mirror_that_works_is_the_only_one_asked(tmp_path, mirrors, remote_file):
  mirrors[ONE] = CONTENT
  path = fetch.fetch(remote_file(CONTENT), tmp_path)
  assert path == tmp_path / 'set' / 'part.gz'
  assert path.read_bytes() == CONTENT
  assert mirrors.asked == [ONE]
  assert [p.name for p in path.parent.iterdir()] == ['part.gz']
  assert path.stat().st_mode & 0o777 == 0o644          # others may read a shared data folder


def test_second_call_neither_asks_nor_writes(tmp_path, mirrors, remote_file):
  mirrors[ONE] = CONTENT
  fetch.fetch(remote_file(CONTENT), tmp_path)
  before = _snapshot(tmp_path)
  assert fetch.fetch(remote_file(CONTENT), tmp_path).read_bytes() == CONTENT
  assert mirrors.asked == [ONE]
  assert _snapshot(tmp_path) == before


@pytest.mark.parametrize('first', [
    requests.exceptions.ConnectionError('no route'), requests.exceptions.HTTPError('404'),
    requests.exceptions.ReadTimeout('slow'), ConnectionResetError('reset'), TimeoutError('slow'),
    b'<html>please log in</html>', b'', CONTENT[:-1]],
    ids=lambda reply: type(reply).__name__ + (f'-{len(reply)}' if isinstance(reply, bytes) else ''))
def test_next_mirror_is_tried_and_no_half_file_stays(tmp_path, mirrors, remote_file, first):
  mirrors[ONE], mirrors[TWO] = first, CONTENT
  path = fetch.fetch(remote_file(CONTENT), tmp_path)
  assert path.read_bytes() == CONTENT
  assert mirrors.asked == [ONE, TWO]
  assert [p.name for p in path.parent.iterdir()] == ['part.gz']


def test_no_mirror_names_each_and_what_to_put_where(tmp_path, mirrors, remote_file):
  mirrors[ONE] = requests.exceptions.ConnectionError('no route to host')
  mirrors[TWO] = b'other bytes'
  with pytest.raises(FileNotFoundError) as caught:
    fetch.fetch(remote_file(CONTENT), tmp_path)
  message = str(caught.value)
  for part in (ONE, 'no route to host', TWO, hashlib.sha256(b'other bytes').hexdigest(),
               str(tmp_path / 'set' / 'part.gz'), hashlib.sha256(CONTENT).hexdigest(),
               f'{len(CONTENT)} bytes', 'SPARSEJAX_DATA_DIR'):
    assert part in message
  assert [p for p in tmp_path.rglob('*') if p.is_file()] == []


def test_download_goes_to_a_temporary_file_in_the_same_folder(tmp_path, monkeypatch, remote_file):
  seen = []

  def download(self, url, output_file, pooch, check_only=False):
    output_file = pathlib.Path(output_file)
    seen.append((output_file.parent, output_file.name, (tmp_path / 'set' / 'part.gz').exists()))
    output_file.write_bytes(CONTENT)

  monkeypatch.setattr(pooch.HTTPDownloader, '__call__', download)
  path = fetch.fetch(remote_file(CONTENT), tmp_path)
  (folder, name, final_was_there), = seen
  assert folder == path.parent           # one file system, so that the move is a rename
  assert name != path.name
  assert not final_was_there


def test_interrupted_download_leaves_nothing(tmp_path, monkeypatch, remote_file):
  def download(self, url, output_file, pooch, check_only=False):
    pathlib.Path(output_file).write_bytes(CONTENT[:3])
    raise KeyboardInterrupt

  monkeypatch.setattr(pooch.HTTPDownloader, '__call__', download)
  with pytest.raises(KeyboardInterrupt):
    fetch.fetch(remote_file(CONTENT), tmp_path)
  assert list((tmp_path / 'set').iterdir()) == []


@pytest.mark.parametrize('content, kind', [
    (CONTENT[:5], r'truncated \(5 bytes, published 15\)'),
    (b'', r'truncated \(0 bytes, published 15\)'),
    (b'PUBLISHED BYTES', r'damaged, or another file \(15 bytes, published 15\)'),
    (CONTENT + b'!', r'damaged, or another file \(16 bytes, published 15\)'),
])
def test_wrong_file_is_reported_and_left_alone(tmp_path, remote_file, content, kind):
  path = _place(tmp_path, content)
  before = _snapshot(tmp_path)
  with pytest.raises(ValueError, match=kind) as caught:
    fetch.fetch(remote_file(CONTENT), tmp_path)
  message = str(caught.value)
  for part in (str(path), hashlib.sha256(CONTENT).hexdigest(), hashlib.sha256(content).hexdigest(),
               'delete it'):
    assert part in message
  assert _snapshot(tmp_path) == before
  assert path.read_bytes() == content


def test_read_only_folder_with_the_right_file_is_enough(tmp_path, remote_file):
  path = _place(tmp_path, CONTENT)
  for p in (path, path.parent, tmp_path):
    p.chmod(p.stat().st_mode & ~0o222)
  before = _snapshot(tmp_path)             # root may write all the same, so times are compared too
  try:
    assert fetch.fetch(remote_file(CONTENT), tmp_path).read_bytes() == CONTENT
    assert _snapshot(tmp_path) == before
  finally:
    for p in (tmp_path, path.parent, path):
      p.chmod(p.stat().st_mode | 0o200)


def test_folder_that_cannot_be_made_is_not_blamed_on_a_mirror(tmp_path, mirrors, remote_file):
  (tmp_path / 'set').write_bytes(b'a file where a folder should be')
  with pytest.raises(OSError, match='cannot be written.*SPARSEJAX_DATA_DIR'):
    fetch.fetch(remote_file(CONTENT), tmp_path)
  assert mirrors.asked == []


def test_full_disk_is_not_blamed_on_a_mirror(tmp_path, mirrors, remote_file):
  mirrors[ONE] = OSError(28, 'No space left on device')
  with pytest.raises(OSError, match='cannot be written .*No space left on device'):
    fetch.fetch(remote_file(CONTENT), tmp_path)
  assert mirrors.asked == [ONE]


def test_folder_is_argument_then_variable_then_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('SPARSEJAX_DATA_DIR', str(tmp_path / 'variable'))
  assert fetch.data_folder(tmp_path / 'argument') == tmp_path / 'argument'
  assert fetch.data_folder() == tmp_path / 'variable'
  for unset in ('', None):
    if unset is None:
      monkeypatch.delenv('SPARSEJAX_DATA_DIR')
    else:
      monkeypatch.setenv('SPARSEJAX_DATA_DIR', unset)
    assert fetch.data_folder() == pathlib.Path(pooch.os_cache('sparsejax'))


def test_home_is_expanded(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setenv('SPARSEJAX_DATA_DIR', '~/data')
  assert fetch.data_folder() == tmp_path / 'data'


def test_over_real_http_a_404_leads_to_the_next_mirror(tmp_path, monkeypatch, remote_file):
  """The whole path through pooch and requests, on the loopback interface.

  So does a host that has no name, and a port where nobody listens.
  """
  monkeypatch.setattr(pooch.HTTPDownloader, '__call__', HTTP_CALL)
  monkeypatch.setenv('NO_PROXY', '127.0.0.1,mirror.invalid')
  published = tmp_path / 'published'
  published.mkdir()
  (published / 'part.gz').write_bytes(CONTENT)

  class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
      pass

  handler = functools.partial(Quiet, directory=str(published))
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
      base = f'http://127.0.0.1:{server.server_port}'
      file = remote_file(CONTENT, (f'{base}/absent/part.gz', f'{base}/part.gz'))
      assert fetch.fetch(file, tmp_path / 'data').read_bytes() == CONTENT
      with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))                 # and does not listen
        closed = f'http://127.0.0.1:{taken.getsockname()[1]}/part.gz'
        file = remote_file(CONTENT, ('http://mirror.invalid/part.gz', closed, f'{base}/part.gz'))
        assert fetch.fetch(file, tmp_path / 'other').read_bytes() == CONTENT
        file = remote_file(CONTENT, ('http://mirror.invalid/part.gz', closed))
        with pytest.raises(FileNotFoundError, match='ConnectionError.*\n.*ConnectionError.*\n'
                                                    'Put the file .15 bytes, SHA-256 .* by hand'):
          fetch.fetch(file, tmp_path / 'none')
      bad = remote_file(CONTENT, (f'{base}/absent/part.gz',))
      with pytest.raises(FileNotFoundError, match='HTTPError: 404'):
        fetch.fetch(bad, tmp_path / 'empty')
    finally:
      server.shutdown()
      thread.join()
