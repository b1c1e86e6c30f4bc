"""Bayesian sparsification of a word-level LSTM, Penn Treebank; Lobacheva, Chirkova and Vetrov 2017
(LoCV17), arXiv:1708.00077; variables on groups: Lobacheva et al. 2018, arXiv:1812.05692.

Run:      python -m experiments.train --workdir=out/ptb_word \\
            --config=experiments/configs/LoCV17/ptb_word.py
          One-hot words, LSTM of 256, 13 million weights; the state is carried through the text.
Variants: :words          and one variable for each word that is read
          :neurons        and one for each hidden unit
          :neurons_gates  and one for each hidden unit and gate
          :dense          the same network without a method, its best epoch on the validation text:
                          later it overfits badly
          :small          the 2,000 most frequent words, LSTM of 64, 12 epochs instead of 150;
                          :small_words :small_neurons :small_neurons_gates :small_dense alike
          :smoke          2 epochs on a few verses, seconds
Paper:    perplexity, by the logs of the authors' code, validation - test: :dense 135.6 - 129.3;
          115.0 - 109.2 with 22.1 times fewer weights; :words 126.0 - 120.2, 19.3; :neurons 116.1 -
          111.0, 23.5; :neurons_gates 122.0 - 116.5, 24.5 (report/LoCV17.md).
Ours:     :small        59.3 with 6.6 times fewer weights, 5.4 times fewer bytes
          :small_dense  51.7, its best epoch. Perplexities on the test text in which all but 2,000
          words are one, seed 0, 12 epochs: an easier task than the paper's.
"""

from typing import Any

import ml_collections

GROUPS = {'': (), 'words': ('words',), 'neurons': ('hidden',), 'neurons_gates': ('hidden', 'gates')}


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  size, kind = '', variant
  if variant in ('small', 'smoke') or variant.startswith('small_'):
    size, _, kind = variant.partition('_')
  if kind not in (*GROUPS, 'dense'):
    raise ValueError(f"variant {variant!r} is not 'smoke', 'small', one of "
                     f"{', '.join(map(repr, (*list(GROUPS)[1:], 'dense')))}, or 'small_' with one")
  config = ml_collections.ConfigDict()
  config.paper = 'LoCV17'
  config.seed = 0
  config.task = 'language_model'
  config.dataset = 'ptb_word'
  config.sequence = {'length': 35}
  config.training_examples = 0
  config.validation_examples = 0            # the data set has a validation text
  config.batch_size = 32
  config.epochs = 150
  config.evaluate_every = 1
  config.checkpoint_every = 5
  config.ema_decay = 0.0
  config.penalty_weight = 1.0               # no warm-up
  config.preprocess = {'tokens': True}
  config.model = {
      'name': 'recurrent_language_model', 'vocabulary': 10_000, 'widths': (256,), 'cell': 'lstm',
      'gate': 'sigmoid', 'forget_bias': 1.0, 'carried': True, 'kernel_init': 'orthogonal',
      'recurrent_init': 'orthogonal'}
  learning_rate: Any = 2e-3
  config.regulariser = {'rnn': {
      'leaves': '.*', 'method': 'bayesian_rnn', 'strength': 1.0, 'groups': GROUPS.get(kind, ()),
      'embedding': None, 'kl': 'first', 'threshold': 3.0, 'clip': 8.0, 'init_log_sigma': -3.0,
      'head_noise': 'weight'}}
  if size == 'small':
    config.dataset = 'ptb_word_2000'
    config.epochs = 12
    config.checkpoint_every = 1
    config.model.vocabulary = 2_000
    config.model.widths = (64,)
    learning_rate = {
        'schedule': 'piecewise_linear', 'epochs': (0, 8, 12), 'values': (4e-3, 4e-3, 0.0)}
  elif size == 'smoke':
    config.dataset = 'embedded_words'
    config.sequence.length = 8
    config.batch_size = 16
    config.epochs = 2
    config.model.vocabulary = 30
    config.model.widths = (16,)
    learning_rate = 1e-2
  if kind == 'dense':
    config.regulariser = {}
    config.checkpoint_every = 1
    config.early_stopping = {'patience': 3}
  config.optimiser = {'name': 'adam_clipped', 'learning_rate': learning_rate, 'clip_norm': 10.0}
  return config
