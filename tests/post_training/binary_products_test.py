"""Products of signs by bits against the same sums of +-1."""

import jax
import numpy as np
import pytest

from sparsejax.post_training.binary_products import pack_signs, sign_product

RNG = np.random.default_rng(0)


@pytest.mark.parametrize('count', [1, 31, 32, 33, 100])
def test_the_product_is_the_sum_of_products_of_signs(count):
  inputs, weights = RNG.normal(size=(2, 3, count)), RNG.normal(size=(5, count))
  inputs[0, 0, 0] = 0.0                             # + by convention
  words = pack_signs(inputs), pack_signs(weights)
  assert words[0].dtype == np.uint32 and words[0].shape == (2, 3, -(-count // 32))
  signs = [np.where(array >= 0, 1, -1) for array in (inputs, weights)]
  ours = jax.jit(sign_product, static_argnums=2)(*words, count)
  np.testing.assert_array_equal(ours, signs[0] @ signs[1].T)


def test_the_first_sign_is_the_lowest_bit():
  np.testing.assert_array_equal(pack_signs(np.array([1.0, -1, 1] + [-1] * 29 + [1])), [5, 1])


def test_words_that_do_not_fit_are_named():
  with pytest.raises(ValueError, match='33 signs take 2 words of 32; inputs have 1 and weights 1'):
    sign_product(np.zeros((1, 1), np.uint32), np.zeros((2, 1), np.uint32), 33)
