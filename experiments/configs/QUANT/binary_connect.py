"""BinaryConnect on LeNet-300-100, MNIST; Courbariaux, Bengio, David 2015, arXiv:1511.00363.

Run:      python -m experiments.train --workdir=out/binary \
            --config=experiments/configs/QUANT/binary_connect.py
Variants: :stochastic  signs at random in training, by sign when deployed
          :scaled      plus or minus the mean |w| of each output unit instead: the binary weights of
                       XNOR-Net, arXiv:1603.05279
          :dense       the same recipe with real weights
          :smoke       1 epoch, 512 images of the digits, seconds
Paper:    1.29 +- 0.08 % with signs, 1.18 +- 0.04 % at random (figures unverified), on three hidden
          layers of 1024 units with batch-norm and an L2-SVM, over 1000 epochs. This is a small
          network without batch-norm, so that figure is no target.
Ours:     2.50 % by sign (validation 2.46 %) in a file of 35,582 bytes, 2.63 % :stochastic in
          35,544, 1.89 % :scaled in 37,111,
          1.59 % :dense (validation 1.54 %) in 1,066,952 bytes of float32. Seed 0, some 300 s each
          on two busy cores of an AMD EPYC.

All three kernels are binary, biases are real. Without batch-norm, weights of magnitude 1 would make
sums of hundreds: each layer's magnitude is Glorot's coefficient sqrt(1.5 / (inputs + outputs)),
which the authors' code has as an option.
"""

import math

import ml_collections

LAYERS = {'dense0': (784, 300), 'dense1': (300, 100), 'head': (100, 10)}


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
  config.regulariser = {
      layer: {
          'leaves': f'{layer}/kernel',
          'method': 'binary_connect',
          'stochastic': variant == 'stochastic',
          'bound': math.sqrt(1.5 / sum(sizes)),
      } for layer, sizes in LAYERS.items()
  }
  if variant == 'scaled':
    config.regulariser = {'weights': {'leaves': '.*kernel', 'method': 'binary_weights'}}
  elif variant == 'dense':
    config.regulariser = {}
  elif variant == 'smoke':
    config.dataset = 'digits'
    config.training_examples = 512
    config.validation_examples = 100
    config.epochs = 1
  elif variant not in ('', 'stochastic'):
    raise ValueError(f"variant {variant!r} is not 'stochastic', 'scaled', 'dense' or 'smoke'")
  return config
