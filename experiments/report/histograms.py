"""Where the gates and the dropout rates of each rule ended, with the boundary of pruning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.report import figures
from experiments.report.figures import Plot
from experiments.report.folder import AGAIN, Run
from sparsejax.paths import flatten
from sparsejax.regularisers import hard_concrete, variational_dropout
from sparsejax.regularisers.group_variables import group_log_alphas

BINS = 60


def rule_histograms(run: Run) -> list[Plot]:
  """Returns a plot for each method with hard-concrete gates or a Gaussian posterior.

  A method is a rule, or a part of one: rule/part, as in `bayesian_rnn`.
  """
  plots = [draw(run, rule) for rule, draw in _drawn(run.params)]
  return plots or [Plot('histograms', 'Gates and dropout rates',
                        'Not drawn: no rule of this run has hard-concrete gates or a Gaussian '
                        'posterior.', None)]


def is_gated(params: Any) -> bool:
  """Whether a rule's params are those of `l0_hard_concrete`."""
  return isinstance(params, dict) and params.keys() == {'weight', 'log_alpha'}


def is_variational(params: Any) -> bool:
  """Whether a rule's params are those of `sparse_variational_dropout`."""
  return isinstance(params, dict) and params.keys() == {'theta', 'log_sigma2'}


def is_on_groups(params: Any) -> bool:
  """Whether a rule's params are those of `group_variables`."""
  return isinstance(params, dict) and params.keys() == {'inner', 'mean', 'log_sigma'}


def _drawn(params: Any, rule: str = '') -> Iterator[tuple[str, Callable[[Run, str], Plot]]]:
  """Yields each method's path and what draws it."""
  if is_gated(params):
    yield rule, _gates
  elif is_variational(params):
    yield rule, _weights_log_alpha
  elif isinstance(params, dict):
    if is_on_groups(params):
      yield rule, _groups_log_alpha
      params = {'inner': params['inner']}
    for part in sorted(params):
      yield from _drawn(params[part], f'{rule}/{part}' if rule else part)


def _part(tree: Any, rule: str) -> Any:
  """Returns tree[rule], of rule/part tree[rule][part]; {} where there is none."""
  for name in rule.split('/'):
    tree = tree.get(name, {})
  return tree


def gate_limits(run: Run, rule: str) -> tuple[float, float]:
  """Returns (gamma, zeta) of a rule: of the config, or the library's where it says nothing."""
  fields = _part(run.config.get('regulariser', {}), rule)
  return (float(fields.get('gamma', hard_concrete.GAMMA)),
          float(fields.get('zeta', hard_concrete.ZETA)))


def deployed_gates(run: Run, rule: str) -> dict[str, np.ndarray]:
  """Returns {path: gates in [0, 1] of the deployed network}, in the shape of their log_alpha."""
  limits = gate_limits(run, rule)
  return {path: np.asarray(hard_concrete.deterministic_gate(leaf, *limits))
          for path, leaf in flatten(_part(run.params, rule)['log_alpha']).items()}


def _gates(run: Run, rule: str) -> Plot:
  gamma, zeta = gate_limits(run, rule)
  boundary = math.log(-gamma / zeta)
  leaves = flatten(_part(run.params, rule)['log_alpha'])
  gates = deployed_gates(run, rule)
  figure, all_axes = _panels(len(leaves))
  span = _span(leaves, boundary)
  for axes, path in zip(all_axes, _ordered(run, leaves), strict=True):
    kept = int(np.count_nonzero(gates[path]))
    _histogram(axes, leaves[path], boundary, span,
               f'{path}\n{kept:,} of {gates[path].size:,} gates kept', 'log_alpha', 'gates')
  _legend(figure, all_axes[0], f'boundary {boundary:.3f}')
  return Plot(f'gates_{rule}'.replace('/', '_'), f'Gates of the rule `{rule}`',
              f'The location log_alpha of each hard-concrete gate; left of {boundary:.3f} = '
              f'log(-gamma / zeta) the deployed gate is exactly 0. Two separate heaps are a clear '
              'decision; a heap on the line means that the count of kept gates is fragile.', figure)


def _weights_log_alpha(run: Run, rule: str) -> Plot:
  leaves = flatten(variational_dropout.log_alphas(_part(run.params, rule)))
  return _log_alpha(run, rule, leaves, 'weights', '')


