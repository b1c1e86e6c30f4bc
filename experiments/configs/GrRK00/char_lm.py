"""A character language model, LSTM with deep updates, tiny Shakespeare; Gray et al. 2017 (GrRK00).

The report trains a much larger one on Amazon reviews (1.059 bits per character dense, 1.048 sparse,
at about 100 million parameters); it has no figures on this text.

Run:      python -m experiments.train --workdir=out/char_lm \\
            --config=experiments/configs/GrRK00/char_lm.py
          512 units, 4 internal steps; of the eight square layers of the cell a tenth of the 16 x 16
          blocks exists, a Barabasi-Albert graph each, from the start. A time step goes through five
          such layers with the gates: 98 % of the pairs of blocks of units are then connected.
Variants: :pruned       trained dense, pruned by blocks to a tenth in epochs 0.5 to 3, then packed
          :dense        the same network without a method
          :dense_small  181 units, dense: as many parameters as the sparse one stores
          :smoke        1 epoch, 512 windows of a few verses, seconds
Paper:    none on this data set
Ours:     one epoch of the four (--config.epochs=1; :pruned in epochs 0.2 to 0.8), seed 0, a thread
          of an AMD EPYC shared with other work. Bits per test character, parameters stored,
          milliseconds of a forward pass (batch 128) against the deployed dense network's, of a
          training step (batch 32) packed against dense, seconds of training:
            sparse        2.747     305,793   606 against 1152   593 against 957     304
            :dense_small  2.745     304,866   188                                    140
            :pruned       2.660     322,177   383 against 710    653 against 1027    434
            :dense        2.491   2,210,433   688                                    370
          After one epoch a small dense network is as good as the sparse one, and faster. After all
          four: sparse 2.375 bits, forward 259 ms against 499, step 432 ms against 686;
          :dense_small 2.337 bits, forward 69 ms.
"""

import ml_collections

CELL = 'cell/.*/kernel'
BLOCK = 16


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.paper = 'GrRK00'
  config.seed = 0
  config.task = 'language_model'
  config.dataset = 'tiny_shakespeare'
  config.training_examples = 0
  config.validation_examples = 500
  config.batch_size = 32
  config.epochs = 4
  config.evaluate_every = 1
  config.checkpoint_every = 1
  config.ema_decay = 0.0
  config.penalty_weight = 1.0
  config.preprocess = {'tokens': True}
  config.model = {'name': 'deep_lstm', 'symbols': 65, 'width': 512, 'embedding': 64, 'steps': 4,
                  'forget_bias': 1.0}
  config.optimiser = {'name': 'adam', 'learning_rate': {
      'schedule': 'piecewise_linear', 'epochs': (0, 0.2, 2, 4), 'values': (0.0, 1e-3, 1e-3, 0.0)}}
  config.regulariser = {'cell': {
      'leaves': CELL, 'method': 'block_sparse', 'block_size': BLOCK, 'layout': 'barabasi_albert',
      'density': 0.1, 'seed': 0, 'rescale': False}}
  # A product inside the scan has one row for each sequence of the batch.
  config.pack = {'rules': {'cell': {'leaves': CELL, 'block_size': BLOCK}}, 'rows': 128}
  if variant == 'pruned':
    config.regulariser = {'cell': {
        'leaves': CELL, 'method': 'magnitude_pruning',
        'sparsity': {'schedule': 'cubic_sparsity', 'final': 0.9, 'begin_epoch': 0.5,
                     'end_epoch': 3.0},
        'begin': 0, 'every': 20, 'granularity': (BLOCK, BLOCK), 'allocation': 'uniform'}}
  elif variant in ('dense', 'dense_small'):
    config.regulariser = {}
    del config.pack
    if variant == 'dense_small':
      config.model.width = 181
  elif variant == 'smoke':
    config.dataset = 'embedded_text'
    config.training_examples = 512
    config.validation_examples = 100
    config.epochs = 1
    config.model.symbols = 24
    config.model.width = 64
    config.model.steps = 2
    config.regulariser.cell.density = 0.6   # the graphs of four nodes are no sparser
    config.pack.rows = 32
  elif variant:
    raise ValueError(f"variant {variant!r} is not 'pruned', 'dense', 'dense_small' or 'smoke'")
  return config
