"""What a network over sequences is handed: tokens, perhaps not all of them read, vectors, padding.

Tokens keep the numbers that they have in the text. Where a network reads only some of them, a table
gives each its row, and those without one are zero vectors to the network.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def rows_of(tokens: Array, vocabulary: int,
            kept: tuple[int, ...] | None = None) -> tuple[Array, int]:
  """Returns the row of each token, int32 (B, T), and how many rows there are.

  Args:
    tokens: (B, T), any integers.
    vocabulary: how many tokens there are.
    kept: the tokens that have a row, ascending; the row of any other is the number of rows. None
      gives each its own number.

  Raises:
    ValueError: for tokens that are not integers (B, T), T > 0; for one that is not in the
      vocabulary, as far as the values are known, which under jit they are not; for a kept token
      out of range or out of order.
  """
  if tokens.ndim != 2 or not tokens.shape[1] or not jnp.issubdtype(tokens.dtype, jnp.integer):
    raise ValueError(f'tokens are {tokens.dtype} {tokens.shape}; need integers (B, T), T > 0')
  if not isinstance(tokens, jax.core.Tracer) and tokens.size:
    least, most = int(tokens.min()), int(tokens.max())
    if least < 0 or most >= vocabulary:
      raise ValueError(f'tokens lie between {least} and {most}, in a vocabulary of {vocabulary}; '
                       'was the text read with another vocabulary?')
  tokens = jnp.asarray(tokens, jnp.int32)
  if kept is None:
    return tokens, vocabulary
  ids = np.array(kept, int)
  if not ids.size or ids[0] < 0 or ids[-1] >= vocabulary or (np.diff(ids) < 1).any():
    raise ValueError(f'kept_tokens holds {ids.size} tokens between {min(kept, default=None)} and '
                     f'{max(kept, default=None)}; expected some between 0 and {vocabulary - 1}, '
                     'ascending')
  rows = np.full(vocabulary, ids.size, np.int32)
  rows[ids] = np.arange(ids.size)
  return jnp.asarray(rows)[tokens], ids.size


def one_hot(tokens: Array, vocabulary: int, kept: tuple[int, ...] | None = None) -> Array:
  """Returns (B, T, rows), float32: 1 at the row of each token, no 1 where it has none.

  Arguments and errors are those of `rows_of`.
  """
  return jax.nn.one_hot(*rows_of(tokens, vocabulary, kept))


def entries(x: Array, kept: tuple[int, ...] | None = None) -> Array:
  """Returns (B, T, n): real inputs (B, T, ...), flattened, or the entries `kept` of them.

  Raises:
    ValueError: for inputs of another kind, or an entry that they do not have.
  """
  if x.ndim < 3 or not x.shape[1] or not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(f'inputs are {x.dtype} {x.shape}; with vocabulary=None they are real numbers '
                     '(B, T, ...), T > 0')
  x = x.reshape((*x.shape[:2], -1))
  if kept is None:
    return x
  if not kept or min(kept) < 0 or max(kept) >= x.shape[2]:
    raise ValueError(f'kept_inputs holds {len(kept)} indices between {min(kept, default=None)} and '
                     f'{max(kept, default=None)}; expected some between 0 and {x.shape[2] - 1}')
  return x[:, :, np.array(kept)]


def lengths(tokens: Array, pad: int) -> Array:
  """Returns (B,): how many tokens stand up to the last that is not `pad`, for tokens (B, T)."""
  positions = jnp.arange(1, tokens.shape[1] + 1)[None, :]
  return jnp.max(jnp.where(tokens == pad, 0, positions), axis=1)


def state_behind(states: Array, length: Array) -> Array:
  """Returns the state behind `length` (B,) steps of states (B, T, width); zero behind none.

  The steps after these are computed, for lengths may differ within a batch, but nothing reads
  them.
  """
  index = jnp.maximum(length - 1, 0)[:, None, None]
  last = jnp.take_along_axis(states, index, axis=1)[:, 0]
  return jnp.where(length[:, None] > 0, last, 0)
