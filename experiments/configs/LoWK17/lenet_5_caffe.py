"""L0 gates on LeNet-5-Caffe, MNIST; Louizos, Welling, Kingma 2018, arXiv:1712.01312, table 1.

Run:      python -m experiments.train --workdir=out/l0_lenet5 \
            --config=experiments/configs/LoWK17/lenet_5_caffe.py
Variants: :paper  the recipe with nothing chosen: all 60,000 training images
          :small  20 epochs instead of 200, for a CPU; no figure to compare with the paper's
          :smoke  1 epoch, 256 images, under a minute
Paper:    error 0.9 %, 20-25-45-462 (confirmed in a later paper that quotes it).
Ours:     :small  0.65 % (validation 0.86 %), 20-50-526-498, 293,480 of 430,500 weights: 20 epochs
          only begin to prune. Seed 0, 949 s on two busy cores of an AMD EPYC. The full recipe was
          not run.
"""

import ml_collections


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.paper = 'LoWK17'
  config.seed = 0
  config.dataset = 'mnist'
  config.training_examples = 0
  config.validation_examples = 5000
  config.batch_size = 100
  config.epochs = 200
  config.evaluate_every = 1
  config.checkpoint_every = 5
  config.ema_decay = 0.999
  config.penalty_weight = 1.0
  config.preprocess = {'scale': 1 / 255, 'subtract_mean': False}
  config.model = {'name': 'lenet_5_caffe', 'widths': (20, 50, 500), 'kernel_init': 'he_normal'}
  config.optimiser = {'name': 'adam', 'learning_rate': 1e-3}
  common = {
      'method': 'l0_hard_concrete',
      'strength': 0.1,               # nats per weight in use; the paper's lambda = 0.1 / N
      'l2': 0.0,
      'per': 'batch',
      'beta': 2 / 3,
      'drop_rate': 0.5,
  }
  # A filter's gate multiplies its kernel and its bias; dense layers have a gate per input.
  config.regulariser = {
      'filters0': {'leaves': 'conv0/.*', 'axis': -1, 'tied': True, **common},
      'filters1': {'leaves': 'conv1/.*', 'axis': -1, 'tied': True, **common},
      'inputs': {'leaves': '(dense|head)/kernel', 'axis': -2, **common},
  }
  if variant == 'paper':
    config.validation_examples = 0
  elif variant == 'small':
    config.epochs = 20
  elif variant == 'smoke':
    config.training_examples = 256
    config.validation_examples = 100
    config.epochs = 1
  elif variant:
    raise ValueError(f"variant {variant!r} is not 'paper', 'small' or 'smoke'")
  return config
