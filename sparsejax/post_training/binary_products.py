"""Products of signs by bits: 32 weights to a word, XOR and a population count.

Rastegari et al., "XNOR-Net", 2016, arXiv:1603.05279, section 3.2. With + stored as 1 and - as 0,
n - 2 popcount(a xor b) is the sum of n products of signs. On a device without instructions for it a
float product is faster; what is saved everywhere is memory, 32 times.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array

WORD = 32


def pack_signs(signs: Array) -> Array:
  """Returns words (..., ceil(n / 32)), uint32, of signs (..., n): a bit for each that is >= 0.

  The first sign is the lowest bit; the last word is filled up with zeros.
  """
  n = signs.shape[-1]
  ones = (signs >= 0).astype(jnp.uint32)
  padded = jnp.pad(ones, [(0, 0)] * (signs.ndim - 1) + [(0, -n % WORD)])
  words = padded.reshape(*signs.shape[:-1], -1, WORD)
  places = jnp.arange(WORD, dtype=jnp.uint32).reshape((1,) * signs.ndim + (WORD,))
  return jnp.sum(words << places, axis=-1, dtype=jnp.uint32)


def sign_product(inputs: Array, weights: Array, count: int) -> Array:
  """Returns (..., m) int32: the sums of products of `count` signs, for packed inputs and weights.

  Args:
    inputs: (..., words), from `pack_signs`. weights: (m, words), one output a row.
    count: signs behind the words. Both are filled up alike, so that the filling cancels.

  Raises:
    ValueError: for words that do not hold `count` signs.
  """
  words = inputs.shape[-1]
  if weights.shape[-1] != words or not WORD * (words - 1) < count <= WORD * words:
    raise ValueError(f'{count} signs take {-(-count // WORD)} words of {WORD}; inputs have {words} '
                     f'and weights {weights.shape[-1]}')
  rows = weights.reshape((1,) * (inputs.ndim - 1) + weights.shape)
  differing = jax.lax.population_count(inputs[..., None, :] ^ rows)
  return count - 2 * jnp.sum(differing, axis=-1, dtype=jnp.int32)
