"""Pruning in rounds for Deep Compression, LeNet-5, MNIST; Han, Mao, Dally 2016, table 3.

arXiv:1510.00149 (ICLR 2016), after Han et al. 2015, arXiv:1506.02626; see lenet_300_100.py.

Run:      python -m experiments.train --workdir=out/pruned \
            --config=experiments/configs/HaMD15/lenet_5.py
          python -m experiments.compress --workdir=out/pruned --recipe=deep_compression \
            --out=model.sjx
Variants: :held_out  trains on 55,000 images; for choosing on the other 5,000
          :small  22 epochs instead of 52, for a CPU
          :smoke  1 epoch, 256 images, under a minute
Paper:    error 0.74 % (dense 0.80 %), 39 times fewer bytes, 12 times fewer weights.
Ours:     :small  seed 0: 0.79 % (pruned 0.77 %), 37,364 bytes, 46.2 times fewer; 6.7 % of the
          weights (report/HaMD15_layers.md).
"""

import ml_collections

from experiments.configs.HaMD15.lenet_300_100 import SMOKE, rule, sawtooth

EPOCHS: tuple[float, ...] = (12, 6, 6, 6, 22)      # of the dense phase and of each round
SMALL = (6, 2, 2, 2, 10)
KEPT = {'conv0': 0.66, 'conv1': 0.12, 'dense': 0.08, 'head': 0.19}     # the paper's shares


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.paper = 'HaMD15'
  config.seed = 0
  config.dataset = 'mnist'
  config.training_examples = 0
  config.validation_examples = 0
  config.batch_size = 100
  config.evaluate_every = 2
  config.checkpoint_every = 4
  config.ema_decay = 0.0
  config.penalty_weight = 1.0
  config.preprocess = {'scale': 1 / 255, 'subtract_mean': False}
  config.model = {'name': 'lenet_5_caffe', 'widths': (20, 50, 500), 'kernel_init': 'he_normal'}
  examples, steps, epochs = 60_000, 600, EPOCHS
  if variant == 'held_out':
    config.validation_examples = 5000
    examples, steps = 55_000, 550
  elif variant == 'small':
    epochs = SMALL
  elif variant == 'smoke':
    config.training_examples = examples = 256
    config.validation_examples = 100
    config.batch_size = 32
    steps, epochs = 1, SMOKE
    config.evaluate_every = 1
  elif variant:
    raise ValueError(f"variant {variant!r} is not 'held_out', 'small' or 'smoke'")
  config.epochs = round(sum(epochs))
  config.optimiser = {'name': 'sgd', 'momentum': 0.9, 'learning_rate': sawtooth(0.05, epochs)}
  decay = 2e-4 * examples            # in nats for the whole data set
  config.regulariser = {layer: rule(layer, kept, 0.0, decay, steps, epochs)
                        for layer, kept in KEPT.items()}
  return config
