"""Ranges of activations, measured on data: what the grid of an integer network spans.

Jacob et al., 2018, arXiv:1712.05877, section 3: a moving average of each batch's smallest and
largest value. Or percentiles of all values seen, which leave out a few outliers and give the others
a finer grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from sparsejax.apply import apply

INPUTS, OUTPUTS = 'inputs', 'outputs'
SOWN = 'intermediates'


class Range(NamedTuple):
  """What an activation spans, low <= 0 <= high: 0 is always on the grid."""

  low: float
  high: float


def observe(model: nn.Module, variables: Mapping[str, Any], batches: Iterable[Any],
            **apply_kwargs: Any) -> list[dict[str, np.ndarray]]:
  """Returns for each batch {'inputs', what the model sows by its name, 'outputs'}, on the host.

  Args:
    model: sows its activations under 'intermediates', as the models of this library do.
    batches: inputs as the model takes them.
    **apply_kwargs: such as train=False.
  """
  @jax.jit
  def run(variables, batch):
    return apply(model, variables, batch, mutable=[SOWN], **apply_kwargs)

  seen = []
  for batch in batches:
    outputs, sown = jax.device_get(run(variables, batch))
    named = {name: values[0] for name, values in sown.get(SOWN, {}).items()}
    seen.append({INPUTS: np.asarray(batch), **named, OUTPUTS: outputs})
  return seen


def moving_ranges(seen: Iterable[Mapping[str, np.ndarray]],
                  momentum: float = 0.9) -> dict[str, Range]:
  """Returns moving averages of each batch's minimum and maximum, from the first batch's on.

  Args:
    seen: see `observe`; at least one batch.
    momentum: in [0, 1): weight of the past. Use one close to 1 for many batches.
  """
  if not 0 <= momentum < 1:
    raise ValueError(f'momentum={momentum} must lie in [0, 1)')
  bounds: dict[str, np.ndarray] = {}
  for batch in seen:
    for name, values in batch.items():
      now = np.array([values.min(), values.max()], np.float64)
      bounds[name] = momentum * bounds[name] + (1 - momentum) * now if name in bounds else now
  return _ranges(bounds)


def percentile_ranges(seen: Iterable[Mapping[str, np.ndarray]],
                      percent: float = 0.1) -> dict[str, Range]:
  """Returns the percentiles `percent` and 100 - `percent` of all values; 0 spans them all.

  Args:
    seen: see `observe`; at least one batch.
    percent: in [0, 50): of the values, left out at each end.
  """
  if not 0 <= percent < 50:
    raise ValueError(f'percent={percent} must lie in [0, 50)')
  values: dict[str, list[np.ndarray]] = {}
  for batch in seen:
    for name, array in batch.items():
      values.setdefault(name, []).append(array.reshape(-1))
  return _ranges({name: np.percentile(np.concatenate(parts), [percent, 100 - percent])
                  for name, parts in values.items()})


def _ranges(bounds: Mapping[str, np.ndarray]) -> dict[str, Range]:
  if not bounds:
    raise ValueError('there is no batch to calibrate on; pass at least one')
  return {name: Range(min(float(low), 0.0), max(float(high), 0.0))
          for name, (low, high) in bounds.items()}
