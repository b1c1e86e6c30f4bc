"""Iterative magnitude pruning: train, prune, train again; every round keeps the same share.

Han, Pool, Tran, Dally, "Learning both weights and connections", 2015, arXiv:1506.02626; Renda,
Frankle, Carbin, "Comparing rewinding and fine-tuning in neural network pruning", 2020,
arXiv:2003.02389, who run the schedule of the learning rate anew in every round and leave the
weights as they are. Here it is a schedule for `magnitude_pruning`; the trainer's learning rate does
the rewinding ('rewound' in a config). The optimiser's moments are kept across rounds.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np


def iterative_sparsity(final: float, rounds: int, begin: int, every: int) -> Callable:
  """Schedule 1 - (1 - final)^(r / rounds) in round r: every round keeps the same share.

  Round r = 1, ..., `rounds` starts at step begin + (r - 1) every; before, nothing is pruned. A
  method's update prepares the step that follows it, so the mask changes exactly where a round
  starts with

      magnitude_pruning(iterative_sparsity(0.9, rounds, begin, every), allocation='global',
                        begin=begin - 1, every=every)

  or any `every` that divides this one, if `begin` is a multiple of it too: from the last step of
  each epoch on (begin=steps - 1, every=steps with `steps` an epoch), say.

  Args:
    final: sparsity of the last round, in [0, 1).
    rounds: number of prunings. begin: steps of dense training before the first one.
    every: steps of a round.

  Raises:
    ValueError: for numbers outside these ranges.
  """
  if not 0 <= final < 1:
    raise ValueError(f'final={final} must lie in [0, 1)')
  if min(rounds, begin, every) < 1:
    raise ValueError(f'rounds={rounds}, begin={begin} and every={every} must be at least 1')
  kept = (1 - final) ** (np.arange(rounds + 1) / rounds)
  sparsities = (1 - kept).astype(np.float32)

  def schedule(step):
    number = jnp.clip((step - begin) // every + 1, 0, rounds)
    return jnp.asarray(sparsities)[number]

  return schedule
