"""Soft weight-sharing of a finished run: trained on under a mixture, then collapsed onto its means.

Ullrich, Meeds, Welling, 2017, arXiv:1702.04008. `epochs` epochs of Adam with the learning rates of
the authors' script, falling linearly to 0; strength is the paper's tau.
"""

from __future__ import annotations

from typing import Any

import optax
from rich.console import Console

import sparsejax
from experiments.compression.recipes import Compressed
from experiments.compression.retrain import falling, retrain, steps_per_epoch
from experiments.compression.subject import Subject
from experiments.optimisers import grouped

OPTIONS: dict[str, Any] = {'strength': 0.03, 'num_components': 17, 'zero_prior': 0.99,
                           'epochs': 40, 'coding': 'smallest'}
WEIGHTS_RATE, MEANS_RATE, SHAPES_RATE = 5e-4, 1e-4, 3e-3     # the authors' script


def compress(subject: Subject, options: dict[str, Any], console: Console) -> Compressed:
  """Returns the compact network, whose weights, biases too, are means of one mixture."""
  method = sparsejax.partition(weights=('.*', sparsejax.soft_weight_sharing(
      options['num_components'], options['zero_prior'], strength=options['strength'])))
  steps = options['epochs'] * steps_per_epoch(subject)
  optimiser = grouped(optax.adam(falling(WEIGHTS_RATE, steps)), {
      'means': ('weights/mixture/means', optax.adam(falling(MEANS_RATE, steps))),
      'shapes': ('weights/mixture/log_.*', optax.adam(falling(SHAPES_RATE, steps))),
  })
  variables, nll = retrain(subject, subject.recipe.model, subject.variables, method,
                           optimiser=optimiser, epochs=options['epochs'], name='sharing',
                           console=console)
  model, small = subject.compacted(variables)
  stage = {'stage': 'shared softly', 'train_nll_nats': nll, 'strength': options['strength']}
  return Compressed(model, small, options['coding'], (stage,))
