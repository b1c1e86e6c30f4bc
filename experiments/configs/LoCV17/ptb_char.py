"""Bayesian sparsification of a character-level LSTM, Penn Treebank; Lobacheva, Chirkova and Vetrov
2017 (LoCV17), arXiv:1708.00077; variables on groups: Lobacheva et al. 2018, arXiv:1812.05692.

Run:      python -m experiments.train --workdir=out/ptb_char \\
            --config=experiments/configs/LoCV17/ptb_char.py
          One-hot characters, LSTM of 1000, 4.3 million weights; windows of 99 characters, each from
          a zero state.
Variants: :inputs         and one variable for each character that is read
          :neurons        and one for each hidden unit
          :neurons_gates  and one for each hidden unit and gate
          :dense          the same network without a method, its best epoch on the validation text
          :small          a fifth of the text, LSTM of 128, 15 epochs instead of 250; :small_inputs
                          :small_neurons :small_neurons_gates :small_dense alike
          :smoke          1 epoch on a few verses, seconds
Paper:    bits per character, by the logs of the authors' code, validation - test: :dense 1.498 -
          1.455; 1.472 - 1.429 with 7.9 times fewer weights; :inputs 1.458 - 1.417, 6.0; :neurons
          1.478 - 1.430, 10.0; :neurons_gates 1.467 - 1.425, 9.8 (report/LoCV17.md).
Ours:     :small 2.009 bits per character, 64,238 of 97,536 weights, no unit without any: 36.1 ms
          for 128 windows dense, 36.0 compact (AMD EPYC, 2 cores); :small_dense 2.043 bits, its
          last epoch the best. Seed 0. After so few epochs a method that removes single weights has
          removed a third of them and no unit.
"""

from typing import Any

import ml_collections

GROUPS = {'': (), 'inputs': ('inputs',), 'neurons': ('hidden',),
          'neurons_gates': ('hidden', 'gates')}


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
  config.dataset = 'ptb_char_windows'
  config.training_examples = 0
  config.validation_examples = 0            # the data set has a validation text
  config.batch_size = 64
  config.epochs = 250
  config.evaluate_every = 1
  config.checkpoint_every = 5
  config.ema_decay = 0.0
  config.penalty_weight = 1.0               # no warm-up
  config.preprocess = {'tokens': True}
  config.model = {
      'name': 'recurrent_language_model', 'vocabulary': 50, 'widths': (1000,), 'cell': 'lstm',
      'gate': 'sigmoid', 'forget_bias': 0.0, 'carried': False, 'kernel_init': 'orthogonal',
      'recurrent_init': 'orthogonal'}
  learning_rate: Any = 2e-3
  config.regulariser = {'rnn': {
      'leaves': '.*', 'method': 'bayesian_rnn', 'strength': 1.0, 'groups': GROUPS.get(kind, ()),
      'embedding': None, 'kl': 'first', 'threshold': 3.0, 'clip': 8.0, 'init_log_sigma': -3.0,
      'head_noise': 'local_shared'}}
  if size == 'small':
    config.training_examples = 10_048       # 157 whole batches
    config.epochs = 15
    config.checkpoint_every = 1
    config.model.widths = (128,)
    learning_rate = {
        'schedule': 'piecewise_linear', 'epochs': (0, 10, 15), 'values': (4e-3, 4e-3, 0.0)}
  elif size == 'smoke':
    config.dataset = 'embedded_text'
    config.training_examples = 512
    config.validation_examples = 100
    config.batch_size = 32
    config.epochs = 1
    config.model.vocabulary = 24
    config.model.widths = (16,)
    learning_rate = 1e-2
  if kind == 'dense':
    config.regulariser = {}
    config.checkpoint_every = 1
    config.early_stopping = {'patience': 3}
  config.optimiser = {'name': 'adam_clipped', 'learning_rate': learning_rate, 'clip_norm': 1.0}
  return config
