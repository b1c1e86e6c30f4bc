"""LeNet-5-Caffe of the frontier: the rules of mlp.py with the gates and groups of a convolution.

  python -m experiments.train --workdir=out/point \
    --config=experiments/configs/frontier/lenet_5.py:l0 --config.regulariser.hidden.strength=0.3

Variants: :dense :magnitude :l1_magnitude :iterative :straight_through :set :rigl :random :l0 :vd
          :group_lasso and :smoke
"""

from typing import Any

import ml_collections

from experiments.configs.frontier import mlp

EPOCHS = 5


def get_config(variant: str = 'dense') -> ml_collections.ConfigDict:
  config = mlp.get_config(variant)
  config.dataset = 'mnist'
  config.epochs = config.evaluate_every = config.checkpoint_every = EPOCHS
  config.model = {'name': 'lenet_5_caffe', 'widths': (20, 50, 500), 'kernel_init': 'he_normal'}
  rules = mlp.rules(variant or 'dense', EPOCHS, every=50)
  if variant == 'l0':            # filters, and inputs of the dense layers
    rules['inputs']['leaves'] = '(dense|head)/kernel'
    rules['hidden'] |= {'leaves': 'conv[01]/kernel', 'axis': -1}
  elif variant == 'group_lasso':
    rules['units']['axis'] = {'conv[01]/kernel': -1, '(dense|head)/kernel': -2}
  elif variant == 'rigl':
    rules['weights']['end'] = 1600
  elif variant == 'smoke':
    config.training_examples = 256
    config.epochs = 1
  config.regulariser = rules
  rate: dict[str, Any] = {'schedule': 'piecewise_linear', 'epochs': (0.4 * EPOCHS, EPOCHS),
                          'values': (2e-3, 0.0)}
  if variant == 'iterative':
    rate = {'schedule': 'rewound', 'epochs_per_round': EPOCHS // 5, 'inner': {
        'schedule': 'piecewise_linear', 'epochs': (0.08 * EPOCHS, 0.2 * EPOCHS),
        'values': (2e-3, 0.0)}}
  config.optimiser = {'name': 'adam', 'learning_rate': rate}
  if variant in ('l0', 'vd'):
    config.penalty_weight = {'schedule': 'piecewise_linear',
                             'epochs': (0.05 * EPOCHS, 0.4 * EPOCHS), 'values': (0.0, 1.0)}
  return config
