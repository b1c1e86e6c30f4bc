"""Ternary weights on LeNet-300-100, MNIST; Li, Zhang, Liu 2016, arXiv:1605.04711.

Run:      python -m experiments.train --workdir=out/ternary \
            --config=experiments/configs/QUANT/ternary.py
Variants: :trained  both scales of a layer trained along: trained ternary quantisation, Zhu, Han,
                    Mao, Dally 2017, arXiv:1612.01064, with its threshold 0.05 max |w|
          :four     4 bits on an affine grid per output unit, Jacob et al. 2018, arXiv:1712.05877
          :power    4 bits, 0 or plus or minus a power of two
          :smoke    1 epoch, 512 images of the digits, seconds
Paper:    0.65 % on MNIST (unverified), with a LeNet-5 of 32 and 64 filters: another network.
Ours:     1.97 % (validation 1.72 %) in a file of 53,186 bytes, 52.5 % of the weights not zero;
          2.11 % :trained (validation 2.14 %) in 52,083, 75.0 % not zero; 1.51 % :four in 101,700.
          The same network in float32 has 1.59 % in 1,066,952 bytes. Seed 0, about 300 s each on
          two busy cores of an AMD EPYC. :power not run.

All three kernels are rounded, biases are real.
"""

import ml_collections

METHODS = {
    '': {'method': 'ternary_weights', 'axis': -1},
    'trained': {'method': 'trained_ternary_weights', 'threshold': 0.05},
    'four': {'method': 'affine_weights', 'bits': 4, 'axis': -1},
    'power': {'method': 'power_of_two_weights', 'bits': 4},
}


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.paper = 'QUANT'
  config.seed = 0
  config.dataset = 'mnist'
  config.training_examples = 0
  config.validation_examples = 5000
  config.batch_size = 100
  config.epochs = 60
  config.evaluate_every = 5
  config.checkpoint_every = 20
  config.ema_decay = 0.0
  config.penalty_weight = 1.0
  config.preprocess = {'scale': 1 / 255, 'subtract_mean': False}
  config.model = {'name': 'mlp', 'widths': (300, 100)}
  config.optimiser = {'name': 'adam', 'learning_rate': {
      'schedule': 'piecewise_linear', 'epochs': (0, 60), 'values': (1e-3, 0.0)}}
  method = METHODS.get('' if variant == 'smoke' else variant)
  if method is None:
    raise ValueError(f"variant {variant!r} is not 'trained', 'four', 'power' or 'smoke'")
  config.regulariser = {'weights': {'leaves': '.*kernel', **method}}
  if variant == 'smoke':
    config.dataset = 'digits'
    config.training_examples = 512
    config.validation_examples = 100
    config.epochs = 1
  return config
