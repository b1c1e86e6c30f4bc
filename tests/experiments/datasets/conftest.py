"""No test here may reach a mirror: a download that a test did not replace fails it."""
import gzip
import hashlib
import pathlib
import struct

import numpy as np
import pooch
import pytest

from experiments.datasets import fetch


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
  def refuse(self, url, output_file, pooch, check_only=False):
    pytest.fail(f'a test tried to download {url}')

  monkeypatch.setattr(pooch.HTTPDownloader, '__call__', refuse)


@pytest.fixture
def mirrors(monkeypatch):
  """Stands for the network: url -> bytes or exception; `mirrors.asked` lists the urls tried."""
  class Mirrors(dict):
    pass

  table = Mirrors()
  table.asked = []

  def download(self, url, output_file, pooch, check_only=False):
    table.asked.append(url)
    reply = table[url]
    if isinstance(reply, Exception):
      pathlib.Path(output_file).write_bytes(b'half of it')       # cut off in the middle
      raise reply
    pathlib.Path(output_file).write_bytes(reply)

  monkeypatch.setattr(pooch.HTTPDownloader, '__call__', download)
  return table


@pytest.fixture
def idx_bytes():
  """Returns a function: uint8 array -> the bytes of its gzipped IDX file, laid out by hand."""
  def encode(array):
    header = struct.pack(f'>BBBB{array.ndim}I', 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)

  return encode


@pytest.fixture
def remote_file():
  """Returns a function: (content, urls) -> the RemoteFile that publishes it as set/part.gz."""
  def publish(content, urls=('https://one.test/part.gz', 'https://two.test/part.gz')):
    return fetch.RemoteFile('set/part.gz', len(content), hashlib.sha256(content).hexdigest(), urls)

  return publish
