"""Soft weight-sharing of a finished run: trained on under a mixture, then collapsed onto its means.

Ullrich, Meeds, Welling, 2017, arXiv:1702.04008. `epochs` epochs of Adam with the learning rates of
the authors' script, that of the weights falling to 0 in the last third; strength is the paper's
tau. As in experiments/configs/UlMW17/lenet_300_100.py the components narrow by schedule, that at
zero first, so that the collapse costs little, and an L1 penalty goes on beside them.
"""

from __future__ import annotations

from typing import Any

import optax
from rich.console import Console

import sparsejax
from experiments.compression.recipes import Compressed
from experiments.compression.retrain import retrain, steps_per_epoch
from experiments.compression.subject import Subject
from experiments.configs.UlMW17.lenet_300_100 import HYPER_PRIORS, WIDTH, ZERO_WIDTH
from experiments.optimisers import grouped
from experiments.schedules import piecewise_linear

OPTIONS: dict[str, Any] = {'strength': 0.03, 'num_components': 17, 'zero_prior': 0.99, 'l1': 0.5,
                           'epochs': 30, 'coding': 'smallest'}
WEIGHTS_RATE, MEANS_RATE, SHAPES_RATE = 5e-4, 1e-4, 3e-3     # the authors' script
# Of the weights, times WEIGHTS_RATE: (share of the epochs, factor).
RATE = ((0.65, 1.0), (1.0, 0.0))


def compress(subject: Subject, options: dict[str, Any], console: Console) -> Compressed:
  """Returns the compact network, whose weights, biases too, are means of one mixture."""
  steps = options['epochs'] * steps_per_epoch(subject)

  def over(points):
    shares, values = zip(*points, strict=True)
    return piecewise_linear({'epochs': shares, 'values': values}, steps, 'soft_sharing')

  mixture = sparsejax.soft_weight_sharing(
      options['num_components'], options['zero_prior'], HYPER_PRIORS, options['strength'],
      init_std=ZERO_WIDTH[0][1], zero_width=over(ZERO_WIDTH), width=over(WIDTH))
  method = sparsejax.partition(
      weights=('.*', sparsejax.chain(sparsejax.l1(options['l1']), mixture)))
  falls = over(RATE)
  optimiser = grouped(optax.adam(lambda step: WEIGHTS_RATE * falls(step)), {
      'means': ('.*/mixture/means', optax.adam(MEANS_RATE)),
      'shapes': ('.*/mixture/log_.*', optax.adam(SHAPES_RATE)),
  })
  variables, nll = retrain(subject, subject.recipe.model, subject.variables, method,
                           optimiser=optimiser, epochs=options['epochs'], name='sharing',
                           console=console)
  model, small = subject.compacted(variables)
  stage = {'stage': 'shared softly', 'train_nll_nats': nll, 'strength': options['strength']}
  return Compressed(model, small, options['coding'], (stage,))
