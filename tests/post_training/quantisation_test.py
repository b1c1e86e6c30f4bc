"""Trees of packed weights: which leaves, what error, and how few bytes."""

import functools

import jax
import numpy as np
import pytest

import sparsejax
from sparsejax import codec
from sparsejax.packed import grids
from sparsejax.packed.codebook import Codebook
from sparsejax.codec import bits
from sparsejax.models.lenet import MLP
from sparsejax.post_training import int8
from sparsejax.post_training.quantisation import quantise
from sparsejax.packed.quantised import Quantised

MODEL = MLP(widths=(16, 8))
IMAGES = np.random.default_rng(0).uniform(size=(5, 20)).astype(np.float32)


def weights():
  return jax.device_get(MODEL.init(jax.random.key(0), IMAGES)['params'])


def test_kernels_are_rounded_and_biases_are_not():
  small = quantise(weights())
  for layer, leaves in small.items():
    assert isinstance(leaves['kernel'], Quantised) and leaves['kernel'].codes.dtype == np.int8
    assert isinstance(leaves['bias'], np.ndarray)
    error = np.abs(np.asarray(leaves['kernel'].to_dense()) - weights()[layer]['kernel'])
    # Half a step, and the float32 rounding of code times scale.
    assert np.all(error <= np.asarray(leaves['kernel'].scale) * (0.5 + 127 * 2**-23))


def test_by_default_it_is_the_baseline_of_claims():
  baseline = int8.quantise(weights())
  for layer, leaves in quantise(weights()).items():
    np.testing.assert_array_equal(leaves['kernel'].codes, baseline[f'{layer}/kernel//int8'])
    # XLA divides by a constant by multiplying with its reciprocal: a unit in the last place.
    np.testing.assert_allclose(leaves['kernel'].scale, baseline[f'{layer}/kernel//scale'],
                               rtol=2**-22)


def test_rules_choose_leaves_and_the_network_runs(tmp_path):
  small = quantise(weights(), {
      'dense0/kernel': functools.partial(grids.power_of_two, bits=3),
      '(dense1|head)/kernel': functools.partial(grids.affine, bits=4, signed=False)})
  assert isinstance(small['dense0']['kernel'], Codebook)
  ours = jax.jit(lambda params: sparsejax.apply(MODEL, {'params': params}, IMAGES))(small)
  plain = MODEL.apply({'params': sparsejax.densify(small)}, IMAGES)
  np.testing.assert_allclose(ours, plain, atol=1e-5)       # sums of 20 terms below 1, thrice
  codec.write(tmp_path / 'w', small)
  back = sparsejax.apply(MODEL, {'params': codec.read(tmp_path / 'w')}, IMAGES)
  np.testing.assert_allclose(back, ours, atol=1e-5)


@pytest.mark.parametrize('grid, width', [(grids.sign, 1), (grids.ternary, 2),
                                         (functools.partial(grids.affine, bits=4), 4)])
def test_codes_of_fixed_width_take_their_bits(grid, width):
  codes = np.asarray(grid(weights()['dense0']['kernel']).codes).reshape(-1)
  distinct, symbols = np.unique(codes, return_inverse=True)
  assert len(distinct) <= 2**width
  packed = bits.pack(symbols, width)
  assert len(packed) == -(-codes.size * width // 8)
  np.testing.assert_array_equal(distinct[bits.unpack(packed, codes.size, width)], codes)


def test_what_cannot_be_rounded_is_named():
  broken = {'head': {'kernel': np.array([[1.0, np.inf]], np.float32)}}
  with pytest.raises(ValueError, match='head/kernel holds values that are not finite'):
    quantise(broken)
  with pytest.raises(ValueError, match='heads/kernel.* matches no parameter'):
    quantise(weights(), {'heads/kernel': grids.sign})
