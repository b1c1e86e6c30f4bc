"""Description lengths: by hand, by SciPy, and beside the bytes that are really written."""
import numpy as np
import pytest
import scipy.stats

from sparsejax import codec
from sparsejax.codec import entropy, inspection


def test_by_hand():
  array = np.zeros(16, np.float32)
  array[[1, 2, 3, 4]] = [5, 5, 7, 7]
  found = entropy.description_length(array)
  # Four codes of a bit each; two values; 16 entries of which a quarter is stored.
  assert found.codes_bits == 4 and found.codebook_bits == 64
  np.testing.assert_allclose(found.positions_bits, 16 * scipy.stats.entropy([1, 3], base=2))
  assert found.total_bytes == found.total_bits / 8
  learned = entropy.description_length(array, ([0.0, 5.0, 7.0], [0.5, 0.25, 0.25]))
  assert learned == entropy.Description(12 + 4 * 2, 96, 0)


def test_zeros_and_nothing_take_no_bits():
  assert entropy.description_length(np.zeros((3, 4))).total_bits == 0
  assert entropy.description_length(np.zeros(0)).total_bits == 0
  assert entropy.total({}).total_bits == 0


def test_an_entry_outside_the_prior_is_named():
  with pytest.raises(ValueError, match="a/kernel: 2 entries are none of the prior's values"):
    entropy.describe({'a': {'kernel': np.float32([1, 2, 2])}},
                     {'a/kernel': (np.float32([0, 1]), [0.5, 0.5])})
  with pytest.raises(ValueError, match='add up to 1, not 0.5'):
    entropy.description_length(np.float32([1]), ([0.0, 1.0], [0.25, 0.25]))
  with pytest.raises(ValueError, match='no value twice'):
    entropy.description_length(np.float32([1]), ([1.0, 1.0], [0.5, 0.5]))


def layers(density, values, seed=0):
  """LeNet-300-100 with a codebook a layer, as after Deep Compression or soft weight-sharing."""
  rng = np.random.default_rng(seed)
  weights = {}
  for name, shape in (('dense0', (784, 300)), ('dense1', (300, 100))):
    book = rng.standard_normal(values).astype(np.float32)
    kept = rng.random(shape) < density
    weights[name] = {'kernel': np.where(
        kept, rng.choice(book, shape, p=rng.dirichlet(np.ones(values))), np.float32(0))}
  return weights


@pytest.mark.parametrize('density, values', [(0.08, 64), (0.05, 16), (0.3, 32)])
def test_coded_bytes_are_within_two_percent(tmp_path, density, values):
  weights = layers(density, values)
  path = tmp_path / 'w.sjx'
  size = codec.write(path, weights)
  file = codec.open(path)
  described = entropy.total(entropy.describe(weights))
  coded = size - file.header_bytes
  assert described.total_bytes * 0.999 <= coded <= 1.02 * described.total_bytes
  rows = inspection.rows(file)
  assert sum(row.bytes for row in rows) == coded
  for row in rows:
    assert row.bytes * 8 >= row.bound_bits * 0.9999      # no coder beats the entropy of its symbols


def test_coded_bytes_under_a_learned_prior_are_within_two_percent(tmp_path):
  """The prior has other weights than the sample, so the codes cost more than their entropy."""
  rng = np.random.default_rng(1)
  book = np.append(0, rng.standard_normal(15)).astype(np.float32)
  prior = np.append(0.9, np.full(15, 0.1 / 15))
  array = rng.choice(book, (784, 300), p=np.append(0.95, 0.05 * rng.dirichlet(np.ones(15))))
  path = tmp_path / 'w.sjx'
  size = codec.write(path, {'kernel': array}, probabilities={'kernel': (book, prior)})
  described = entropy.describe({'kernel': array}, {'kernel': (book, prior)})['kernel']
  coded = size - codec.open(path).header_bytes
  # The prior's frequencies are rounded: at most a part in a thousand either way.
  assert 0.999 * described.total_bytes <= coded <= 1.02 * described.total_bytes
  assert codec.write(path, {'kernel': array}) < size      # frequencies found are never worse


def test_floats_without_a_codebook():
  array = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
  found = entropy.description_length(array)
  assert found.codebook_bits == 0 and 8 * 5000 * 3 < found.codes_bits < 32 * 5000
