"""What `benchmarks.recurrent` times: language models over stock Flax cells, and how they are cut.

* steps: training of an LSTM of 200 units, over characters (one-hot) and over words (embedding),
  dense and with weights drawn once for the batch, which every time step and sequence shares;
* tokens: deployed networks, dense, with half and a tenth of the hidden units left (`compact`), and
  with a tenth of the recurrent weights left in blocks (`pack`);
* memory: scratch of the compiled step over the length of the sequences.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsejax
from sparsejax.compaction import compact
from sparsejax.models.recurrent import RecurrentLanguageModel
from sparsejax.paths import Tree, map_leaves
from sparsejax.regularisers import bayesian_rnn
from sparsejax.regularisers.block_pruning import gated_blocks
from sparsejax.training.fit import Recipe, as_tokens, start, token_cross_entropy, train_step

LEARNING_RATE = 1e-3
NUM_TERMS = 900_000        # about the words of the Penn Treebank's training text
AT_MOST = 1.25             # a step with drawn weights over the dense step
SLOPES_AT_MOST = 1.05      # bytes a time step, drawn over dense
# The kernels of the candidate, without which an LSTM's or a GRU's unit stays at zero.
CANDIDATE = {'lstm': 'cell0/(ig|hg)/.*', 'gru': 'cell0/(in|hn)/.*'}
# What is drawn: all matrices, of an embedding the rows looked up; those of the cell; all of them
# with variables on words, neurons and gates.
METHODS = ('dense', 'vd', 'vd cell', 'vd groups')


class Setting(NamedTuple):
  """The sizes of one language model and of what it reads.

  Attributes:
    network: a name for the rows. cell: as in `RecurrentLanguageModel`. width: hidden units.
    vocabulary: symbols. embedding: None for one-hot inputs. batch: sequences. length: time steps.
    methods: of `METHODS`, those timed against the dense step; 'vd' has a target.
  """

  network: str
  cell: str
  width: int
  vocabulary: int
  embedding: int | None
  batch: int
  length: int
  methods: tuple[str, ...] = ()

  def model(self) -> RecurrentLanguageModel:
    return RecurrentLanguageModel(self.vocabulary, self.embedding, (self.width,), cell=self.cell)

  def tokens(self, *leading: int) -> jax.Array:
    """Returns random symbols, int32 (*leading, batch, length)."""
    shape = (*leading, self.batch, self.length)
    return jax.random.randint(jax.random.key(0), shape, 0, self.vocabulary)


STEPS = (Setting('char_lm_lstm_200', 'lstm', 200, 50, None, 20, 35, ('vd', 'vd groups')),
         Setting('word_lm_lstm_200', 'lstm', 200, 10_000, 200, 20, 35, ('vd', 'vd cell')))
TOKENS = tuple(Setting(f'{cell}_{width}', cell, width, 50, None, 32, 35)
               for cell in ('lstm', 'gru') for width in (512, 1024))
LENGTHS = (16, 32, 64, 128)
BLOCK = 32
QUICK_STEPS = (Setting('char_lm_lstm_16', 'lstm', 16, 8, None, 2, 4, ('vd',)),)
QUICK_TOKENS = (Setting('gru_64', 'gru', 64, 8, None, 2, 4),)
QUICK_LENGTHS = (16, 32, 48)


# --- training steps -------------------------------------------------------------------------------


def recipe(setting: Setting, method: str) -> Recipe:
  """Returns the recipe of a step; `method` is one of `METHODS`."""
  regulariser = sparsejax.partition()
  if method != 'dense':
    embedding = None if setting.embedding is None else 'embed/embedding'
    regulariser = sparsejax.bayesian_rnn(
        embedding=None if method == 'vd cell' else embedding,
        head=None if method == 'vd cell' else 'head/kernel',
        groups=bayesian_rnn.GROUPS if method == 'vd groups' else (), head_noise='weight')
  return Recipe(setting.model(), regulariser, optax.adam(LEARNING_RATE), NUM_TERMS, setting.batch,
                preprocess=as_tokens, loss=token_cross_entropy)


class TrainingSteps:
  """A call takes `steps` training steps in one jitted scan and carries the state on.

  Attributes:
    losses: NLL in nats a token of each step of the last call, (steps,).
  """

  def __init__(self, setting: Setting, method: str, steps: int):
    made = recipe(setting, method)
    # What follows a symbol is no random matter: the next window is this one, shifted.
    self._tokens = setting.tokens(steps)
    self.state = start(made, jax.random.key(1), self._tokens[0])
    self.losses: Any = None
    self._run = jax.jit(lambda state, tokens: jax.lax.scan(
        lambda state, x: train_step(made, state, x, jnp.roll(x, -1, axis=1)), state, tokens))

  def __call__(self) -> None:
    self.state, self.losses = jax.block_until_ready(self._run(self.state, self._tokens))


# --- deployed networks ----------------------------------------------------------------------------


def deployed(setting: Setting, block: int = BLOCK) -> dict[str, tuple[Callable[[], Any], str]]:
  """Returns {form: (function that reads one batch, what became of the network)}."""
  model, tokens = setting.model(), setting.tokens()
  weights = jax.device_get(model.init(jax.random.key(1), tokens)['params'])

  def reader(model, weights):
    weights = jax.device_put(weights)
    run = jax.jit(lambda weights, tokens: sparsejax.apply(model, {'params': weights}, tokens))
    return lambda: jax.block_until_ready(run(weights, tokens))
  forms = {'dense': (reader(model, weights), f'{setting.width} units')}
  for name, left in (('half of the units', 2), ('a tenth of the units', 10)):
    small = compact(model, {'params': without_units(setting, weights, left)})
    forms[name] = (reader(small.model, small.variables['params']), f'{small.model.widths[0]} units')
  masked = without_blocks(weights, block)
  packed, report = sparsejax.pack(masked, {'cell0/h./kernel': block}, rows=setting.batch)
  made = [entry.row() for entry in report]
  count = sum(entry['packed'] for entry in made)
  density = np.mean([entry['density'] for entry in made])
  forms['masked blocks'] = (reader(model, masked), f'{density:.3f} of the blocks left')
  forms['packed blocks'] = (reader(model, packed), f'{count} of {len(made)} kernels packed, '
                            f'{density:.3f} of their {block} x {block} blocks left')
  return forms


def without_units(setting: Setting, weights: Tree, left: int) -> Tree:
  """Returns weights in which 1 hidden unit of `left` can leave zero, the others never."""
  dead = np.arange(setting.width) % left != 0

  def cut(path, leaf):
    if not re.fullmatch(CANDIDATE[setting.cell], path):
      return leaf
    return np.where(dead, 0, leaf).astype(leaf.dtype)
  return map_leaves(cut, weights)


def without_blocks(weights: Tree, block: int, share: float = 0.9) -> Tree:
  """Returns weights whose recurrent kernels keep the blocks of largest max |w|, a tenth of them."""
  def cut(path, leaf):
    if not re.fullmatch('cell0/h./kernel', path):
      return leaf
    blocks = gated_blocks(path, leaf.shape, block)
    maxima = blocks.maxima(jnp.asarray(leaf))
    kept = blocks.spread(maxima >= np.quantile(maxima, share))
    return np.where(kept, leaf, 0).astype(leaf.dtype)
  return map_leaves(cut, weights)


# --- memory ---------------------------------------------------------------------------------------


def scratch_bytes(setting: Setting, method: str, length: int) -> int:
  """Returns the scratch of the compiled training step on sequences of `length` time steps.

  Raises:
    ValueError: where the backend does not say.
  """
  setting = setting._replace(length=length)
  made = recipe(setting, method)
  tokens = setting.tokens()
  state = jax.eval_shape(lambda key: start(made, key, tokens), jax.random.key(1))
  step = jax.jit(lambda state, x: train_step(made, state, x, jnp.roll(x, -1, axis=1)))
  found = step.lower(state, tokens).compile().memory_analysis()
  if found is None:
    raise ValueError(f'JAX says nothing of the memory of a program on {jax.default_backend()}')
  return int(found.temp_size_in_bytes)


def bytes_per_step(lengths: tuple[int, ...], scratch: list[int]) -> float:
  """Returns the slope of the least-squares line of scratch over length."""
  return float(np.polyfit(np.asarray(lengths, float), np.asarray(scratch, float), 1)[0])
