"""Recurrent networks over stock Flax cells: a classifier of sequences and a language model.

Both run `nn.RNN` over cells named `cell0`, `cell1`, ..., so that a parameter is found at
`cell0/hf/kernel` whatever runs the cell. In the manner of Flax, `i*` are input kernels, `h*`
recurrent ones: SimpleCell has i (with bias) and h; LSTMCell and OptimizedLSTMCell ii, if, ig, io
and hi, hf, hg, ho (with bias); GRUCell ir, iz, in (with bias), hr, hz and hn (with bias).

The sizes and details that figures are published for (Lobacheva, Chirkova and Vetrov, 2017,
arXiv:1708.00077, and Chirkova, Lobacheva and Vetrov, 2018, arXiv:1810.10927, with their code) are
attributes here: gates by the hard sigmoid of Theano, which is not Flax's; the forget bias;
orthogonal recurrent kernels with a gain; one-hot inputs of language models.

Padding stands at the end of a sequence and changes nothing. A language model can carry its state
from one segment of a text to the next in the collection 'carry' (`RecurrentLanguageModel`).

Named intermediates, in the collection 'intermediates': `embed_out` (B, T, embedding), `cell0_out`,
`cell1_out`, ... (B, T, width), and `last_state` (B, width), what the classifier's head is handed.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sparsejax.compaction.couplings import Coupling
from sparsejax.models.recurrent_couplings import compacted_fields, couplings_of
from sparsejax.models.sequences import entries, lengths, one_hot, rows_of, state_behind

Array = jax.Array

CELLS: dict[str, type[nn.RNNCellBase]] = {
    'simple': nn.SimpleCell,
    'lstm': nn.LSTMCell,
    'optimized_lstm': nn.OptimizedLSTMCell,
    'gru': nn.GRUCell,
}


def hard_sigmoid(x: Array) -> Array:
  """Returns clip(0.2 x + 0.5, 0, 1), Theano's; Flax's rises by 1/6."""
  return jnp.clip(0.2 * x + 0.5, 0, 1)


GATES: dict[str, Callable[[Array], Array]] = {'sigmoid': nn.sigmoid, 'hard_sigmoid': hard_sigmoid}


class RecurrentClassifier(nn.Module):
  """Embedding (for tokens), recurrent layers, and a head on the state behind the last token.

  Attributes:
    classes: units of the head.
    vocabulary: how many tokens there are; None for sequences of real vectors.
    embedding: numbers that stand for a token; None with vocabulary=None.
    widths: units of the recurrent layers.
    cell: 'simple', 'lstm', 'optimized_lstm' or 'gru'.
    gate: 'sigmoid' or 'hard_sigmoid'.
    forget_bias: of an LSTM's forget gate at the start; all other biases start at 0.
    pad: the token that fills up short sequences behind their end; None where all have one length.
      In front of a token or between two it is read as any other: whether a sequence was filled up
      at its beginning cannot be seen from here.
    kept_tokens: the tokens that have a row of the embedding, ascending; all others look up a zero
      vector. None keeps all.
    kept_inputs: the entries of the real vectors that the network reads; None reads all.
    kernel_init: of the input kernels and the head. recurrent_init: of the recurrent kernels.
    embedding_init: of the embedding.

  Takes tokens (B, T), integers below `vocabulary` (which jit cannot check), or real numbers
  (B, T, ...), such as images by rows, flattened to (B, T, n). Returns logits (B, classes). A
  sequence of padding alone is classified by the zero state.

  Raises:
    ValueError: for attributes that do not fit together or inputs of another kind.
  """

  classes: int
  vocabulary: int | None = None
  embedding: int | None = None
  widths: tuple[int, ...] = (128,)
  cell: str = 'lstm'
  gate: str = 'sigmoid'
  forget_bias: float = 0.0
  pad: int | None = 0
  kept_tokens: tuple[int, ...] | None = None
  kept_inputs: tuple[int, ...] | None = None
  kernel_init: Any = nn.linear.default_kernel_init
  recurrent_init: Any = nn.initializers.orthogonal()
  embedding_init: Any = nn.linear.default_embed_init

  @nn.compact
  def __call__(self, x: Array) -> Array:
    if (self.vocabulary is None) != (self.embedding is None):
      raise ValueError(f'vocabulary={self.vocabulary} and embedding={self.embedding}: a classifier '
                       'of tokens needs both, one of real vectors neither')
    if self.vocabulary is None:
      if self.kept_tokens is not None:
        raise ValueError('kept_tokens are given, but vocabulary=None: real vectors have '
                         'kept_inputs')
      states = _layers(self, entries(x, self.kept_inputs))[0]
      last = states[:, -1]
    else:
      if self.kept_inputs is not None:
        raise ValueError(f'kept_inputs are given, but vocabulary={self.vocabulary}: tokens have '
                         'kept_tokens')
      if self.pad is not None and not 0 <= self.pad < self.vocabulary:
        raise ValueError(f'pad={self.pad} is no token of a vocabulary of {self.vocabulary}; use '
                         'None where nothing is padded')
      states = _layers(self, _embedded(self, x))[0]
      last = states[:, -1] if self.pad is None else state_behind(states, lengths(x, self.pad))
    self.sow('intermediates', 'last_state', last)
    return nn.Dense(self.classes, kernel_init=self.kernel_init, name='head')(last)

  def couplings(self, variables: Mapping[str, Any],
                example_shape: tuple[int, ...] | None = None) -> tuple[Coupling, ...]:
    """Returns the rows 'tokens' and 'embed', or 'inputs', then 'cell0', 'cell1', ...

    Args:
      variables: as for `apply`; the kernels of the cells are found in it.
      example_shape: not needed here.
    """
    del example_shape
    return couplings_of(variables, len(self.widths), self.embedding is not None,
                        'inputs' if self.vocabulary is None else 'tokens')

  def compacted(self, alive: Mapping[str, np.ndarray],
                params: Mapping[str, Any]) -> RecurrentClassifier:
    """Returns the model of the smaller network; `alive` is {coupling: bool mask of units}."""
    del params
    return self.clone(**compacted_fields(alive, self.kept_tokens, self.kept_inputs))


class RecurrentLanguageModel(nn.Module):
  """Embedding or one-hot inputs, recurrent layers, and logits of the next token at each step.

  With `carried`, the states behind the last step stay in the collection 'carry' and the next
  segment of the text starts from them, without gradients through them: truncated
  back-propagation. `apply(variables, tokens, mutable=['carry'])` returns what to put into the
  variables of the next call; without a 'carry' there, states start at zero. If the collection is
  not mutable it is read only. `init` returns one of zeros, as `zero_carry` does for any batch.

  Attributes:
    vocabulary: how many tokens there are, read and predicted.
    embedding: numbers that stand for a token; None hands the first cell one-hot vectors.
    widths, cell, gate, forget_bias: as for `RecurrentClassifier`.
    carried: whether the state is carried from segment to segment.
    kept_tokens: the tokens that the network reads, ascending; any other is a zero vector to it.
      None reads all. All tokens are predicted.
    kernel_init, recurrent_init, embedding_init: as for `RecurrentClassifier`.

  Takes tokens (B, T), integers below `vocabulary` (which jit cannot check). Returns logits
  (B, T, vocabulary).

  Raises:
    ValueError: for attributes that do not fit together, inputs of another kind, or a carry of
      another batch or network.
  """

  vocabulary: int
  embedding: int | None = None
  widths: tuple[int, ...] = (256,)
  cell: str = 'lstm'
  gate: str = 'sigmoid'
  forget_bias: float = 0.0
  carried: bool = False
  kept_tokens: tuple[int, ...] | None = None
  kernel_init: Any = nn.linear.default_kernel_init
  recurrent_init: Any = nn.initializers.orthogonal()
  embedding_init: Any = nn.linear.default_embed_init

  @nn.compact
  def __call__(self, tokens: Array) -> Array:
    if self.embedding is None:
      x = one_hot(tokens, self.vocabulary, self.kept_tokens)
    else:
      x = _embedded(self, tokens)
    states, carries = _layers(self, x, self._carry_in(tokens.shape[0]))
    if self.carried and self.is_mutable_collection('carry'):
      if self.is_initializing():
        carries = self.zero_carry(tokens.shape[0])
      for name, carry in carries.items():
        self.put_variable('carry', name, carry)
    return nn.Dense(self.vocabulary, kernel_init=self.kernel_init, name='head')(states)

  def zero_carry(self, batch: int) -> dict[str, dict[str, Array]]:
    """Returns the collection 'carry' at the start of a text, for a batch of that size."""
    parts = ('c', 'h') if 'lstm' in self.cell else ('h',)
    return {f'cell{i}': {part: jnp.zeros((batch, width)) for part in parts}
            for i, width in enumerate(self.widths)}

  def couplings(self, variables: Mapping[str, Any],
                example_shape: tuple[int, ...] | None = None) -> tuple[Coupling, ...]:
    """Returns the rows 'tokens', 'embed' (where there is one), 'cell0', 'cell1', ...

    Args:
      variables: as for `apply`; the kernels of the cells are found in it, and the carry, if any.
      example_shape: not needed here.
    """
    del example_shape
    return couplings_of(variables, len(self.widths), self.embedding is not None, 'tokens')

  def compacted(self, alive: Mapping[str, np.ndarray],
                params: Mapping[str, Any]) -> RecurrentLanguageModel:
    """Returns the model of the smaller network; `alive` is {coupling: bool mask of units}."""
    del params
    return self.clone(**compacted_fields(alive, self.kept_tokens))

  def _carry_in(self, batch):
    if not self.carried:
      return {}
    found = {name: self.get_variable('carry', name) for name in self.zero_carry(batch)
             if self.has_variable('carry', name)}
    if not found:
      return {}
    expected = jax.tree.map(jnp.shape, self.zero_carry(batch))
    if jax.tree.map(jnp.shape, found) != expected:
      raise ValueError(f"the collection 'carry' holds {jax.tree.map(jnp.shape, found)}, this "
                       f'network and batch need {expected}; leave it out at the start of a text, '
                       'or slice it as compact does')
    return jax.lax.stop_gradient(found)


def _layers(model, x, carries=None):
  """Returns the states (B, T, width) of the last layer, and {cell: its carry behind the end}."""
  final = {}
  for i, width in enumerate(_checked_widths(model)):
    name = f'cell{i}'
    cell = _cell(model, width, name)
    carry = _as_flax((carries or {}).get(name))
    carry, x = nn.RNN(cell, return_carry=True, name=f'rnn{i}')(x, initial_carry=carry)
    model.sow('intermediates', f'{name}_out', x)
    final[name] = dict(zip(('c', 'h'), carry)) if isinstance(carry, tuple) else {'h': carry}
  return x, final


def _as_flax(carry):
  """The carry as the cell takes it."""
  if carry is None:
    return None
  return (carry['c'], carry['h']) if 'c' in carry else carry['h']


def _cell(model, width, name):
  gate = {} if model.cell == 'simple' else {'gate_fn': GATES[model.gate]}
  if model.is_initializing() and model.forget_bias and not model.has_variable('params', name):
    # A cell has one initialiser for all its biases; it leaves alone what exists already.
    model.put_variable('params', name, {'hf': {'bias': jnp.full((width,), model.forget_bias)}})
  return CELLS[model.cell](width, kernel_init=model.kernel_init,
                           recurrent_kernel_init=model.recurrent_init, name=name, **gate)


def _checked_widths(model):
  for field, value, known in (('cell', model.cell, CELLS), ('gate', model.gate, GATES)):
    if value not in known:
      near = difflib.get_close_matches(str(value).lower(), known, 1, 0.4)
      hint = f'did you mean {near[0]!r}? ' if near else ''
      raise ValueError(f'{field}={value!r} is unknown; {hint}use one of {", ".join(known)}')
  if not model.widths or min(model.widths) < 1:
    raise ValueError(f'widths={model.widths} must hold at least one layer, of at least one unit '
                     'each')
  if 'lstm' not in model.cell and model.forget_bias:
    raise ValueError(f'forget_bias={model.forget_bias}, but the cell {model.cell!r} has no forget '
                     'gate; leave it at 0')
  if model.cell == 'simple' and model.gate != 'sigmoid':
    raise ValueError(f"gate={model.gate!r}, but the cell 'simple' has no gates; leave it at "
                     "'sigmoid'")
  return model.widths


def _embedded(model, tokens):
  """Returns (B, T, embedding): the rows looked up, zero for tokens without one."""
  tokens, count = rows_of(tokens, model.vocabulary, model.kept_tokens)
  x = nn.Embed(count, model.embedding, embedding_init=model.embedding_init,
               name='embed')(jnp.minimum(tokens, count - 1))
  if model.kept_tokens is not None:
    x = jnp.where((tokens < count)[..., None], x, 0)
  model.sow('intermediates', 'embed_out', x)
  return x
