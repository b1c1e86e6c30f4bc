"""Watchdogs: what goes wrong in sparse training without an error, told while there is time.

* Gates that never close: halfway through, a rule of gates has kept every weight.
* A posterior that collapsed: within the first epochs a variational rule removed almost everything,
  before the data could speak for the weights.
* A log alpha that saturates: after a quarter almost all of it sits at the bound where nothing is
  removed, past which its penalty has no gradient: gates held open, variances too small to count.

Each is a function of the metrics written so far and of the parameters, so that a run which was
interrupted tells what the whole run would have told.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from experiments import targets
from sparsejax.paths import Tree
from sparsejax.regularisers.variational_dropout import log_alphas

GATES, VARIATIONAL = 'l0_hard_concrete', 'sparse_variational_dropout'
EARLY, LEAST_EARLY = 0.1, 3          # of all epochs; and at least so many
COLLAPSED = 0.02                     # density of a rule's weights
LATE, SATURATED = 0.25, 0.95         # of all epochs; share of the entries
MARGIN = 1e-3                        # of a bound, nearer than which an entry sits on it


def warnings(config: ml_collections.ConfigDict, rows: Sequence[Mapping[str, float]],
             params: Tree) -> list[str]:
  """Returns what there is to warn of, one line each, naming the rule and the repair.

  Args:
    config: of the run. rows: of metrics.jsonl, oldest first.
    params: of the regulariser, {rule: ...}, after the last of these epochs.
  """
  found = []
  for name, rule in config.regulariser.items():
    for watch in (never_closed, collapsed, saturated):
      message = watch(config, name, rule, rows, params)
      if message is not None:
        found.append(message)
  return found


def never_closed(config, name, rule, rows, params) -> str | None:
  """Warns of gates that are all open after half of the epochs, or where a landing closes them."""
  del params
  until = targets.landing_epoch(config) if config.get('target') else config.epochs
  seen = [(epoch, density) for epoch, density in densities(rule, rows) if epoch <= until]
  if rule.method != GATES or not seen or seen[-1][0] < config.epochs / 2:
    return None
  if any(density < 1 for _, density in seen):
    return None
  return (f'rule {name!r}: no gate has closed in {seen[-1][0]:.0f} of {config.epochs} epochs; '
          f'raise its strength ({_shown(rule.get("strength"))}), its drop_rate or the learning '
          'rate')


def collapsed(config, name, rule, rows, params) -> str | None:
  """Warns of a variational rule that removed almost all of its weights in the first epochs."""
  del params
  until = max(LEAST_EARLY, EARLY * config.epochs)
  early = [(epoch, density) for epoch, density in densities(rule, rows)
           if epoch <= until and density < COLLAPSED]
  if rule.method != VARIATIONAL or not early:
    return None
  epoch, density = early[0]
  return (f'rule {name!r}: its KL left {100 * density:.2g} % of the weights after {epoch:.0f} of '
          f'{config.epochs} epochs, before the data could speak for them; let '
          'config.penalty_weight rise from 0, or lower init_log_sigma2')


def saturated(config, name, rule, rows, params) -> str | None:
  """Warns of log alphas of which almost all sit at the bound where nothing is ever removed."""
  if rule.method not in KEPT_SHARE or not rows or name not in params:
    return None
  epoch = rows[-1]['epoch']
  share, bound, repair = KEPT_SHARE[rule.method](rule, params[name])
  if epoch < LATE * config.epochs or share < SATURATED:
    return None
  return (f'rule {name!r}: after {epoch:.0f} of {config.epochs} epochs {100 * share:.0f} % of its '
          f'log alphas are past {bound:.3g}, where the penalty cannot move them; {repair}')


def densities(rule: Mapping[str, Any],
              rows: Sequence[Mapping[str, float]]) -> list[tuple[float, float]]:
  """Returns (epoch, density of the rule's kernels, the mean over them) of each evaluated epoch."""
  found = []
  for row in rows:
    own = [value for key, value in row.items() if key.startswith('density/')
           and re.fullmatch(rule['leaves'], key.removeprefix('density/'))]
    if own:
      found.append((row['epoch'], sum(own) / len(own)))
  return found


def _open_gates(rule, params):
  """Returns (share of the gates clamped open, the clamp, what to do)."""
  clamp = rule.get('clamp', (1e-2, 1e2))
  bound = math.inf if clamp is None else math.log(clamp[1])
  return (float(np.mean(_entries(params['log_alpha']) >= bound - MARGIN)), bound,
          'raise the strength')


def _low_variances(rule, params):
  """Returns (share of the weights whose KL is clipped at low variance, the bound, what to do)."""
  bound = -math.inf if rule.get('clip', 8.0) is None else -rule.get('clip', 8.0)
  return (float(np.mean(_entries(log_alphas(params)) <= bound + MARGIN)), bound,
          'raise init_log_sigma2, or clip')


KEPT_SHARE: dict[str, Callable[[Any, Any], tuple[float, float, str]]] = {
    GATES: _open_gates, VARIATIONAL: _low_variances}


def _entries(tree: Tree) -> np.ndarray:
  return np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)])


def _shown(strength: Any) -> str:
  return f'{strength:g}' if isinstance(strength, (int, float)) else 'a schedule'