def _groups_log_alpha(run: Run, rule: str) -> Plot:
  leaves = group_log_alphas(_part(run.params, rule))
  return _log_alpha(run, rule, leaves, 'groups', ' on groups')


def _log_alpha(run: Run, rule: str, leaves: dict[str, Any], what: str, suffix: str) -> Plot:
  state = _part(run.state, rule)
  if 'threshold' not in state:
    raise ValueError(f'{run.folder / "parameters.safetensors"} has no state/{rule}/threshold, '
                     f'though params/{rule} has Gaussian posteriors; {AGAIN}')
  threshold = float(state['threshold'])
  leaves = {path: np.asarray(leaf) for path, leaf in leaves.items()}
  figure, all_axes = _panels(len(leaves))
  span = _span(leaves, threshold)
  for axes, path in zip(all_axes, _ordered(run, leaves), strict=True):
    kept = int(np.count_nonzero(leaves[path] < threshold))
    _histogram(axes, leaves[path], threshold, span,
               f'{path}\n{kept:,} of {leaves[path].size:,} {what} kept',
               'log alpha = log(variance / mean²)', what, pruned_left=False)
    axes.set_yscale('log')
    axes.set_ylim(bottom=0.7)               # a bin of one is seen
    figures.log_ticks(axes.yaxis)
  _legend(figure, all_axes[0], f'threshold {threshold:g}')
  name = f'log_alpha_{rule}{suffix}'.replace('/', '_').replace(' ', '_')
  return Plot(name, f'Dropout rates of the rule `{rule}`{suffix}',
              f'log alpha of each of the {what}, not clipped; from {threshold:g} on it is noise '
              f'(dropout rate above {1 / (1 + math.exp(-threshold)):.3f}) and is removed. Counts '
              'are logarithmic. Little mass near the line means that the threshold hardly matters.',
              figure)


def _ordered(run: Run, leaves: dict[str, np.ndarray]) -> list[str]:
  """The paths in the order in which the network calls the layers."""
  order = {row['layer']: i for i, row in enumerate(run.ledger['layers'])}
  return sorted(leaves, key=lambda path: (order.get(path.rpartition('/')[0], len(order)), path))


def _panels(count: int):
  columns = min(3, count)
  rows = math.ceil(count / columns)
  figure = figures.new_figure(max(3.9 * columns, 5.0), 0.4 + 2.7 * rows)
  return figure, figures.panels(figure, count)


def _span(leaves: dict[str, np.ndarray], boundary: float) -> tuple[float, float]:
  """The range of x for all panels of a rule, so that they compare; one beyond the boundary."""
  values = [float(bound(leaf)) for leaf in leaves.values() for bound in (np.min, np.max)]
  return min(*values, boundary - 1), max(*values, boundary + 1)


def _histogram(axes: Axes, values: np.ndarray, boundary: float, span: tuple[float, float],
               title: str, x: str, y: str, pruned_left: bool = True) -> None:
  """Bars coloured by the side of the boundary, which is an edge of the bins."""
  values = np.asarray(values, np.float64).reshape(-1)
  low, high = span
  width = (high - low) / BINS
  # The last bin is closed at its right end, so both sides go one further.
  first = -math.ceil((boundary - low) / width) - 1
  last = math.ceil((high - boundary) / width) + 1
  edges = boundary + width * np.arange(first, last + 1)
  counts, _ = np.histogram(values, edges)
  left = np.arange(first, last) < 0
  for pruned, colour, label in ((False, figures.BLUE, 'kept'), (True, figures.GREY, 'pruned')):
    side = left if pruned == pruned_left else ~left
    axes.bar(edges[:-1][side], counts[side], width, align='edge', color=colour, label=label)
  axes.axvline(boundary, color=figures.VERMILLION, linewidth=1.3, linestyle='--')
  axes.set_xlim(edges[0], edges[-1])
  figures.tidy(axes, title, x, y)


def _legend(figure, axes: Axes, boundary: str) -> None:
  handles, labels = axes.get_legend_handles_labels()
  figure.legend([*handles, axes.lines[0]], [*labels, boundary], loc='outside upper right', ncols=3,
                fontsize=8, frameon=False)
