"""Gradual magnitude pruning of units on a small MLP and the embedded digits.

Zhu and Gupta 2017, arXiv:1710.01878: the sparsity rises by their cubic schedule, and what is cut
stays cut. Whole columns go, each a hidden unit with all that it reads, so that the network shrinks.

Run:      python -m experiments.train --workdir=out/magnitude \
            --config=experiments/configs/digits/magnitude_mlp.py
Variants: :smoke  2 epochs, seconds
Ours:     test error 2.22 %, 8,380 of 50,200 weights, 3,775 parameters in the compact network;
          seed 0, 120 epochs in 18 s on two cores of an AMD EPYC (CPU, shared), JAX 0.10.2.
"""

import ml_collections


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.paper = ''
  config.seed = 0
  config.dataset = 'digits'
  config.training_examples = 0
  config.validation_examples = 237
  config.batch_size = 50
  config.epochs = 120
  config.evaluate_every = 5
  config.checkpoint_every = 40
  config.ema_decay = 0.0             # an average would lag behind the schedule
  config.penalty_weight = 1.0
  config.preprocess = {'scale': 1 / 255, 'subtract_mean': False}
  config.model = {'name': 'mlp', 'widths': (300, 100), 'kernel_init': 'he_normal'}
  config.optimiser = {'name': 'adam', 'learning_rate': 1e-3}
  config.regulariser = {
      'units': {'leaves': 'dense[01]/kernel', 'method': 'magnitude_pruning',
                'sparsity': {'schedule': 'cubic_sparsity', 'final': 0.85, 'begin_epoch': 10,
                             'end_epoch': 80},
                'begin': 0, 'every': 20,       # in steps
                'granularity': 'column', 'allocation': 'uniform'},
  }
  if variant == 'smoke':
    config.epochs = 2
    config.evaluate_every = 1
    config.regulariser.units.sparsity.begin_epoch = 0
    config.regulariser.units.sparsity.end_epoch = 1
  elif variant:
    raise ValueError(f"variant {variant!r} is not 'smoke'")
  return config
