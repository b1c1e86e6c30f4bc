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
Ours:     :small  1.08 % on the test set (0.98 % on the 5,000 held out), 18,212 of 641,875 kernel
          entries left, 35 times fewer, 17,114 bytes as .sjx (150 times fewer than float32). Seed 0,
          399 s on a busy core of an AMD EPYC. Full length was not run.
"""

import ml_collections

from experiments.configs.UlMW17.lenet_300_100 import optimiser, sharing, switch


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
  shapes_rate = 3e-3
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
  config.optimiser = optimiser(alone, shared, shapes_rate=shapes_rate)
  config.regulariser = {'weights': sharing(
      alone, shared, num_components=16, zero_prior=zero_prior, init_std=init_std,
      strength=strength)}
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
            'strength': switch(alone, 0.0, 0.003),
            'shared': True,
            'init_std': 0.25,
        },
    }
  return config
