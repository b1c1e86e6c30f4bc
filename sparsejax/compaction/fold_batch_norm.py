"""Batch-norm taken into the layer before it: what is left to round is kernels and biases.

With its running statistics a batch-norm is y = s x + b of each unit, s = scale / sqrt(var + eps)
and b = bias - s mean (Jacob et al., 2018, arXiv:1712.05877, section 3.2). The kernel before it is
multiplied by s, its bias becomes s bias + b. Rounding comes after: the grid of a kernel then is
that of the products a network really makes, and no scale of a norm stands between two integer
products.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from sparsejax.paths import flatten, unflatten

STATISTICS = 'batch_stats'


class Norm(NamedTuple):
  """A batch-norm behind a Dense or Conv layer.

  Attributes:
    norm, layer: their paths. offsets: paths of arrays that are added between the two, with the
      units along their last axis. epsilon: added to the variance.
  """

  norm: str
  layer: str
  offsets: tuple[str, ...]
  epsilon: float


def fold_batch_norm(model: nn.Module,
                    variables: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
  """Returns (model without batch-norm, its variables) of the same function in evaluation.

  A model says by `batch_norms()` where it has some, and by `without_norms()` what it is without;
  one that has none comes back as it was. Zeros of kernels stay zeros.

  Args:
    variables: {'params': ..., 'batch_stats': ...}, plain arrays; not changed.

  Raises:
    ValueError: for a model that has statistics of batch-norm but does not say where, or a variance
      that is negative.
  """
  norms = model.batch_norms() if hasattr(model, 'batch_norms') else ()
  if not norms:
    if variables.get(STATISTICS):
      raise ValueError(f'{type(model).__name__} has {STATISTICS} but no batch_norms(), so nobody '
                       'knows which layer is to take them in; give the model that method')
    return model, dict(variables)
  params, statistics = flatten(variables['params']), flatten(variables[STATISTICS])
  for norm in norms:
    scale, bias = (np.asarray(params.pop(f'{norm.norm}/{name}'), np.float64)
                   for name in ('scale', 'bias'))
    mean, var = (np.asarray(statistics.pop(f'{norm.norm}/{name}'), np.float64)
                 for name in ('mean', 'var'))
    if np.any(var < 0):
      raise ValueError(f'{STATISTICS}/{norm.norm}/var is negative ({var.min():g}); the statistics '
                       'are damaged')
    factor = scale / np.sqrt(var + norm.epsilon)
    for path in (f'{norm.layer}/kernel', *norm.offsets):
      params[path] = np.asarray(params[path] * factor, np.float32)
    before = params.get(f'{norm.layer}/bias', 0.0)
    params[f'{norm.layer}/bias'] = np.asarray((before - mean) * factor + bias, np.float32)
  folded = {**variables, 'params': unflatten(params), STATISTICS: unflatten(statistics)}
  if not statistics:
    del folded[STATISTICS]
  return model.without_norms(), folded
