"""Schedules of configs, {'schedule': name, ...}, in epochs; as optax takes them, over steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.names import known_name, require_names
from sparsejax.regularisers import iterative_magnitude, magnitude


def number(value: Any, steps_per_epoch: int, where: str) -> Any:
  """Returns the value, or for {'schedule': name, ...} the schedule of that name in SCHEDULES."""
  if not isinstance(value, Mapping) or 'schedule' not in value:
    return value
  fields = dict(value)
  name = known_name(fields.pop('schedule'), SCHEDULES, f'{where}.schedule')
  return SCHEDULES[name](fields, steps_per_epoch, where)


def piecewise_linear(fields: dict[str, Any], steps_per_epoch: int, where: str) -> Callable:
  """`epochs` and `values` of equal lengths: linear between, constant outside; staircase=True holds
  the value of the start of each epoch."""
  staircase = fields.pop('staircase', False)
  require_names(fields, ('epochs', 'values'), where)
  epochs, values = np.asarray(fields['epochs'], np.float32), np.asarray(fields['values'])
  if epochs.shape != values.shape or epochs.ndim != 1 or np.any(np.diff(epochs) <= 0):
    raise ValueError(f'{where}: epochs {fields["epochs"]} must increase and match values '
                     f'{fields["values"]} one to one')

  def schedule(step):
    epoch = step / steps_per_epoch
    epoch = jnp.floor(epoch) if staircase else epoch
    return jnp.interp(epoch, epochs, values.astype(np.float32))
  return schedule


def cubic_sparsity(fields: dict[str, Any], steps_per_epoch: int, where: str) -> Callable:
  """`final` sparsity, reached from `begin_epoch` to `end_epoch`, see magnitude.cubic_sparsity."""
  require_names(fields, ('final', 'begin_epoch', 'end_epoch'), where)
  return magnitude.cubic_sparsity(fields['final'], fields['begin_epoch'] * steps_per_epoch,
                                  fields['end_epoch'] * steps_per_epoch)


def iterative_sparsity(fields: dict[str, Any], steps_per_epoch: int, where: str) -> Callable:
  """`final` sparsity in `rounds` of `epochs_per_round` from `begin_epoch` on."""
  require_names(fields, ('final', 'rounds', 'begin_epoch', 'epochs_per_round'), where)
  return iterative_magnitude.iterative_sparsity(
      fields['final'], fields['rounds'],
      whole_steps(fields['begin_epoch'], steps_per_epoch, f'{where}.begin_epoch'),
      whole_steps(fields['epochs_per_round'], steps_per_epoch, f'{where}.epochs_per_round'))


def rewound(fields: dict[str, Any], steps_per_epoch: int, where: str) -> Any:
  """`inner`, a number or schedule, anew every `epochs_per_round`: the learning rate of iterative
  pruning."""
  require_names(fields, ('epochs_per_round', 'inner'), where)
  inner = number(fields['inner'], steps_per_epoch, f'{where}.inner')
  period = whole_steps(fields['epochs_per_round'], steps_per_epoch, f'{where}.epochs_per_round')
  return lambda step: inner(step % period) if callable(inner) else inner


def whole_steps(epochs: float, steps_per_epoch: int, where: str) -> int:
  """Returns the number of steps in so many epochs, at least one."""
  steps = round(epochs * steps_per_epoch)
  if steps < 1:
    raise ValueError(f'{where}={epochs} is no whole step of {steps_per_epoch} an epoch; raise it')
  return steps


SCHEDULES: dict[str, Callable[[dict[str, Any], int, str], Any]] = {
    'cubic_sparsity': cubic_sparsity,
    'iterative_sparsity': iterative_sparsity,
    'piecewise_linear': piecewise_linear,
    'rewound': rewound,
}
