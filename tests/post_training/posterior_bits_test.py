"""Bits from posteriors, by hand and against the bound on the error that they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax import codec
from sparsejax.post_training import posterior_bits as pb
from sparsejax.packed.quantised import Quantised

RNG = np.random.default_rng(0)


def test_unit_round_off_by_hand():
  np.testing.assert_array_equal(pb.unit_round_off(np.array([1, 2, 3, 11])),
                                [0.5, 0.25, 0.125, 2.0**-11])


@pytest.mark.parametrize('spread, magnitude, bits', [
    (0.3, 1.0, 2),          # 0.25 < 0.3 <= 0.5
    (0.25, 1.0, 3),         # 0.25 is not below 0.25
    (0.2499, 1.0, 3),       # 0.125 < 0.2499
    (0.01, 1.0, 7),         # 2^-7 = 0.0078
    (0.01, 0.125, 4),       # 2^-7 again, the weights' leading digit being 2^-3
    (5.0, 1.0, 1),          # more noise than weight
    (1e-9, 1.0, 15),        # what int16 holds
])
def test_significand_bits_by_hand(spread, magnitude, bits):
  assert pb.significand_bits(np.array(spread), magnitude) == bits


def test_a_leaf_by_hand():
  # The largest magnitude 0.9 lies in [0.5, 1): a round-off of t bits is 2^-1 2^-t.
  # 0.05: 2^-5 = 0.031 -> t = 4; 0.02: 2^-6 = 0.0156 -> 5; 0.2: 2^-3 = 0.125 -> 2. Mean 3.67 -> 4.
  weights = {'dense': {'kernel': np.array([[0.9, -0.3, 0.0, 0.11]], np.float32)}}
  spread = np.array([[0.05, 0.02, 1e-6, 0.2]])
  params = {'theta': weights, 'log_sigma2': {'dense': {'kernel': np.log(spread**2)}}}
  rounded = pb.round_to_posterior(weights, params)
  assert rounded.bits['dense/kernel'] == 4
  kernel = rounded.weights['dense']['kernel']
  assert isinstance(kernel, Quantised) and kernel.scale == 2.0**-4
  np.testing.assert_array_equal(kernel.codes, [[14, -5, 0, 2]])          # 14.4, -4.8, 1.76


def test_a_group_for_each_output():
  weights = {'kernel': RNG.normal(size=(50, 3)).astype(np.float32) * np.float32([1, 0.1, 1])}
  weights['kernel'][:, 2] = 0
  spread = np.full((50, 3), 0.01) * [1, 1, 1]
  params = {'rule': {'theta': weights, 'log_sigma2': {'kernel': np.log(spread**2)}}, 'free': {}}
  rounded = pb.round_to_posterior(weights, params, axis=-1)
  largest = np.abs(weights['kernel']).max(0)[:2]
  wanted = [next(t for t in range(1, 16) if 2.0**np.floor(np.log2(m)) * 2.0**-t < 0.01)
            for m in largest]
  np.testing.assert_array_equal(rounded.bits['kernel'], [*wanted, 0])
  error = np.abs(np.asarray(rounded.weights['kernel'].to_dense()) - weights['kernel'])
  # A weight within half a step of the power of two above is clipped: a step instead of a half.
  steps = np.asarray(rounded.weights['kernel'].scale)
  assert np.all(error <= steps) and np.mean(error <= 0.01) > 0.99
  assert np.all(error[:, 2] == 0)


def test_bytes_are_those_of_a_container(tmp_path):
  weights = {'kernel': np.where(RNG.random((100, 80)) < 0.2, RNG.normal(size=(100, 80)), 0)}
  weights['kernel'] = weights['kernel'].astype(np.float32)
  params = {'theta': weights, 'log_sigma2': {'kernel': np.full((100, 80), 2 * np.log(0.05))}}
  rounded = pb.round_to_posterior(weights, params)
  # Codes of 6 bits (the largest magnitude is in [2, 4), 2 * 2^-6 < 0.05) in a fifth of the places.
  assert 2 <= np.abs(weights['kernel']).max() < 4 and rounded.bits['kernel'] == 6
  size = codec.write(tmp_path / 'w.sjx', rounded.weights)
  assert rounded.bytes < size < rounded.bytes + 1500
  assert rounded.bytes < 0.2 * 8000 * 7 / 8 * 1.2 + 8000 * 0.73 / 8 + 100


def test_a_trained_method_gives_its_posterior():
  method = sparsejax.partition(noise=('.*kernel', sparsejax.sparse_variational_dropout(
      init_log_sigma2=-6.0)))
  weights = {'dense': {'kernel': jnp.asarray(RNG.normal(size=(20, 10)), jnp.float32),
                       'bias': jnp.ones(10)}}
  params, state = method.init(jax.random.key(0), weights)
  deployed = sparsejax.finalise(method, params, state)
  rounded = pb.round_to_posterior(deployed, params)
  assert list(rounded.bits) == ['dense/kernel']
  np.testing.assert_array_equal(rounded.weights['dense']['bias'], np.ones(10))
  dense = sparsejax.densify(rounded.weights)['dense']['kernel']
  error = np.abs(np.asarray(dense) - np.asarray(deployed['dense']['kernel']))
  assert error.max() <= np.exp(-3.0)
  np.testing.assert_array_equal(np.asarray(dense)[np.asarray(deployed['dense']['kernel']) == 0], 0)


def test_what_has_no_posterior_is_named():
  with pytest.raises(ValueError, match='no Gaussian posterior in the params'):
    pb.round_to_posterior({'kernel': np.ones((2, 2))}, {'kernel': np.ones((2, 2))})
  params = {'theta': {'a': np.ones(2)}, 'log_sigma2': {'a': np.ones(2)}}
  with pytest.raises(ValueError, match='posterior of a, which the weights have not'):
    pb.round_to_posterior({'b': np.ones(2)}, params)
  with pytest.raises(ValueError, match='infinitely many bits'):
    pb.significand_bits(np.zeros(2))
