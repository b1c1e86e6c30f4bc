"""The MLP 784-300-100 steered to a density, by L0 gates, sparse VD or group lasso.

  python -m experiments.train --workdir=out/steered \
    --config=experiments/configs/frontier/steered_mlp.py:l0 --config.target.density=0.0333

The methods and their strengths are those of frontier/mlp.py; nothing is tuned by method or density.
When the landing begins, 0.6 of the training, was settled in nine trials, most of 12 epochs and at
30x, by validation error. 32 epochs, since a strength that is moved wants time. All nine runs of the
report: `python -m experiments.steered --workdir=out/steered`.

Variants: :l0 :vd :group_lasso and :smoke
"""

import ml_collections

from experiments.configs.frontier import mlp

EPOCHS = 32
METHODS = ('l0', 'vd', 'group_lasso')


def get_config(variant: str = 'l0') -> ml_collections.ConfigDict:
  variant = variant or 'l0'
  if variant not in (*METHODS, 'smoke'):
    raise ValueError(f'variant {variant!r} is not one of {", ".join(METHODS)} or smoke')
  config = mlp.get_config('l0' if variant == 'smoke' else variant)
  config.epochs = EPOCHS
  config.evaluate_every = 4
  config.checkpoint_every = 8
  with config.ignore_type():
    config.penalty_weight = 1.0                    # the strengths rise from low by themselves
  config.optimiser.learning_rate.epochs = (0.8 * EPOCHS, EPOCHS)
  config.target = {'density': 1 / 30}
  if variant == 'smoke':
    config.dataset = 'digits'
    config.training_examples = 512
    config.validation_examples = 100
    config.epochs = 2
    config.evaluate_every = 1
  return config
