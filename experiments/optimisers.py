"""Optimisers of configs: learning rates by path, and moments that start anew with a phase.

  config.optimiser = {
      'name': 'adam', 'learning_rate': 5e-4,
      'groups': {'means': {'leaves': '.*/mixture/means', 'learning_rate': 1e-4}},
      'restart_epoch': 100,
  }

A group is a pattern of paths in the method's params ('rule/mixture/means') and the fields in which
its optimiser differs; all other leaves have the fields of the config itself. At `restart_epoch` the
moments of every optimiser are zero again, as where a script starts a new optimiser on a trained
network; schedules go on counting from the start of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.schedules import whole_steps
from sparsejax.paths import flatten, unflatten
from sparsejax.regulariser import owners

Array = jax.Array


class RestartState(NamedTuple):
  """`taken` updates, int32, and the state of the optimiser inside."""

  taken: Array
  inner: Any


def optimiser(fields: Mapping[str, Any], steps_per_epoch: int,
              build: Callable[[dict[str, Any]], optax.GradientTransformation]
              ) -> optax.GradientTransformation:
  """Returns the optimiser of a config, with its groups and its restart.

  Args:
    fields: of the config, plain. steps_per_epoch: turns `restart_epoch` into steps.
    build: the optimiser of fields without `groups` and `restart_epoch`.

  Raises:
    ValueError: for a group without `leaves`, or a restart that is no step; from `init` for a
      pattern that matches nothing, or two that match one leaf.
  """
  base = {name: value for name, value in fields.items() if name not in ('groups', 'restart_epoch')}
  groups = fields.get('groups') or {}
  found = build(base)
  if groups:
    where = 'config.optimiser.groups'
    for name, group in groups.items():
      if not isinstance(group, Mapping) or 'leaves' not in group:
        raise ValueError(f'{where}.{name} needs leaves (a pattern of paths in the params) and the '
                         f'fields that differ; it is {group}')
    own = {name: build({**base, **{k: v for k, v in group.items() if k != 'leaves'}})
           for name, group in groups.items()}
    found = grouped(found, {name: (groups[name]['leaves'], own[name]) for name in groups})
  if fields.get('restart_epoch') is not None:
    step = whole_steps(fields['restart_epoch'], steps_per_epoch, 'config.optimiser.restart_epoch')
    found = restarted(found, step)
  return found


def grouped(base: optax.GradientTransformation,
            groups: Mapping[str, tuple[str, optax.GradientTransformation]]
            ) -> optax.GradientTransformation:
  """Returns the transformation with an optimiser of its own for the leaves of each group.

  Args:
    base: for the leaves of no group.
    groups: {name: (pattern that matches the whole path of a leaf, optimiser)}.

  Raises:
    ValueError: for a group named 'free', and from `init` as `regulariser.owners`.
  """
  if 'free' in groups:
    raise ValueError("the group name 'free' is reserved for the leaves of no group; rename it")
  patterns = {name: pattern for name, (pattern, _) in groups.items()}

  def labels(params):
    owner = owners(list(flatten(params)), patterns)
    return unflatten(owner)

  rules = {name: rule for name, (_, rule) in groups.items()}
  return optax.multi_transform({'free': base, **rules}, labels)


def restarted(inner: optax.GradientTransformation, step: int) -> optax.GradientTransformation:
  """Returns `inner`, whose state is that of `init` again before its update number `step`.

  Only what schedules count goes on.
  """

  def counts(leaf):
    return isinstance(leaf, optax.ScaleByScheduleState)

  def init(params):
    return RestartState(jnp.zeros((), jnp.int32), inner.init(params))

  def update(updates, state, params=None):
    def anew(old):
      return jax.tree.map(lambda was, start: was if counts(was) else start, old,
                          inner.init(updates if params is None else params), is_leaf=counts)
    begun = jax.lax.cond(state.taken == step, anew, lambda old: old, state.inner)
    updates, new = inner.update(updates, begun, params)
    return updates, RestartState(state.taken + 1, new)

  return optax.GradientTransformation(init, update)
