"""The table of Deep Compression against bytes that are decoded again, and the law of fillers."""
import numpy as np
import pytest

from sparsejax.codec import leaf, relative_index
from sparsejax.post_training import layer_codes
from sparsejax.post_training.deep_compression import share


def shared_layer(seed, shape, density, bits):
  rng = np.random.default_rng(seed)
  weight = (rng.normal(size=shape) * (rng.random(shape) < density)).astype(np.float32)
  return share({'a': weight}, {'a': bits}).weights['a']


@pytest.mark.parametrize('density, bits', [(0.08, 4), (0.02, 5), (0.6, 2)])
def test_bytes_are_those_of_a_leaf_that_is_read_back(density, bits):
  weight = shared_layer(0, (40, 50), density, bits)
  row = layer_codes.layer_code('a', weight)
  coded = leaf.encode(weight, 'deep_compression')
  assert row.bytes_huffman == len(coded.data)
  np.testing.assert_array_equal(leaf.decode(coded.facts, memoryview(coded.data)), weight)


def test_numbers_of_fixed_width_by_hand():
  # Non-zeros at 0, 3 and 3 + 40: the last distance, 40, exceeds 32 once, so that one filler stands
  # at 3 + 32. Values 0, 1 and 2 have codes of 2 bits: 4 x 2 bits are 1 byte, 4 x 5 bits are 3.
  weight = np.zeros(50, np.float32)
  weight[[0, 3, 43]] = 1, 2, 1
  row = layer_codes.layer_code('a', weight.reshape(5, 10))
  assert (row.kept, row.fillers, row.codebook) == (3, 1, 3)
  assert (row.weight_bits, row.index_bits) == (2, 5)
  assert row.bytes_fixed == 3 * 4 + 1 + 3
  assert row.kept_percent == 6 and row.fixed_percent == 100 * 16 / 200


@pytest.mark.parametrize('places', [
    [], [0], [39], [0, 1, 2], [33], [5, 39], list(range(0, 1500, 97)), [1499]])
def test_the_papers_form_is_read_back_bit_for_bit(places):
  # Gaps beyond 31, none at all, and zeros behind the last entry
  weight = np.zeros(1500, np.float32)
  weight[places] = np.resize(np.float32([0.5, -1.25, 3.0]), len(places))
  for shape in ((1500,), (30, 50), (5, 5, 10, 6)):
    coded = leaf.encode(weight.reshape(shape), 'deep_compression')
    again = leaf.decode(coded.facts, memoryview(coded.data))
    assert again.shape == shape and again.tobytes() == weight.tobytes()


@pytest.mark.parametrize('weight, kept', [
    (np.zeros((4, 5), np.float32), 0), (np.full((1, 1), 2.0, np.float32), 1),
    (np.eye(64, dtype=np.float32)[:1], 1)])
def test_layers_with_next_to_nothing(weight, kept):
  row = layer_codes.layer_code('a', weight)
  assert row.kept == kept and row.bytes_fixed <= 64


def test_expected_fillers_of_independent_entries():
  # After each kept entry, each whole run of 2^5 zeros costs one filler: n p q^32 / (1 - q^32).
  density, reach = 0.08, 32
  size, share_of_run = 200_000, (1 - density) ** reach
  fillers = [relative_index.count_fillers(
      np.flatnonzero(np.random.default_rng(seed).random(size) < density), 5) for seed in range(5)]
  wanted = size * density * share_of_run / (1 - share_of_run)
  # Fillers per kept entry are geometric: the mean above n p, variance s / (1 - s)^2 each; the
  # number of entries varies too, by less than its Poisson deviation.
  entries = size * density
  deviation = np.sqrt(entries * share_of_run / (1 - share_of_run)**2
                      + entries * (wanted / entries)**2)
  assert abs(np.mean(fillers) - wanted) < 5 * deviation / np.sqrt(5) + 1
  assert 0.06 < wanted / entries < 0.08               # "about 7 % extra codes"


def test_total_adds_up():
  weights = {'a': {'kernel': shared_layer(1, (30, 20), 0.2, 3), 'bias': np.ones(20, np.float32)},
             'b': {'kernel': shared_layer(2, (20, 4), 0.5, 2)}}
  rows = layer_codes.layer_table(weights, {'a/kernel': 1200})
  assert [row.layer for row in rows] == ['a/kernel', 'b/kernel']
  assert rows[0].weights == 1200 and rows[1].weights == 80
  both = layer_codes.total(rows)
  assert both.bytes_huffman == rows[0].bytes_huffman + rows[1].bytes_huffman
  assert both.weights == 1280 and both.kept == sum(np.count_nonzero(leaf['kernel'])
                                                   for leaf in weights.values())
  stored = [row.kept + row.fillers for row in rows]
  np.testing.assert_allclose(both.weight_bits, (3 * stored[0] + 2 * stored[1]) / sum(stored))
  assert both.row()['huffman_percent'] == 100 * both.bytes_huffman / (1280 * 4)
