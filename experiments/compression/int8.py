"""Every kernel as int8 with a scale per output channel, nothing trained: the honest baseline.

Batch-norm is folded into the kernels and biases before they are rounded.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from rich.console import Console

from experiments.compression.recipes import Compressed
from experiments.compression.subject import Subject
from sparsejax.compaction.fold_batch_norm import fold_batch_norm
from sparsejax.packed.quantised import Quantised
from sparsejax.paths import flatten, unflatten
from sparsejax.post_training import int8

OPTIONS: dict[str, Any] = {'coding': 'smallest'}


def compress(subject: Subject, options: dict[str, Any], console: Console) -> Compressed:
  """Returns the compact network with `Quantised` kernels (sparsejax.post_training.int8)."""
  del console
  model, variables = fold_batch_norm(*subject.compacted())
  tensors = int8.quantise(variables['params'])
  leaves: dict[str, Any] = {}
  for path in flatten(variables['params']):
    if path in tensors:
      leaves[path] = tensors[path]
    else:
      leaves[path] = Quantised(jnp.asarray(tensors[path + int8.QUANTISED]),
                               jnp.asarray(tensors[path + int8.SCALE]), axis=-1)
  return Compressed(model, {**variables, 'params': unflatten(leaves)}, options['coding'])
