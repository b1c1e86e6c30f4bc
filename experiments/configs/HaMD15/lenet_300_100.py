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
Ours:     error 1.54 % of the files (1.48 to 1.58 in seeds 0 to 4; 1.53 % before sharing), 26,035 of
          1,066,952 bytes, 41.0 times fewer; Zstandard makes 41,119 of the same arrays. Weights
          alone, in the paper's form: 2.74 % of float32 with codes of fixed width, 2.36 % with
          Huffman codes; layers in report/HaMD15_layers.md. Dropout, decay and codes of 5 bits in
          place of the paper's 6 were settled in five trainings on 55,000 images by the other
          5,000, with seed 0. About 250 s a run on a fraction of one core of an AMD EPYC.
"""

from typing import Any

import ml_collections

from sparsejax.post_training.deep_compression import retraining_dropout

EPOCHS: tuple[float, ...] = (12, 6, 6, 6, 22)      # of the dense phase and of each round
SMOKE = (0.25, 0.125, 0.125, 0.125, 0.375)
KEPT = {'dense0': 0.08, 'dense1': 0.09, 'head': 0.26}      # the paper's shares
DROPOUT = {'dense1': 0.3, 'head': 0.3}                     # of the inputs, before pruning


def held(epochs: tuple[float, ...], values: tuple[float, ...]) -> dict[str, Any]:
  """A schedule that goes, in each phase, linearly between the two values for it."""
  ends = [sum(epochs[:i + 1]) for i in range(len(epochs))]
  # A hundredth of an epoch between phases: schedules are continuous.
  times = [time for end, length in zip(ends, epochs) for time in (end - length, end - 0.01)]
  return {'schedule': 'piecewise_linear', 'epochs': tuple(times), 'values': values}


def sawtooth(rate: float, epochs: tuple[float, ...]) -> dict[str, Any]:
  """The learning rate: falls linearly from `rate` to zero in each phase."""
  return held(epochs, (rate, 0.0) * len(epochs))


def dropout_rate(rate: float, kept: float, epochs: tuple[float, ...]) -> dict[str, Any]:
  """Falls with the connections of the layer, by the rule of the paper of 2015."""
  rounds = len(epochs) - 1
  rates = [retraining_dropout(rate, 10_000, round(10_000 * kept ** (i / rounds)))
           for i in range(rounds + 1)]
  return held(epochs, tuple(value for value in rates for _ in range(2)))


def rule(layer: str, kept: float, dropout: float, decay: float, steps: int,
         epochs: tuple[float, ...]) -> dict[str, Any]:
  """Returns the method of one layer.

  Args:
    kept: share of the weights in the last round. dropout: rate before the first.
    decay: nats. steps: between looks at the schedule, of an epoch or less. epochs: of the phases;
      rounds but the last are equally long.
  """
  pruned = {
      'method': 'chain', 'inner': {'method': 'weight_decay', 'strength': decay},
      'outer': {
          'method': 'magnitude_pruning', 'begin': steps - 1, 'every': steps,
          'granularity': 'weight', 'allocation': 'uniform',
          'sparsity': {'schedule': 'iterative_sparsity', 'final': 1 - kept,
                       'rounds': len(epochs) - 1, 'begin_epoch': epochs[0],
                       'epochs_per_round': epochs[1]},
      },
  }
  if not dropout:
    return {'leaves': f'{layer}/kernel', **pruned}
  dropped = {'method': 'dropout', 'rate': dropout_rate(dropout, kept, epochs), 'axis': -2,
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
  config.epochs = round(sum(EPOCHS))
  config.evaluate_every = 4
  config.checkpoint_every = 20
  config.ema_decay = 0.0
  config.penalty_weight = 1.0
  config.preprocess = {'scale': 1 / 255, 'subtract_mean': False}
  config.model = {'name': 'mlp', 'widths': (300, 100), 'kernel_init': 'he_normal'}
  examples, steps, epochs = 60_000, 300, EPOCHS
  if variant == 'held_out':
    config.validation_examples = 5000
    examples, steps = 55_000, 275
  elif variant == 'smoke':
    config.dataset = 'digits'
    config.training_examples = examples = 512
    config.validation_examples = 100
    config.batch_size = 64
    steps, epochs = 1, SMOKE
    config.epochs = 1
    config.evaluate_every = 1
  elif variant and variant != 'dense':
    raise ValueError(f"variant {variant!r} is not 'held_out', 'dense' or 'smoke'")
  config.optimiser = {'name': 'sgd', 'momentum': 0.9, 'learning_rate': sawtooth(0.1, epochs)}
  decay = 2e-4 * examples            # in nats for the whole data set
  config.regulariser = {
      layer: rule(layer, kept, DROPOUT.get(layer, 0.0), decay, steps, epochs)
      for layer, kept in KEPT.items()}
  if variant == 'dense':
    config.epochs = round(EPOCHS[0])
    config.regulariser = {'weights': {'leaves': '.*kernel', 'method': 'weight_decay',
                                      'strength': decay}}
  return config
