"""The dense network of a given file size: everything narrower in the same proportions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import build
from sparsejax import codec
from sparsejax.training.fit import deployed_collections

ALL_WORDS = 0.25    # of the widths, down to which no word is left out


def equal_bytes_fields(config: ml_collections.ConfigDict, bytes_file: int, shape: tuple[int, ...],
                       frequent: Sequence[int] = ()) -> dict[str, Any]:
  """Returns the fields of the largest dense network whose float32 file has at most `bytes_file`.

  The widths are in the proportions of the config's, and an embedding shrinks with them. Below a
  quarter of them the list of words shrinks too, to the most frequent: a single number for each of
  20,000 words is more than what a sparse network may weigh. Where no network is small enough, the
  fields are those of the smallest.

  Args:
    config: of the big network; its model has the field `widths`.
    shape: of one example. frequent: all tokens, the most frequent first, if it reads tokens.
  """
  model = config.model.to_dict()
  dtype = jnp.int32 if 'tokens' in config.preprocess else jnp.float32

  def fields(factor):
    def scaled(number):
      return max(1, round(number * factor))
    made: dict[str, Any] = {'widths': tuple(scaled(width) for width in model['widths'])}
    if model.get('embedding') is not None:
      made['embedding'] = scaled(model['embedding'])
      words = max(1, round(len(frequent) * min(1, factor / ALL_WORDS)))
      if words < len(frequent):
        made['kept_tokens'] = tuple(sorted(frequent[:words]))
    return made

  sizes: dict[str, int] = {}            # of fields, for neighbouring factors have the same

  def size(factor):
    made = fields(factor)
    if repr(made) not in sizes:
      sizes[repr(made)] = weigh(made)
    return sizes[repr(made)]

  def weigh(made):
    network = build.model(ml_collections.ConfigDict({**model, **made}))
    shapes = dict(jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *shape), dtype)))
    shapes.pop('intermediates', None)
    return codec.float32_bytes(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32),
                                            deployed_collections(shapes)))

  low, high = 0.0, 1.0
  for _ in range(20):
    middle = (low + high) / 2
    low, high = (middle, high) if size(middle) <= bytes_file else (low, middle)
  return fields(low)
