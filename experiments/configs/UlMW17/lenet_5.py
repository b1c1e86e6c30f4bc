"""Soft weight-sharing on LeNet-5-Caffe, MNIST; Ullrich et al. 2017, arXiv:1702.04008, table 1.

Run:      python -m experiments.train --workdir=out/soft_sharing_lenet5 \
            --config=experiments/configs/UlMW17/lenet_5.py
          Two phases of one run: the network alone under an L1 penalty, then the network under a
          mixture that starts at the switch; the deployed weights are the means of the components.
          Until the mixture has moved, the curve of the deployed network says nothing. The
          checkpoint at the switch gives the report the weights before they moved.
Variants: :small  15 and 15 epochs, in which the mixture moves twice as fast
          :smoke  2 epochs, 256 images, under a minute
Paper:    error 0.97 %, 200 times fewer weights.
Ours:     :small  1.47 %, 127 times fewer weights, 4,266 bytes as .sjx (404 times fewer than
          float32). Seed 0, 1,604 s on a busy core of an AMD EPYC. Full length was not run.
"""

import ml_collections

from experiments.configs.UlMW17.lenet_300_100 import optimiser, sharing


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.paper = 'UlMW17'
  config.seed = 0
  config.dataset = 'mnist'
  config.training_examples = 0
  config.validation_examples = 5000
  config.batch_size = 256
  alone, shared = 30, 30             # epochs before the mixture, and with it
  strength = 0.1
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
  elif variant:
    raise ValueError(f"variant {variant!r} is not 'small' or 'smoke'")
  config.epochs = alone + shared
  config.evaluate_every = 5
  config.checkpoint_every = alone     # of which the newest two are kept
  config.ema_decay = 0.0
  config.penalty_weight = 1.0
  config.preprocess = {'scale': 1 / 255, 'subtract_mean': False}
  config.model = {'name': 'lenet_5_caffe', 'widths': (20, 50, 500),
                  'kernel_init': 'glorot_uniform'}
  config.optimiser = optimiser(alone, shared, shapes_rate=shapes_rate)
  config.regulariser = {'weights': sharing(
      alone, shared, num_components=17, zero_prior=zero_prior, init_std=init_std,
      strength=strength)}
  return config
