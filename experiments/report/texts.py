"""What a network does with words: texts that a language model writes, words a classifier keeps.

Everything is computed from the folder of the run: its config, deployed weights and vocabulary. The
latter is written there by the first report, at the end of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import build, datasets, vocabulary
from experiments.datasets.ptb import END
from experiments.datasets.reviews import START
from experiments.report.folder import Run
from experiments.report.tables import escape, table
from experiments.structure import is_recurrent
from sparsejax.models.recurrent import RecurrentLanguageModel
from sparsejax.paths import unflatten

SAMPLE_KEY = 0
TEMPERATURES = (1.0, 0.7)
CHARACTERS, WORDS = 400, 80       # length of a sample
SHOWN = 20                        # words of each side
BATCH = 512                       # words whose effect is computed at once


class Word(NamedTuple):
  """A word that is left and its `effect`, see `word_effects`."""

  word: str
  effect: float


def text_sections(run: Run) -> list[str]:
  """Returns the sections of the report on texts; none for a network that reads none."""
  if not is_recurrent(run.config) or not run.config['model'].get('vocabulary'):
    return []
  try:
    names = names_of(run)
  except (ValueError, OSError) as error:
    return ['## Texts', '', f'Not shown: {escape(str(error))}.', '']
  if run.config['model']['name'] == 'recurrent_language_model':
    return ['## Texts', '', *_samples(run, names)]
  if run.config['model']['classes'] != 2:
    return []
  return ['## Words', '', *_words(run, names)]


def names_of(run: Run) -> tuple[str, ...]:
  """Returns the words or characters that the network knows by number.

  They are in the folder of the run; if not yet, they are taken from its data set and kept there.

  Raises:
    ValueError: if they are not of this network, or the data set is not that of the run; OSError if
      they are not there and the data set is not at hand.
  """
  if not (run.folder / vocabulary.FILE).exists():
    dataset: Any = datasets.load(run.config['dataset'])
    if hasattr(dataset, 'windows'):
      dataset = dataset.windows(run.config['batch_size'], run.config['sequence']['length'])
    if dataset.hash != run.ledger['data_hash']:
      raise ValueError(f'{run.folder / vocabulary.FILE} is missing, and the data set '
                       f'{run.config["dataset"]} is not the one that the run had (its checksum is '
                       'another)')
    vocabulary.write(run.folder, vocabulary.of(dataset))
  return vocabulary.read(run.folder, run.config['model']['vocabulary'])


def sample(model: RecurrentLanguageModel, params: Any, length: int, start: int,
           temperature: float, key: jax.Array) -> np.ndarray:
  """Returns (length,) tokens that a language model writes after the token `start`.

  Args:
    model, params: of the deployed network. temperature: divides the logits; 1 is the model's own
      distribution, less is more of what it finds likely.
  """
  model = model.clone(carried=True)

  @jax.jit
  def write(params, keys):
    def step(state, key):
      token, carry = state
      logits, new = model.apply({'params': params, 'carry': carry}, token[None, None],
                                mutable=['carry'])
      token = jax.random.categorical(key, logits[0, 0] / temperature)
      return (token, new['carry']), token
    return jax.lax.scan(step, (jnp.int32(start), model.zero_carry(1)), keys)[1]
  return np.asarray(write(params, jax.random.split(key, length)))


def word_effects(model: Any, params: Any, names: Sequence[str], kept: np.ndarray) -> list[Word]:
  """Returns the words of the numbers `kept` with their effects, the largest first.

  The effect is by how much the logit of class 1 less that of class 0 rises where a text consists of
  this word alone, against one without a word.
  """
  @jax.jit
  def margin(params, tokens):
    logits = model.apply({'params': params}, tokens)
    return logits[:, 1] - logits[:, 0]
  pad = 0 if model.pad is None else model.pad
  empty = float(margin(params, jnp.array([[START, pad]], jnp.int32))[0])
  effects = []
  for first in range(0, len(kept), BATCH):
    part = np.resize(kept[first:first + BATCH], BATCH)             # one shape, compiled once
    tokens = np.stack([np.full(BATCH, START), part], axis=1).astype(np.int32)
    effects.append(np.asarray(margin(params, jnp.asarray(tokens)))[:len(kept) - first] - empty)
  found = [Word(names[i], float(effect))
           for i, effect in zip(kept, np.concatenate(effects or [np.zeros(0)]), strict=True)]
  return sorted(found, key=lambda word: (-abs(word.effect), word.word))


def _samples(run: Run, names: Sequence[str]) -> list[str]:
  by_word = END in names
  start = names.index(END if by_word else '\n') if END in names or '\n' in names else 0
  lines = [f'Written by the deployed network after {"a sentence" if by_word else "a line"} ended, '
           f'with a fixed key; nothing was selected.', '']
  for temperature in TEMPERATURES:
    tokens = sample(_model(run), _params(run), WORDS if by_word else CHARACTERS, start, temperature,
                    jax.random.key(SAMPLE_KEY))
    text = (' ' if by_word else '').join(names[i] for i in tokens)
    if by_word:
      text = text.replace(f' {END}', '\n').replace('\n ', '\n')
    indented = (f'    {line}' for line in text.split('\n'))
    lines += [f'Temperature {temperature:g}:', '', *indented, '']
  return lines


def _words(run: Run, names: Sequence[str]) -> list[str]:
  table_of_words = run.deployed.get('embed/embedding')
  if table_of_words is None:
    return []
  kept = np.flatnonzero(np.any(table_of_words != 0, axis=1))
  found = word_effects(_model(run), _params(run), names, kept)
  raising = [word for word in found if word.effect > 0][:SHOWN]
  lowering = [word for word in found if word.effect < 0][:SHOWN]
  count = max(len(raising), len(lowering))
  def cell(words, i):
    return (words[i].word, f'{words[i].effect:+.3f}') if i < len(words) else ('', '')
  rows = [(*cell(raising, i), *cell(lowering, i)) for i in range(count)]
  silent = sum(word.effect == 0 for word in found)
  return [(f'{len(kept):,} of {len(names):,} words are left. Those with the largest effects: by '
           'how much the word alone, as a text, raises the logit of class 1 against that of class '
           '0.'
           + (f' {silent:,} have none.' if silent else '')), '',
          *([table(('for class 1', 'effect', 'for class 0', 'effect'), rows, right=(1, 3)), '']
            if rows else [])]


def _model(run: Run) -> Any:
  fields: Mapping[str, Any] = run.config['model']
  return build.model(ml_collections.ConfigDict(
      {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}))


def _params(run: Run) -> Any:
  return unflatten({path: jnp.asarray(leaf) for path, leaf in run.deployed.items()})
