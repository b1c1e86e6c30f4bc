"""The MLP 784-300-100 of the frontier: one base recipe, a variant per method.

Everything but the method is the same: 10 epochs of Adam at batch 128, 5,000 images held out. The
grids over strengths and sparsities are in experiments/evidence/suite.py; one point of them:

  python -m experiments.train --workdir=out/point \
    --config=experiments/configs/frontier/mlp.py:l0 --config.regulariser.hidden.strength=3.0

L0's drop rate, the warm-up of its penalty and its grid were settled in a dozen tries by the
validation error of seed 0, the strengths of group lasso in three; nothing else was tuned.

Variants: :dense :magnitude :l1_magnitude :iterative :straight_through :set :rigl :random :l0 :vd
          :group_lasso and :smoke
"""

from typing import Any

import ml_collections

EPOCHS = 10
METHODS = ('dense', 'magnitude', 'l1_magnitude', 'iterative', 'straight_through', 'set', 'rigl',
           'random', 'l0', 'vd', 'group_lasso')


def rules(method: str, epochs: int, every: int) -> dict[str, Any]:
  """Returns config.regulariser of a method; `every` is the number of steps between mask changes."""
  kernels: dict[str, Any] = {'leaves': '.*kernel'}
  begin, end = 0.15 * epochs, 0.7 * epochs
  gradual: dict[str, Any] = {**kernels, 'method': 'magnitude_pruning', 'begin': 0, 'every': every,
             'sparsity': {'schedule': 'cubic_sparsity', 'final': 0.9, 'begin_epoch': begin,
                          'end_epoch': end},
             'granularity': 'weight', 'allocation': 'global'}
  if method in ('dense', 'smoke'):
    return {}
  if method == 'magnitude':
    return {'weights': gradual}
  if method == 'l1_magnitude':
    outer = {name: value for name, value in gradual.items() if name != 'leaves'}
    return {'weights': {**kernels, 'method': 'chain', 'outer': outer,
                        'inner': {'method': 'l1', 'strength': 0.3}}}
  if method == 'iterative':          # dense, then four rounds, each with the whole rate schedule
    # Looks at steps 38, 77, ..., of which the last of each epoch of 429 steps is one.
    return {'weights': {**gradual, 'begin': 38, 'every': 39, 'sparsity': {
        'schedule': 'iterative_sparsity', 'final': 0.9, 'rounds': 4, 'begin_epoch': epochs // 5,
        'epochs_per_round': epochs // 5}}}
  if method == 'straight_through':
    return {'weights': {**kernels, 'method': 'straight_through_magnitude',
                        'sparsity': gradual['sparsity'], 'granularity': 'weight',
                        'allocation': 'global'}}
  if method == 'random':
    return {'weights': {**kernels, 'method': 'static_mask', 'density': 0.1, 'allocation': 'erk'}}
  if method == 'set':
    return {'weights': {**kernels, 'method': 'sparse_evolutionary_training', 'density': 0.1,
                        'fraction': 0.3, 'every': every, 'allocation': 'erk'}}
  if method == 'rigl':
    return {'weights': {**kernels, 'method': 'rigl', 'density': 0.1, 'fraction': 0.3,
                        'every': every, 'end': 3200, 'allocation': 'erk'}}
  if method == 'l0':
    gates = {'method': 'l0_hard_concrete', 'l2': 0.0, 'drop_rate': 0.2, 'axis': -2, 'per': 'batch',
             'beta': 2 / 3}
    return {'inputs': {'leaves': 'dense0/kernel', 'strength': 0.1, **gates},
            'hidden': {'leaves': '(dense1|head)/kernel', 'strength': 1.0, **gates}}
  if method == 'vd':
    return {'weights': {**kernels, 'method': 'sparse_variational_dropout', 'strength': 1.0,
                        'noise': 'local', 'kl': 'approximation', 'threshold': 3.0,
                        'init_log_sigma2': -10.0, 'clip': 8.0, 'clip_variance': True}}
  if method == 'group_lasso':
    return {'units': {**kernels, 'method': 'group_lasso', 'strength': 1.0, 'axis': -2,
                      'threshold': 1e-2}}
  raise ValueError(f'variant {method!r} is not one of {", ".join(METHODS)} or smoke')


def get_config(variant: str = 'dense') -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.paper = ''
  config.seed = 0
  config.dataset = 'mnist'
  config.training_examples = 0
  config.validation_examples = 5000
  config.batch_size = 128
  config.epochs = EPOCHS
  config.evaluate_every = EPOCHS
  config.checkpoint_every = EPOCHS
  config.ema_decay = 0.0
  config.preprocess = {'scale': 1 / 255, 'subtract_mean': False}
  config.model = {'name': 'mlp', 'widths': (300, 100), 'kernel_init': 'he_normal'}
  rate: dict[str, Any] = {'schedule': 'piecewise_linear', 'epochs': (0.4 * EPOCHS, EPOCHS),
                          'values': (2e-3, 0.0)}
  warm_up: Any = 1.0
  config.regulariser = rules(variant or 'dense', EPOCHS, every=100)
  if variant == 'iterative':
    rate = {'schedule': 'rewound', 'epochs_per_round': EPOCHS // 5, 'inner': {
        'schedule': 'piecewise_linear', 'epochs': (0.08 * EPOCHS, 0.2 * EPOCHS),
        'values': (2e-3, 0.0)}}
  elif variant in ('l0', 'vd'):          # in so few epochs, gates and noise must wait for weights
    warm_up = {'schedule': 'piecewise_linear', 'epochs': (0.05 * EPOCHS, 0.4 * EPOCHS),
               'values': (0.0, 1.0)}
  elif variant == 'smoke':
    config.dataset = 'digits'
    config.training_examples = 512
    config.validation_examples = 100
    config.epochs = 1
  config.optimiser = {'name': 'adam', 'learning_rate': rate}
  config.penalty_weight = warm_up
  return config
