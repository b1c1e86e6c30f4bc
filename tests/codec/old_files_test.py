"""A container written once is read by every later version.

`data/jax_0_10.sjx` was written by `write_fixture` under Python 3.11, JAX 0.10.2, NumPy 2.4.6,
constriction 0.5.0 and zstandard 0.25.0, and is never written again.
"""
import pathlib

import jax.numpy as jnp
import numpy as np

from sparsejax import BlockSparse, codec, densify
from sparsejax.models import MLP
from sparsejax.paths import flatten

FILE = pathlib.Path(__file__).parent / 'data' / 'jax_0_10.sjx'
CODING = {'params/dense1/kernel': 'deep_compression', 'params/head/kernel': 'huffman'}


def draws(number, below):
  """Integers from the raw stream of a bit generator, which NumPy promises never to change."""
  return (np.random.PCG64(7).random_raw(number) >> np.uint64(11)).astype(np.int64) % below


def sparse(*shape, below, values):
  """A part 1 / below of the entries is one of that many values."""
  drawn = draws(int(np.prod(shape)), below * values).reshape(shape)
  return np.where(drawn < values, (drawn + 1) / 8, 0).astype(np.float32)


def contents():
  """A leaf for each form, and dtypes of each kind."""
  block = np.ones((32, 24), np.float32)
  block[8:24, 8:16] = 0
  return {
      'params': {
          'dense0': {'kernel': sparse(60, 40, below=8, values=5),
                     'bias': np.arange(40, dtype=np.float32)},
          'dense1': {'kernel': sparse(40, 30, below=40, values=9),
                     'bias': np.zeros(30, np.float32)},
          'head': {'kernel': sparse(30, 4, below=1, values=7),
                   'bias': np.float32([np.nan, -0.0, np.inf, 1e-40])}},
      'more': {'floats': (draws(3000, 2**27) + 2**29).astype(np.uint32).view(np.float32),
               'half': jnp.arange(300, dtype=jnp.bfloat16), 'mask': draws(3000, 2) == 1,
               'coded': np.float64([2.5, 0, 1.5])[np.minimum(draws(3000, 8), 2)],
               'empty': {}, 'count': np.int64(-5), 'block': BlockSparse.from_dense(block, 8)},
  }


def model():
  """The model that the file names."""
  return MLP((40, 30), 4, kept_inputs=tuple(range(2, 62)))


def write_fixture(path):
  """What wrote the file."""
  codec.write(path, contents(), model=model(), coding=CODING, made='for old_files_test',
              facts={'scale': 1 / 16, 'mean': np.linspace(0, 1, 64, dtype=np.float32),
                     'input_shape': [64]})


def test_a_file_of_jax_0_10_is_read():
  loaded = codec.read_model(FILE)
  assert loaded.model == model()
  assert loaded.facts['scale'] == 1 / 16
  np.testing.assert_array_equal(loaded.facts['mean'], np.linspace(0, 1, 64, dtype=np.float32))
  assert codec.read_provenance(FILE) == {'made': 'for old_files_test'}
  expected, found = flatten(contents()), flatten(loaded.variables)
  assert set(found) == set(expected)
  for path, leaf in flatten(densify(contents())).items():
    if path == 'more/empty':
      assert found[path] == {}
      continue
    read = np.asarray(densify({'leaf': found[path]})['leaf'])
    leaf = np.asarray(leaf)
    assert (read.dtype, read.shape) == (leaf.dtype, leaf.shape), path
    assert read.tobytes() == leaf.tobytes(), path
  assert isinstance(found['more/block'], BlockSparse)


def test_the_file_holds_every_form():
  leaves = codec.open(FILE).header['leaves']
  assert {entry['positions']['kind'] for entry in leaves} == {'all', 'bitmask', 'gaps', 'relative'}
  assert {entry['values']['kind'] for entry in leaves} == {'raw', 'zstd', 'planes', 'codebook'}
  coders = str(leaves)
  assert all(f"'coder': '{coder}'" in coders for coder in ('fixed', 'huffman', 'ans'))
