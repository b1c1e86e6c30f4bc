"""Soft weight-sharing on the network of its tutorial, MNIST; Ullrich et al. 2017, arXiv:1702.04008.

Run:      python -m experiments.train --workdir=out/soft_sharing_tutorial \
            --config=experiments/configs/UlMW17/tutorial_net.py
          Two phases of one run: the network alone under an L1 penalty, then the network under a
          mixture that starts at the switch; the deployed weights are the means of the components.
          Until the mixture has moved, the curve of the deployed network says nothing. The
          checkpoint at the switch gives the report the weights before they moved.
Variants: :script  the authors' script: 100 and 30 epochs, no L1 penalty, strength 0.003, their
          hyper-priors, constant learning rates, all 60,000 images
          :small  15 and 15 epochs, in which the mixture moves twice as fast
          :smoke  2 epochs, 256 images, under a minute
Paper:    error 0.92 -> 0.98 %, 7.43 % of the 642,460 parameters not zero (tutorial code).
Ours:     not run.
"""

import ml_collections


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.paper = 'UlMW17'
  config.seed = 0
  config.dataset = 'mnist'
  config.training_examples = 0
  config.validation_examples = 5000
  config.batch_size = 256
  alone, shared = 30, 30             # epochs before the mixture, and with it
  strength = 0.01
  zero_prior, init_std = 0.99, 0.1
  shapes_rate = 3e-3                 # of the authors' script, as the other rates
  if variant == 'smoke':
    config.dataset = 'mnist'
    config.training_examples = 256
    config.validation_examples = 100
    config.batch_size = 64
    alone, shared = 1, 1
    zero_prior, init_std = 0.3, 0.02  # else one epoch leaves every weight at zero
  elif variant == 'small':
    alone, shared, shapes_rate = 15, 15, 6e-3
  elif variant == 'script':
    config.validation_examples = 0
    alone, shared = 100, 30
  elif variant:
    raise ValueError(f"variant {variant!r} is not 'script', 'small' or 'smoke'")
  config.epochs = alone + shared
  config.evaluate_every = 5
  config.checkpoint_every = alone     # of which the newest two are kept
  config.ema_decay = 0.0
  config.penalty_weight = 1.0
  config.preprocess = {'scale': 1 / 255, 'subtract_mean': False}
  config.model = {'name': 'strided_convnet', 'widths': (25, 50, 500),
                  'kernel_init': 'glorot_uniform'}
  config.optimiser = {
      'name': 'adam', 'learning_rate': {
          'schedule': 'piecewise_linear',     # of the second phase 5e-4, at last down to 0
          'epochs': (alone - 0.001, alone, alone + 0.65 * shared, alone + shared),
          'values': (1e-3, 5e-4, 5e-4, 0.0)},
      'groups': {
          'means': {'leaves': '.*/mixture/means', 'learning_rate': 1e-4},
          'shapes': {'leaves': '.*/mixture/log_(precisions|mixing)',
                     'learning_rate': shapes_rate},
      },
      'restart_epoch': alone,
  }

  def switch(before, after):
    return {'schedule': 'piecewise_linear', 'epochs': (alone - 1, alone),
            'values': (before, after), 'staircase': True}

  def annealed(*widths):              # (share of the second phase, standard deviation)
    return {'schedule': 'piecewise_linear', 'epochs': tuple(alone + shared * a for a, _ in widths),
            'values': tuple(width for _, width in widths)}

  config.regulariser = {
      'weights': {
          'leaves': '.*',             # biases too
          'method': 'chain',
          # What little weights are left for is known before the mixture takes them for zeros.
          'outer': {'method': 'l1', 'strength': switch(0.7, 0.3)},
          'inner': {
              'method': 'soft_weight_sharing',
              'num_components': 16,
              'zero_prior': zero_prior,
              # Priors that outvote the weights (642,460 of them, of which each counts half), so
              # that the components narrow by schedule: that at zero first, slowly enough for the
              # network to follow, then the others until collapsing onto their means costs nothing.
              'hyper_priors': ((5e6, 2e3), (2.5e4, 10.0)),
              'zero_width': annealed((0, 0.1), (0.1, 0.05), (0.2, 0.028),
                                     (0.4, 0.01), (0.6, 0.001)),
              'width': annealed((0, 0.1), (0.18, 0.03), (0.6, 0.02), (0.86, 0.003)),
              'strength': switch(0.0, strength),
              'shared': True,
              'init_std': init_std,
          },
      },
  }
  if variant == 'script':
    config.optimiser.learning_rate = {
        'schedule': 'piecewise_linear', 'epochs': (alone - 1, alone), 'values': (1e-3, 5e-4),
        'staircase': True}
    config.regulariser = {
        'weights': {
            'leaves': '.*',
            'method': 'soft_weight_sharing',
            'num_components': 16,
            'zero_prior': 0.99,
            'hyper_priors': ((5e3, 2.0), (2.5e2, 0.1)),
            'strength': switch(0.0, 0.003),
            'shared': True,
            'init_std': 0.25,
        },
    }
  return config
