"""`measure` on a network whose counts are made by hand."""
import hashlib

import flax.linen as nn
import jax
import numpy as np
import pytest

from sparsejax import codec, ledger
from sparsejax.ledger import measurement


def test_sizes_by_hand(pair, measured):
  result, path = measured
  # kernels: conv 3x3x1x4, dense 4x5, head 5x3; biases 4 + 5 + 3; norm scale and bias of 4.
  assert result['weights_total'] == 36 + 20 + 15
  assert result['weights_kept'] == 18 + 2 * 4 + (12 - 1)
  assert result['parameters_dense'] == 71 + 12 + 8
  assert result['parameters_compact'] == (18 + 2) + 4 + (8 + 4) + (12 + 3)
  # zeros: 18 + 12 + 4 in kernels, conv bias 4, one of the dense bias, head bias 3, norm bias 4.
  assert result['exact_zeros'] == 34 + 4 + 1 + 3 + 4
  assert result['architecture_kept'] == [2, 2, 4]
  assert result['flops_dense'] == 2 * (4 * 4 * 36 + 20 + 15)
  assert result['flops_compact'] == 2 * (4 * 4 * 18 + 8 + 12)
  assert result['compression_weights'] == 71 / 37
  assert result['compression_parameters'] == 91 / 51
  assert [row['layer'] for row in result['layers']] == ['conv', 'dense', 'head']
  assert result['bytes_file'] == path.stat().st_size
  assert result['bytes_float32'] == codec.float32_bytes(pair[1])
  assert result['compression_bytes'] == result['bytes_float32'] / result['bytes_file']
  assert result['file_sha256'] == hashlib.sha256(path.read_bytes()).hexdigest()
  assert codec.read_provenance(path) == {'seed': 3}


def test_the_compact_network_computes_the_same_function(pair, measured):
  # Sums of at most 9, 16, 4 and 5 terms in four layers: 34 roundings of 2^-24 are 2e-6; the law of
  # compaction, 1e-5, leaves room for terms that cancel.
  assert measured[0]['compact_relative_difference'] <= 1e-5


def test_the_compact_side_is_what_the_file_holds(pair, tmp_path, monkeypatch):
  model, variables, small, compact, images = pair
  read = codec.read

  def other_file(path):
    stored = read(path)
    stored['params']['head']['bias'] = stored['params']['head']['bias'] + np.float32(1)
    return stored

  monkeypatch.setattr(measurement.codec, 'read', other_file)
  result = ledger.measure(model, variables, small, compact, images, tmp_path / 'net',
                          apply_kwargs={'train': False}, repeats=1, warmup=1)
  largest = np.abs(model.apply(variables, images, train=False)).max()
  assert result['compact_relative_difference'] == pytest.approx(1 / largest, rel=1e-5)


def test_milliseconds_are_there_for_both_batches(measured):
  result = measured[0]
  assert result['ms_repeats'] == 3
  for network in ('dense', 'compact'):
    for size in (1, 128):
      key = f'ms_{network}_batch{size}'
      assert 0 < result[f'{key}_lower_quartile'] <= result[key] <= result[f'{key}_upper_quartile']


def test_each_batch_has_its_size_and_weights_are_arguments(pair, tmp_path, monkeypatch):
  seen = []

  def untimed(functions, repeats, warmup):
    seen.append({name: function().shape for name, function in functions.items()})
    return dict.fromkeys(seen[-1], {'median': 1, 'lower_quartile': 1, 'upper_quartile': 1})

  monkeypatch.setattr(measurement, 'interleaved_milliseconds', untimed)
  ledger.measure(*pair, tmp_path / 'net', apply_kwargs={'train': False})
  assert seen == [{'dense': (1, 3), 'compact': (1, 3)}, {'dense': (128, 3), 'compact': (128, 3)}]
  network = measurement._Network(pair[0], pair[1], {'train': False})
  program = jax.make_jaxpr(lambda v, x: network._apply(v, x))(pair[1], pair[4])
  assert not program.consts
  assert len(program.jaxpr.invars) == len(jax.tree.leaves(pair[1])) + 1


@pytest.mark.parametrize('images', [np.zeros((2, 6, 6, 1)), np.zeros((0, 6, 6, 1), np.float32),
                                    np.zeros(3, np.float32), np.zeros((2, 6, 6, 1), np.uint8)])
def test_images_must_be_a_float32_batch(pair, tmp_path, images):
  with pytest.raises(ValueError, match='example_images is'):
    ledger.measure(*pair[:4], images, tmp_path / 'net', apply_kwargs={'train': False})


def test_a_network_pruned_away_has_no_ratio(tmp_path):
  empty = {'params': {'kernel': np.zeros((2, 3), np.float32), 'bias': np.ones(3, np.float32)}}
  with pytest.raises(ValueError, match='weights_kept is 0.*lower the strength'):
    ledger.measure(nn.Dense(3), empty, nn.Dense(3), empty, np.ones((1, 2), np.float32),
                   tmp_path / 'net')


def test_relative_difference_by_hand_and_its_refusals():
  dense = np.array([[1.0, -4.0], [2.0, 3.0]])
  assert measurement.relative_difference(dense, dense + [[0, 0], [0, -1]]) == 0.25
  with pytest.raises(ValueError, match=r'shape \(2, 2\), compact logits \(2, 1\)'):
    measurement.relative_difference(dense, dense[:, :1])
  with pytest.raises(ValueError, match='compact logits are not finite'):
    measurement.relative_difference(dense, dense * np.nan)
  with pytest.raises(ValueError, match='all dense logits are 0'):
    measurement.relative_difference(dense * 0, dense)


class Bigram(nn.Module):
  """Logits of the next of four symbols, from a table alone; (n, T) -> (n, T, 4)."""

  @nn.compact
  def __call__(self, tokens):
    return nn.Dense(4, name='head')(nn.Embed(4, 3, name='table')(tokens))


def test_a_network_that_reads_tokens_is_measured(tmp_path):
  tokens = np.arange(12, dtype=np.int32).reshape(2, 6) % 4
  model = Bigram()
  variables = jax.tree.map(np.asarray, model.init(jax.random.key(0), tokens))
  found = ledger.measure(model, variables, model, variables, tokens, tmp_path / 'net', repeats=2,
                         warmup=1)
  assert found['compact_relative_difference'] == 0
  assert found['flops_dense'] == 2 * 6 * 3 * 4          # six positions; a look-up is free
