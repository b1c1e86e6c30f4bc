"""Sharing alone: the non-zero weights of each layer by k-means, nothing trained."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console

from experiments.compression.recipes import Compressed
from experiments.compression.subject import Subject
from sparsejax.post_training.deep_compression import share
from sparsejax.post_training.layer_codes import layer_table

OPTIONS: dict[str, Any] = {'bits': 5, 'initialisation': 'linear', 'coding': 'smallest'}


def compress(subject: Subject, options: dict[str, Any], console: Console) -> Compressed:
  """Returns the compact network with 2^bits - 1 values and zero in each kernel."""
  del console
  model, variables = subject.compacted()
  shared = share(variables['params'], {'.*kernel': options['bits']}, options['initialisation'],
                 rng=np.random.default_rng(subject.config.seed))
  return Compressed(model, {**variables, 'params': shared.weights}, options['coding'],
                    layers=tuple(row.row() for row in layer_table(shared.weights)))
