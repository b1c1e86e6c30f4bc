"""Training a codebook: every weight is one of few values, and the values are what is trained.

Han, Mao, Dally, "Deep Compression", 2016, arXiv:1510.00149, section 3.3, as a method of the
trainer. With w_i = values[code_i] the gradient of a value is the sum over its members (their
equation 3), which is what differentiating the look-up gives. Code 0 is zero, for what was pruned:
whatever the optimiser does with its entry, these weights are 0. The same sum for gradients from
elsewhere: `post_training/codebook_tuning.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.paths import Tree, flatten, map_leaves
from sparsejax.regulariser import Regulariser

Array = jax.Array


def shared_codebook(codes: Mapping[str, Any]) -> Regulariser:
  """Weights that stay in their clusters; each leaf has a codebook of its own; no penalty.

  Args:
    codes: nested dict of integer arrays, of the shapes of the leaves that the rule owns, from
      `deep_compression.share` or `codebook_tuning.encode`: 0 is zero, k > 0 is cluster k. Codes of
      other leaves are not looked at.

  Trained: `codebook`, with an array (clusters + 1,) for each leaf. It starts from the means of the
  weights of each cluster; entry 0, and clusters without a member, stay at 0.
  State: `codes`, int32.

  Raises:
    ValueError: from `init`, for a leaf without codes, or codes of another shape or below 0.
  """
  given = {path: np.asarray(leaf) for path, leaf in flatten(codes).items()}

  def init(key, weights):
    del key
    for path, leaf in flatten(weights).items():
      _require_codes(path, leaf, given)
    book = map_leaves(lambda path, leaf: _means(leaf, given[path]), weights)
    state = map_leaves(lambda path, leaf: jnp.asarray(given[path], jnp.int32), weights)
    return {'codebook': book}, {'codes': state}

  def weights(params, state, key=None):
    del key
    return jax.tree.map(look_up, params['codebook'], state['codes'])

  return Regulariser(init, weights)


def look_up(book: Array, codes: Array) -> Array:
  """Returns book[codes], exactly 0 where the code is 0, of the shape of the codes."""
  return jnp.where(codes == 0, jnp.zeros((), book.dtype), book[codes])


def _means(leaf: Array, codes: np.ndarray) -> Array:
  """The mean of each cluster's members in the leaf's dtype; 0 for code 0 and for no members."""
  counts = np.bincount(codes.reshape(-1))
  counts[0] = 0
  sums = jax.ops.segment_sum(leaf.astype(jnp.float32).reshape(-1), codes.reshape(-1), counts.size)
  return jnp.where(counts > 0, sums / np.maximum(counts, 1), 0.0).astype(leaf.dtype)


def _require_codes(path: str, leaf: Array, codes: Tree) -> None:
  if path not in codes:
    raise ValueError(f'{path} has no codes; they are given for {", ".join(codes) or "no leaf"}')
  found = codes[path]
  if found.shape != leaf.shape or not np.issubdtype(found.dtype, np.integer) or (
      found.size and found.min() < 0):
    raise ValueError(f'{path} of shape {leaf.shape} needs integer codes of its shape, from 0 on, '
                     f'not {found.dtype} of shape {found.shape}, from {found.min(initial=0)} on')
