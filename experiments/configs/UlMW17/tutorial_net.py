"""Soft weight-sharing on the network of its tutorial, MNIST; Ullrich et al. 2017, arXiv:1702.04008.

Run:      python -m experiments.train --workdir=out/soft_sharing_tutorial \
            --config=experiments/configs/UlMW17/tutorial_net.py
          Two phases of one run: the network alone, then the network under a mixture that starts at
          the switch; the deployed weights are the means of the components. Until the mixture has
          moved, the curve of the deployed network says nothing. The checkpoint at the switch gives
          the report the weights before they moved.
Variants: :script  the authors' strength, 0.003, at constant learning rates, all 60,000 images
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
  strength = 0.03
  zero_prior, init_std = 0.99, 0.25
  if variant == 'smoke':
    config.dataset = 'mnist'
    config.training_examples = 256
    config.validation_examples = 100
    config.batch_size = 64
    alone, shared = 1, 1
    zero_prior, init_std = 0.3, 0.02  # else one epoch leaves every weight at zero
  elif variant == 'script':
    config.validation_examples = 0
    alone, shared, strength = 100, 30, 0.003
  elif variant:
    raise ValueError(f"variant {variant!r} is not 'script' or 'smoke'")
  config.epochs = alone + shared
  config.evaluate_every = 5
  config.checkpoint_every = alone     # of which the newest two are kept
  config.ema_decay = 0.0
  config.penalty_weight = {
      'schedule': 'piecewise_linear', 'epochs': (alone - 1, alone), 'values': (0.0, 1.0),
      'staircase': True}
  config.preprocess = {'scale': 1 / 255, 'subtract_mean': False}
  config.model = {'name': 'strided_convnet', 'widths': (25, 50, 500),
                  'kernel_init': 'glorot_uniform'}
  config.optimiser = {
      'name': 'adam', 'learning_rate': {
          'schedule': 'piecewise_linear',     # half of the second phase at 5e-4, then down to 0
          'epochs': (alone - 0.001, alone, alone + shared / 2, alone + shared),
          'values': (1e-3, 5e-4, 5e-4, 0.0)},
      'groups': {                     # the authors' script
          'means': {'leaves': '.*/mixture/means', 'learning_rate': 1e-4},
          'shapes': {'leaves': '.*/mixture/log_(precisions|mixing)', 'learning_rate': 3e-3},
      },
      'restart_epoch': alone,
  }
  config.regulariser = {
      'weights': {
          'leaves': '.*',             # biases too
          'method': 'soft_weight_sharing',
          'num_components': 16,
          'zero_prior': zero_prior,
          'hyper_priors': ((5e3, 2.0), (2.5e2, 0.1)),
          'strength': strength,
          'shared': True,
          'init_std': init_std,
      },
  }
  if variant == 'script':
    config.optimiser.learning_rate = {
        'schedule': 'piecewise_linear', 'epochs': (alone - 1, alone), 'values': (1e-3, 5e-4),
        'staircase': True}
  return config
