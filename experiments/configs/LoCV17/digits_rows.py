"""Bayesian sparsification of an LSTM that reads digits row by row; the method of Lobacheva,
Chirkova and Vetrov 2017 (LoCV17), arXiv:1708.00077, with variables on groups, arXiv:1911.05585.

Run:      python -m experiments.train --workdir=out/digits_rows \\
            --config=experiments/configs/LoCV17/digits_rows.py
          The digits of scikit-learn, 8 rows of 8 pixels, LSTM of 64: every kind of group on a data
          set that needs no download and two minutes.
Variants: :weights  without variables on groups
          :gru      a GRU in place of the LSTM
          :dense    the same network without a method, its best epoch on held-out digits
          :small    40 epochs instead of 200; :small_dense alike
          :smoke    2 epochs, seconds
Paper:    none on this data set
Ours:     test error and weights left, seed 0, a minute or two on a core of an AMD EPYC:
          10.8 %, 160 of 19,072; :weights 16.7 %, 186; :gru 4.7 %, 209 of 14,464; :dense 3.1 %. So
          few digits hardly outweigh the prior of so many weights: a dense LSTM of 490 weights, as
          small a file, errs 6.1 % (`experiments.control`)
"""

from typing import Any

import ml_collections


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  size, kind = '', variant
  if variant in ('small', 'smoke', 'small_dense'):
    size, _, kind = variant.partition('_')
  if kind not in ('', 'weights', 'gru', 'dense'):
    raise ValueError(f"variant {variant!r} is not 'weights', 'gru', 'dense', 'small', 'small_dense'"
                     " or 'smoke'")
  config = ml_collections.ConfigDict()
  config.paper = 'LoCV17'
  config.seed = 0
  config.dataset = 'digits'
  config.training_examples = 0
  config.validation_examples = 237
  config.batch_size = 40
  config.epochs = {'': 200, 'small': 40, 'smoke': 2}[size]
  config.evaluate_every = 1 if size else 5
  config.checkpoint_every = config.epochs // 2
  config.ema_decay = 0.0
  config.penalty_weight = 1.0               # no warm-up
  config.preprocess = {'scale': 1 / 255, 'subtract_mean': False}
  config.model = {
      'name': 'recurrent_classifier', 'classes': 10, 'widths': (64,), 'cell': 'lstm',
      'gate': 'hard_sigmoid', 'forget_bias': 1.0, 'kernel_init': 'glorot_uniform',
      'recurrent_init': {'name': 'orthogonal', 'scale': 1.1}}
  learning_rate: Any = {'schedule': 'piecewise_linear',
                        'epochs': (0, config.epochs // 2, config.epochs),
                        'values': (5e-3, 5e-3, 0.0)}
  config.regulariser = {'rnn': {
      'leaves': '.*', 'method': 'bayesian_rnn', 'strength': 1.0,
      'groups': () if kind == 'weights' else ('inputs', 'hidden', 'gates'), 'embedding': None,
      'kl': 'approximation', 'threshold': 3.0, 'clip': 8.0, 'init_log_sigma': -3.0,
      'head_noise': 'local'}}
  if size == 'smoke':
    config.training_examples = 400
    config.model.widths = (16,)
  if kind == 'gru':
    config.model.cell = 'gru'
    config.model.forget_bias = 0.0
  elif kind == 'dense':
    config.regulariser = {}
    config.evaluate_every = 1
    config.early_stopping = {'patience': 20}
    learning_rate = 5e-3
  config.optimiser = {'name': 'adam', 'learning_rate': learning_rate}
  return config
