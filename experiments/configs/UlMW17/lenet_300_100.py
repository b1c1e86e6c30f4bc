"""Soft weight-sharing on LeNet-300-100, MNIST; Ullrich et al. 2017, arXiv:1702.04008, table 1.

Run:      python -m experiments.train --workdir=out/soft_sharing \
            --config=experiments/configs/UlMW17/lenet_300_100.py
          Two phases of one run: the network alone, then the network under a mixture that starts at
          the switch; the deployed weights are the means of the components. Until the mixture has
          moved, the curve of the deployed network says nothing. The checkpoint at the switch gives
          the report the weights before they moved.
Variants: :smoke  2 epochs, 512 images of the digits, seconds
Paper:    error 1.94 %, 23 times fewer weights.
Ours:     2.50 % (validation 2.44 %), 12,554 of 266,200 weights (21.2 times fewer), 66,159 of
          1,066,952 bytes as safetensors, 11,707 as .sjx. Seed 0, 825 s on two busy cores of an AMD
          EPYC. Of the strengths tried, in phases of other lengths: 0.003 gave 3.20 % on the
          validation set with 7.9 % of the weights after 40 epochs, where the mixture still moved;
          0.1 gave 4.26 % with 1.7 % after 45.
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
  alone, shared = 40, 40             # epochs before the mixture, and with it
  strength = 0.03
  zero_prior, init_std = 0.99, 0.25
  if variant == 'smoke':
    config.dataset = 'digits'
    config.training_examples = 512
    config.validation_examples = 100
    config.batch_size = 64
    alone, shared = 1, 1
    zero_prior, init_std = 0.5, 0.05  # else one epoch leaves every weight at zero
  elif variant:
    raise ValueError(f"variant {variant!r} is not 'smoke'")
  config.epochs = alone + shared
  config.evaluate_every = 5
  config.checkpoint_every = alone     # of which the newest two are kept
  config.ema_decay = 0.0
  config.penalty_weight = {
      'schedule': 'piecewise_linear', 'epochs': (alone - 1, alone), 'values': (0.0, 1.0),
      'staircase': True}
  config.preprocess = {'scale': 1 / 255, 'subtract_mean': False}
  config.model = {'name': 'mlp', 'widths': (300, 100), 'kernel_init': 'glorot_uniform'}
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
          'num_components': 17,
          'zero_prior': zero_prior,
          'hyper_priors': ((5e3, 2.0), (2.5e2, 0.1)),
          'strength': strength,
          'shared': True,
          'init_std': init_std,
      },
  }
  return config
