"""The LSTM with deep updates of Gray, Radford and Kingma, a language model of sparse wide layers.

"GPU kernels for block-sparse weights", OpenAI technical report, 2017, and its example code. A layer
of few blocks joins few units, but several of them in a row join all: so between the input and the
gates the state passes through `steps` square layers within one time step. As in a multiplicative
LSTM, the input enters twice, multiplying after the first of them and adding after the second. Every
product is followed by layer norm, and square layers start as the identity: with that, no other care
is needed at the start of training.

Where we differ: the embedding and the output layer are plain, where the code normalises their
weights; the input reaches all units, where it can be told to reach every n-th.

All modules are stock Flax, so that every kernel may be structured; those of the cell are named
`cell/h0`, `cell/h1`, ... (internal steps) and `cell/i`, `f`, `o`, `u` (input, forget and output
gate, update).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sparsejax.compaction.couplings import Coupling

Array = jax.Array

GATES = ('i', 'f', 'o', 'u')


def repeated_identity(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
  """Initialiser: the identity; in a kernel that is not square, repeated along the longer axis.

  Entry (i, j) of (inputs, outputs) is 1 where i = j modulo the shorter side, else 0. In blocks it
  lies on the diagonal, which the small-world patterns always keep.
  """
  del key
  rows, columns = np.indices(shape)
  return jnp.asarray(rows % shape[1] == columns % shape[0], dtype)


class DeepUpdateCell(nn.RNNCellBase):
  """One time step.

  Attributes:
    width: units. steps: internal layers before the gates, at least 2.
    kernel_init: of all kernels. forget_bias: of the forget gate at the start.

  Takes the carry (c, h), each (B, width), and (B, 2 * width): what multiplies and what is added.
  Returns the new carry and h.
  """

  width: int
  steps: int
  kernel_init: Any = repeated_identity
  forget_bias: float = 1.0

  @nn.compact
  def __call__(self, carry: tuple[Array, Array],
               inputs: Array) -> tuple[tuple[Array, Array], Array]:
    c, h = carry
    factor, term = jnp.split(inputs, 2, axis=-1)
    for step in range(self.steps):
      h = self._layer(f'h{step}', h)
      if step == 0:
        h = h * factor
      else:
        h = nn.relu(h + term if step == 1 else h)
    bias = {'f': nn.initializers.constant(self.forget_bias)}
    i, f, o, u = (self._layer(gate, h, bias.get(gate, nn.initializers.zeros)) for gate in GATES)
    c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(u)
    h = nn.sigmoid(o) * jnp.tanh(c)
    return (c, h), h

  def _layer(self, name, h, bias_init=nn.initializers.zeros):
    h = nn.Dense(self.width, use_bias=False, kernel_init=self.kernel_init, name=name)(h)
    return nn.LayerNorm(name=f'{name}_norm', bias_init=bias_init)(h)

  @nn.nowrap
  def initialize_carry(self, rng: Array, input_shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Returns zeros; `input_shape` is (B, 2 * width)."""
    del rng
    zeros = jnp.zeros((*input_shape[:-1], self.width))
    return zeros, zeros

  @property
  def num_feature_axes(self) -> int:
    """Axes of one input that are no batch axes."""
    return 1


class DeepLSTM(nn.Module):
  """Embedding, two layers that bring it to the state's width, the recurrent cell, output layer.

  Attributes:
    symbols: of the vocabulary, in and out.
    width: units of the state. embedding: numbers that stand for a symbol.
    steps: internal layers of the cell, at least 2. In the report the gain ends at about 4.
    forget_bias: of the forget gate at the start.
    kernel_init: of the cell's kernels and of the two layers before it.

  Takes symbols (B, T), integers; every sequence starts from a zero state. Returns logits of the
  next symbol, (B, T, symbols).

  Raises:
    ValueError: for fewer than two steps, or inputs that are no integers (B, T).
  """

  symbols: int
  width: int
  embedding: int = 64
  steps: int = 4
  forget_bias: float = 1.0
  kernel_init: Any = repeated_identity

  @nn.compact
  def __call__(self, tokens: Array) -> Array:
    if self.steps < 2:
      raise ValueError(f'steps={self.steps} must be at least 2: the input multiplies after the '
                       'first and is added after the second')
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
      raise ValueError(f'tokens are {tokens.dtype} {tokens.shape}; need integers (B, T)')
    x = nn.Embed(self.symbols, self.embedding, name='embed')(tokens)
    mixes = []
    for name in ('multiply', 'add'):
      mix = nn.Dense(self.width, use_bias=False, kernel_init=self.kernel_init, name=name)(x)
      mixes.append(nn.LayerNorm(name=f'{name}_norm')(mix))
    cell = DeepUpdateCell(self.width, self.steps, self.kernel_init, self.forget_bias, name='cell')
    states = nn.RNN(cell, name='rnn')(jnp.concatenate(mixes, axis=-1))
    self.sow('intermediates', 'cell_out', states)
    return nn.Dense(self.symbols, name='head')(states)

  def couplings(self, variables: Mapping[str, Any] | None = None,
                example_shape: tuple[int, ...] | None = None) -> tuple[Coupling, ...]:
    """Returns none: layer norm reads all units, so that no one of them can be cut out alone."""
    del variables, example_shape
    return ()

  def compacted(self, alive: Mapping[str, np.ndarray], params: Mapping[str, Any]) -> DeepLSTM:
    """Returns the model itself."""
    del alive, params
    return self
