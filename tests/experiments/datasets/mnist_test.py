"""MNIST and Fashion-MNIST: the loader on small synthetic files, and the real ones where present."""
import dataclasses
import hashlib

import numpy as np
import pytest

from experiments import datasets
from experiments.datasets import fetch, mnist

LOADERS = {'mnist': ('MNIST', 'mnist'), 'fashion_mnist': ('FASHION_MNIST', 'fashion-mnist')}


@pytest.fixture
def small_files(monkeypatch, idx_bytes):
  """Makes `name` a set of 12 + 5 images in the same four files; returns their arrays and bytes."""
  def publish(name):
    rng = np.random.default_rng(0)
    arrays, contents = {}, {}
    for part, count in (('train', 12), ('t10k', 5)):
      arrays[f'{part}-images-idx3-ubyte.gz'] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
      arrays[f'{part}-labels-idx1-ubyte.gz'] = rng.integers(0, 10, count, dtype=np.uint8)
    table = getattr(mnist, LOADERS[name][0])
    small = {}
    for file, array in arrays.items():
      contents[file] = idx_bytes(array)
      small[file] = dataclasses.replace(
          table[file], size=len(contents[file]), sha256=hashlib.sha256(contents[file]).hexdigest())
    monkeypatch.setattr(mnist, LOADERS[name][0], small)
    return arrays, contents

  return publish


@pytest.mark.parametrize('name', LOADERS)
def test_loads_what_a_mirror_gives_and_then_needs_none(tmp_path, mirrors, small_files, name):
  arrays, contents = small_files(name)
  for file, remote in getattr(mnist, LOADERS[name][0]).items():
    mirrors[remote.urls[0]] = ConnectionError('down')
    mirrors[remote.urls[1]] = contents[file]
  d = datasets.load(name, tmp_path)
  assert (d.name, d.classes, len(d.class_names)) == (name, 10, 10)
  np.testing.assert_array_equal(d.train_images[..., 0], arrays['train-images-idx3-ubyte.gz'])
  np.testing.assert_array_equal(d.train_labels, arrays['train-labels-idx1-ubyte.gz'])
  np.testing.assert_array_equal(d.test_images[..., 0], arrays['t10k-images-idx3-ubyte.gz'])
  np.testing.assert_array_equal(d.test_labels, arrays['t10k-labels-idx1-ubyte.gz'])
  assert d.train_images.shape == (12, 28, 28, 1) and d.train_labels.dtype == np.int32
  folder = tmp_path / LOADERS[name][1]
  assert sorted(p.name for p in folder.iterdir()) == sorted(arrays)
  mirrors.clear()                                          # asking again would be a KeyError
  assert datasets.load(name, tmp_path).hash == d.hash


def test_damaged_file_is_named(tmp_path, small_files):
  _, contents = small_files('mnist')
  for file, content in contents.items():
    (tmp_path / 'mnist').mkdir(exist_ok=True)
    (tmp_path / 'mnist' / file).write_bytes(content)
  broken = tmp_path / 'mnist' / 't10k-labels-idx1-ubyte.gz'
  broken.write_bytes(broken.read_bytes()[:-3])
  with pytest.raises(ValueError, match='t10k-labels-idx1-ubyte.gz is truncated .* delete it'):
    datasets.load('mnist', tmp_path)


def test_data_folder_comes_from_the_variable(tmp_path, monkeypatch, small_files):
  _, contents = small_files('mnist')
  (tmp_path / 'mnist').mkdir()
  for file, content in contents.items():
    (tmp_path / 'mnist' / file).write_bytes(content)
  monkeypatch.setenv('SPARSEJAX_DATA_DIR', str(tmp_path))
  assert datasets.load('mnist').train_images.shape == (12, 28, 28, 1)


@pytest.mark.parametrize('name', LOADERS)
def test_every_file_has_two_mirrors_and_a_checksum(name):
  files = getattr(mnist, LOADERS[name][0])
  assert len(files) == len({f.sha256 for f in files.values()}) == 4
  for file, remote in files.items():
    assert remote.path == f'{LOADERS[name][1]}/{file}'
    assert len(set(remote.urls)) == 2 and all(url.endswith('/' + file) for url in remote.urls)
    assert len(bytes.fromhex(remote.sha256)) == 32


# Counts of the published sets, class by class.
HISTOGRAMS = {
    'mnist': ([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
              [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
    'fashion_mnist': ([6000] * 10, [1000] * 10),
}


@pytest.mark.parametrize('name', LOADERS)
def test_the_real_set_where_it_is_at_hand(name):
  absent = [f.path for f in getattr(mnist, LOADERS[name][0]).values()
            if not (fetch.data_folder() / f.path).exists()]
  if absent:
    pytest.skip(f'{", ".join(absent)} not in {fetch.data_folder()}; point SPARSEJAX_DATA_DIR to a '
                'folder that has them')
  d = datasets.load(name)
  assert d.train_images.shape == (60_000, 28, 28, 1) and d.test_images.shape == (10_000, 28, 28, 1)
  train, test = HISTOGRAMS[name]
  np.testing.assert_array_equal(np.bincount(d.train_labels), train)
  np.testing.assert_array_equal(np.bincount(d.test_labels), test)
  # Published means of the training pixels on the scale 0..1: 0.1307 and 0.2860, to four places.
  mean = {'mnist': 0.1307, 'fashion_mnist': 0.2860}[name]
  assert abs(d.train_images.mean() / 255 - mean) <= 0.5e-4
