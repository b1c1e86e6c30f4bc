"""Pruning in rounds for Deep Compression, LeNet-300-100, MNIST; Han, Mao, Dally 2016, table 2.

arXiv:1510.00149 (ICLR 2016), after Han et al. 2015, arXiv:1506.02626. This is the first stage:
dense training, then four rounds that prune each layer to its share and train again. Sharing, the
training of the codebooks and the coding are `experiments.compress`.

Run:      python -m experiments.train --workdir=out/pruned \
            --config=experiments/configs/HaMD15/lenet_300_100.py
          python -m experiments.compress --workdir=out/pruned --recipe=deep_compression \
            --out=model.sjx
Variants: :held_out  trains on 55,000 images; what was chosen was chosen on the other 5,000
          :dense  the dense network alone, trained as long as the first stage trains it
          :smoke  1 epoch, 512 images of the digits, seconds
Paper:    error 1.58 % (dense 1.64 %), 40 times fewer bytes, 12 times fewer weights.
Ours:     not run.
"""

from typing import Any

import ml_collections

from sparsejax.post_training.deep_compression import retraining_dropout

DENSE, ROUND, LAST = 12, 6, 22       # epochs: before pruning, of a round, of the last round
ROUNDS = 4
KEPT = {'dense0': 0.08, 'dense1': 0.09, 'head': 0.26}      # the paper's shares
DROPOUT = {'dense0': 0.0, 'dense1': 0.3, 'head': 0.3}      # of the inputs, before pruning


def phases() -> list[tuple[int, int]]:
  """Returns (first epoch, epoch behind the last) of the dense phase and of each round."""
  starts = [0, *(DENSE + ROUND * i for i in range(ROUNDS))]
  return list(zip(starts, [*starts[1:], starts[-1] + LAST]))


def sawtooth(rate: float) -> dict[str, Any]:
  """Falls linearly from `rate` to zero in each phase."""
  times = [time for start, end in phases() for time in (start, end - 0.01)]
  return {'schedule': 'piecewise_linear', 'epochs': tuple(times),
          'values': (rate, 0.0) * len(phases())}


def dropout_rate(rate: float, kept: float) -> dict[str, Any]:
  """Falls with the connections of the layer, by the rule of the paper of 2015."""
  rates = [retraining_dropout(rate, 10_000, round(10_000 * kept ** (i / ROUNDS)))
           for i in range(ROUNDS + 1)]
  times = [time for start, end in phases() for time in (start, end - 0.01)]
  return {'schedule': 'piecewise_linear', 'epochs': tuple(times),
          'values': tuple(rate for rate in rates for _ in range(2))}


def rule(layer: str, kept: float, decay: float, every: int) -> dict[str, Any]:
  """Returns the method of one layer; `every` is the number of steps in an epoch."""
  pruned = {
      'method': 'chain', 'inner': {'method': 'weight_decay', 'strength': decay},
      'outer': {
          'method': 'magnitude_pruning', 'begin': every - 1, 'every': every,
          'granularity': 'weight', 'allocation': 'uniform',
          'sparsity': {'schedule': 'iterative_sparsity', 'final': 1 - kept, 'rounds': ROUNDS,
                       'begin_epoch': DENSE, 'epochs_per_round': ROUND},
      },
  }
  if not DROPOUT[layer]:
    return {'leaves': f'{layer}/kernel', **pruned}
  dropped = {'method': 'dropout', 'rate': dropout_rate(DROPOUT[layer], kept), 'axis': -2,
             'per': 'example'}
  return {'leaves': f'{layer}/kernel', 'method': 'chain', 'outer': dropped, 'inner': pruned}


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.paper = 'HaMD15'
  config.seed = 0
  config.dataset = 'mnist'
  config.training_examples = 0
  config.validation_examples = 0
  config.batch_size = 200
  config.epochs = phases()[-1][1]
  config.evaluate_every = 4
  config.checkpoint_every = 20
  config.ema_decay = 0.0
  config.penalty_weight = 1.0
  config.preprocess = {'scale': 1 / 255, 'subtract_mean': False}
  config.model = {'name': 'mlp', 'widths': (300, 100), 'kernel_init': 'he_normal'}
  config.optimiser = {'name': 'sgd', 'momentum': 0.9, 'learning_rate': sawtooth(0.1)}
  examples, batch = 60_000, 200
  if variant == 'held_out':
    config.validation_examples = 5000
    examples = 55_000
  elif variant == 'smoke':
    config.dataset = 'digits'
    config.training_examples = examples = 512
    config.validation_examples = 100
    config.batch_size = batch = 64
    config.epochs = 1
    config.evaluate_every = 1
  elif variant and variant != 'dense':
    raise ValueError(f"variant {variant!r} is not 'held_out', 'dense' or 'smoke'")
  decay = 2e-4 * examples            # in nats for the whole data set
  config.regulariser = {layer: rule(layer, kept, decay, examples // batch)
                        for layer, kept in KEPT.items()}
  if variant == 'dense':
    config.epochs = DENSE
    config.regulariser = {'weights': {'leaves': '.*kernel', 'method': 'weight_decay',
                                      'strength': decay}}
  return config
