"""Standard normal numbers addressed by row and column, each a function of (key, row, column) alone.

A table of noise need not be made to use some of its rows: the rows looked up in an embedding, or
the gates of the words that occur in a sequence, have the numbers that the whole table would have.
The numbers come from one block of the Threefry cipher each two columns (Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3", 2011), whatever the kind of the key: for other generators the
numbers of JAX depend on the shape of a draw, and under `vmap` on its neighbours.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry2x32_p

Array = jax.Array


def normal_rows(key: Array, rows: Array, width: int) -> Array:
  """Returns the rows `rows` (...) of a table of noise with `width` columns: (..., width)."""
  half = (width + 1) // 2
  pair = _blocks(key, rows[..., None], jnp.arange(half).reshape((1,) * rows.ndim + (half,)))
  return _normal(jnp.concatenate(pair, axis=-1)[..., :width])


def normal_at(key: Array, rows: Array, columns: Array, width: int) -> Array:
  """Returns single entries of that table: normal_rows(key, rows, width)[..., columns].

  `rows` and `columns` have the same number of axes and are broadcast to each other.
  """
  half = (width + 1) // 2
  high, low = _blocks(key, rows, columns % half)
  return _normal(jnp.where(jnp.broadcast_to(columns, high.shape) < half, high, low))


def _blocks(key: Array, rows: Array, columns: Array) -> tuple[Array, Array]:
  """Returns two words of 32 random bits for each (row, column)."""
  shape = np.broadcast_shapes(rows.shape, columns.shape)
  words = jax.random.key_data(key).reshape(-1)
  high, low = threefry2x32_p.bind(*(
      jnp.broadcast_to(x.astype(jnp.uint32), shape) for x in (words[0], words[1], rows, columns)))
  return high, low


def _normal(bits: Array) -> Array:
  """By the inverse distribution function at the odd multiples of 2^-24, so that no end is hit."""
  odd = 2 * (bits >> 9).astype(jnp.float32) + 1          # below 2^24, so every step is exact
  return np.float32(np.sqrt(2)) * jax.lax.erf_inv(odd * np.float32(2.0**-23) - 1)
