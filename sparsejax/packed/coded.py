"""`Coded` weights: integers in a weight's place, decoded inside the layer that uses them.

One linear rule serves all of them, in every stock layer: the numbers kept in memory, in `jit`'s
arguments and in files are the codes; the float array exists while its layer runs. A look-up in an
`nn.Embed` decodes the rows it reads and no others. No product gets cheaper by it: an integer-only
network is `post_training/integer_network.py`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sparsejax.linear_rules import Layer, linear_rule
from sparsejax.structured import Packed

Array = jax.Array


class Coded(Packed):
  """A weight whose entries are integers that stand for numbers.

  Attributes:
    codes: integers, of the weight's shape.
  """

  codes: Array

  shape = property(lambda self: self.codes.shape)
  ndim = property(lambda self: self.codes.ndim)

  def look_up(self, rows: Array) -> Array:
    """Returns the decoded rows (..., features) of a table for integers `rows` (...) inside it."""
    raise TypeError(f'{type(self).__name__} defines no look_up')

  def entries(self) -> int:
    return int(self.codes.size)


@linear_rule.register
def _(weight: Coded, layer: Layer, inputs: Array) -> Array:
  """The stock layer on the decoded array; a look-up decodes its rows alone."""
  module: Any = layer.module
  if type(module) is not nn.Embed or layer.method == 'attend':
    return layer(weight.to_dense(), inputs)
  if not jnp.issubdtype(inputs.dtype, jnp.integer):
    raise ValueError(f'rows of {layer.path} are looked up by integers, not by {inputs.dtype}')
  rows: Any
  rows, = module.promote_dtype(weight.look_up(inputs), dtype=module.dtype, inexact=False)
  count = weight.shape[0]
  inside = (inputs >= -count) & (inputs < count)
  return jnp.where(inside[..., None], rows, jnp.nan)     # as the stock layer answers
