"""Several runs side by side: results, what their configs differ in, curves in one figure."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from experiments.report import figures
from experiments.report.plots import colours, series
from experiments.workdir import CONFIG_FILE, LEDGER_FILE
from sparsejax import ledger
from sparsejax.paths import flatten
from sparsejax.training.metrics import read_metrics

# Key of the ledger, how it is told, its form, and whether less is better (None: neither).
MEASURES = (
    ('validation_error_percent', 'validation error', '{:.2f} %', True),
    ('test_error_percent', 'test error', '{:.2f} %', True),
    ('test_nll_nats', 'test NLL (nats)', '{:.4f}', True),
    ('test_bits_per_token', 'test bits per token', '{:.4f}', True),
    ('weights_kept', 'weights kept', '{:,}', True),
    ('compression_weights', 'fewer weights', '{:.1f}x', False),
    ('parameters_compact', 'parameters, compact', '{:,}', True),
    ('bytes_file', 'bytes, safetensors', '{:,}', True),
    ('bytes_zstd', 'bytes under Zstandard', '{:,}', True),
    ('bytes_coded', 'bytes, container', '{:,}', True),
    ('flops_compact', 'flops of one example', '{:,}', True),
    ('ms_compact_batch1', 'ms, batch 1', '{:.3f}', True),
    ('ms_compact_batch128', 'ms, batch 128', '{:.3f}', True),
    ('epochs', 'epochs', '{:,}', None),
    ('wall_seconds', 'seconds of training', '{:.0f}', None),
    ('device', 'device', '{}', None),
    ('jax_version', 'JAX', '{}', None),
    ('commit', 'commit', '{:.8}', None),
)
CURVES = (('train_nll_nats', 'training NLL (nats)'),
          ('validation_error_percent', 'validation error (%)'),
          ('train_error_percent', 'error on training images (%)'),
          ('density', 'density (kept / all kernel entries)'))


class ComparedRun(NamedTuple):
  """A run, ended or not: its folder, config by path, metrics, and ledger or None."""

  folder: str
  config: dict[str, Any]
  metrics: list[dict[str, float]]
  ledger: dict[str, Any] | None


def read(folder: str | pathlib.Path) -> ComparedRun:
  """Reads a run's folder.

  Raises:
    ValueError: if it is no run, or a file of it is damaged.
  """
  folder = pathlib.Path(folder)
  path = folder / CONFIG_FILE
  if not path.is_file():
    raise ValueError(f'{folder} holds no run: {CONFIG_FILE} is missing; give the --workdir of one')
  try:
    config = flatten(json.loads(path.read_text(encoding='utf-8')))
  except (ValueError, AttributeError) as error:
    raise ValueError(f'{path} is damaged: {error}; restore it from a copy') from error
  sheet = ledger.read(folder / LEDGER_FILE) if (folder / LEDGER_FILE).is_file() else None
  return ComparedRun(os.path.abspath(folder), config, read_metrics(folder / 'metrics.jsonl'),
                     sheet)


def results_table(runs: Sequence[ComparedRun]) -> Table:
  """Returns one row per measure, one column per run; the best of comparable values is bold."""
  table = _table('Results', runs)
  for key, name, form, less in MEASURES:
    values = [None if run.ledger is None else run.ledger.get(key) for run in runs]
    if all(value is None for value in values):
      continue
    numbers = [value for value in values if value is not None]
    best = None if less is None or len(numbers) < 2 else min(numbers) if less else max(numbers)
    cells = []
    for run, value in zip(runs, values, strict=True):
      text = ('not ended' if run.ledger is None else 'none') if value is None else (
          escape(form.format(value)))
      if run.ledger is not None and key in run.ledger['simulated']:
        text += ' (simulated)'
      cells.append(f'[bold]{text}[/bold]' if value is not None and value == best else text)
    table.add_row(name, *cells)
  return table


def config_table(runs: Sequence[ComparedRun]) -> Table:
  """Returns one row per field of the config that is not the same in all runs."""
  table = _table('Configs: what differs', runs)
  for field in dict.fromkeys(name for run in runs for name in run.config):
    values = [repr(run.config[field]) if field in run.config else 'absent' for run in runs]
    if len(set(values)) > 1:
      table.add_row(field.replace('/', '.'), *map(escape, values))
  if not table.row_count:
    table.add_row('nothing', *('' for _ in runs))
  return table


def curves(runs: Sequence[ComparedRun]) -> Figure:
  """Returns one panel per metric that some run has, one line per run.

  Raises:
    ValueError: if no run has written a metric yet.
  """
  drawn = [(key, label) for key, label in CURVES
           if any(key in row for run in runs for row in run.metrics)]
  if not drawn:
    raise ValueError('no run has metrics yet; wait for the first epoch')
  figure = figures.new_figure(4.2 * min(len(drawn), 3), 3.4 * -(-len(drawn) // 3) + 0.2 * len(runs))
  for axes, (key, label) in zip(figures.panels(figure, len(drawn)), drawn, strict=True):
    seen = []
    for run, colour in zip(runs, colours(len(runs)), strict=True):
      epochs, values = series(run.metrics, key)
      axes.plot(epochs, values, linewidth=1.4, color=colour,
                label=os.path.relpath(run.folder))
      seen.append(values)
    figures.log_if_wide(axes, np.concatenate(seen))
    axes.locator_params(axis='x', integer=True)
    figures.tidy(axes, x='epoch', y=label)
  handles, labels = axes.get_legend_handles_labels()
  figure.legend(handles, labels, loc='outside lower center', fontsize=8, frameon=False)
  return figure


def _table(title: str, runs: Sequence[ComparedRun]) -> Table:
  table = Table(title=title, title_justify='left')
  table.add_column('', overflow='fold', min_width=20)
  common = os.path.commonpath([os.path.dirname(run.folder) for run in runs])
  for run in runs:
    table.add_column(escape(os.path.relpath(run.folder, common or '.')), justify='right',
                     overflow='fold')
  return table
