"""Curves over the epochs, and what is kept of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from experiments.report import figures, histograms, images, recurrent, soft_sharing
from experiments.report.figures import Plot
from experiments.report.folder import Run

MARKED = 30      # curves of at most this many points show each point


def all_plots(run: Run) -> list[Plot]:
  """Returns every plot of the report, in its order."""
  return [
      learning_curves(run),
      density_over_time(run),
      kept_weights(run),
      *recurrent.recurrent_plots(run),
      *histograms.rule_histograms(run),
      *soft_sharing.mixture_plots(run),
      *images.first_layer(run),
  ]


def series(rows: Sequence[Mapping[str, float]], key: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns (epochs, values) of the rows that have `key`."""
  pairs = [(row['epoch'], row[key]) for row in rows if key in row]
  epochs, values = np.array(pairs, np.float64).reshape(-1, 2).T
  return epochs, values


def watched_split(run: Run) -> str:
  """'validation' or 'train': the images behind the error of the learning curve."""
  return 'validation' if any('validation_error_percent' in row for row in run.metrics) else 'train'


def learning_curves(run: Run) -> Plot:
  """Negative log-likelihood, error and penalty over the epochs."""
  watched = watched_split(run)
  held = 'validation' if watched == 'validation' else 'training images'
  per = 'token' if 'test_bits_per_token' in run.ledger else 'example'
  curves = [('loss', f'NLL (nats per {per})',
             [('train_nll_nats', 'training, mean of the epoch', figures.BLUE)]),
            ('error', 'error (%)',
             [(f'{watched}_error_percent', f'{held}, deployed', figures.ORANGE)]),
            ('penalty', 'penalty (nats, whole data set)',
             [('penalty_nats', 'regulariser', figures.GREEN)])]
  if watched == 'validation':
    curves[0][2].append(('validation_nll_nats', f'{held}, deployed', figures.ORANGE))
  ends = {'loss': 'test_nll_nats', 'error': 'test_error_percent'}
  curves = [(name, label, lines) for name, label, lines in curves
            if name != 'penalty' or np.any(series(run.metrics, 'penalty_nats')[1] != 0)]
  figure = figures.new_figure(4.0 * len(curves), 3.3)
  for axes, (name, label, lines) in zip(figures.panels(figure, len(curves)), curves, strict=True):
    seen = []
    for key, legend, colour in lines:
      epochs, values = series(run.metrics, key)
      _line(axes, epochs, values, label=legend, color=colour)
      seen.append(values)
    if name in ends:
      value = run.ledger[ends[name]]
      axes.plot([run.ledger['epochs']], [value], 'D', markersize=6, color=figures.VERMILLION,
                label=f'test, once at the end: {value:.3g}', clip_on=False, zorder=3)
      seen.append(np.array([value]))
      axes.legend(fontsize=8, frameon=False)
    axes.set_xlim(0, 1.03 * run.ledger['epochs'])
    figures.log_if_wide(axes, np.concatenate(seen))
    figures.tidy(axes, x='epoch', y=label)
  drawn = 'NLL, error and penalty' if len(curves) == 3 else 'NLL and error'
  return Plot('learning_curves', 'Learning curves',
              f'{drawn} over the epochs. A gap that widens between training and {held} is '
              'overfitting; the diamond is the deployed network on the test set, which was scored '
              'once. Axes are logarithmic where the values span more than a factor of ten.', figure)


def density_over_time(run: Run) -> Plot:
  """Fraction of non-zero kernel entries, for each kernel and over all."""
  title, name = 'Density over time', 'density'
  paths = [key for key in dict.fromkeys(key for row in run.metrics for key in row)
           if key.startswith('density/')]
  if not paths:
    return Plot(name, title, 'Not drawn: metrics.jsonl has no density of any kernel.', None)
  order = {row['layer']: i for i, row in enumerate(run.ledger['layers'])}
  paths.sort(key=lambda key: order.get(_layer(key), len(order)))
  figure = figures.new_figure(7.5, 3.8)
  axes = figure.add_subplot()
  gone, lowest = False, 0.5
  for key, colour in zip(paths, colours(len(paths)), strict=True):
    epochs, values = series(run.metrics, key)
    gone |= bool(np.any(values == 0))
    lowest = min(lowest, values[values > 0].min(initial=1))
    _line(axes, epochs, np.where(values > 0, values, np.nan),
          label=f'{_layer(key)}: {percent(values[-1])}', color=colour)
  epochs, values = series(run.metrics, 'density')
  if values.size:
    _line(axes, epochs, np.where(values > 0, values, np.nan), color='black', linestyle='--',
          label=f'all kernels: {percent(values[-1])}')
  axes.set_yscale('log')
  axes.set_ylim(0.8 * lowest, 1.1)
  axes.set_xlim(0, 1.03 * run.ledger['epochs'])
  figures.log_ticks(axes.yaxis)
  figures.tidy(axes, x='epoch', y='density (kept / all kernel entries)')
  axes.legend(fontsize=8, frameon=False, loc='center left', bbox_to_anchor=(1.0, 0.5),
              title='at the end', title_fontsize=8, alignment='left')
  return Plot(name, title,
              'Fraction of kernel entries that the deployed network would keep at that epoch, '
              'logarithmic; 1 is dense. Curves that still fall at the right end have not converged.'
              + (' A curve stops where its kernel is empty.' if gone else ''), figure)


def kept_weights(run: Run) -> Plot:
  """All and kept kernel entries of each layer, as bars."""
  rows = run.ledger['layers']
  figure = figures.new_figure(7.5, 1.1 + 0.42 * len(rows))
  axes = figure.add_subplot()
  places = np.arange(len(rows))
  total = np.array([row['weights_total'] for row in rows])
  kept = np.array([row['weights_kept'] for row in rows])
  axes.barh(places, total, height=0.7, color='0.85', label='all')
  axes.barh(places, kept, height=0.7, color=figures.BLUE, label='kept')
  axes.set_xscale('log')
  axes.set_xlim(1, total.max() * 1.05)
  figures.log_ticks(axes.xaxis)
  for place, whole, left in zip(places, total, kept, strict=True):
    axes.annotate(f'{left:,} of {whole:,} ({percent(left / whole)})', (1, place),
                  xycoords=('axes fraction', 'data'), xytext=(6, 0), textcoords='offset points',
                  va='center', fontsize=8)
  figures.tidy(axes, x='kernel entries (logarithmic, from 1)')
  axes.grid(visible=False, axis='y')
  axes.set_yticks(places, [row['layer'] or '(model)' for row in rows])
  axes.invert_yaxis()
  axes.legend(fontsize=8, frameon=False, ncols=2, loc='lower left', bbox_to_anchor=(0, 1),
              borderaxespad=0.2)
  return Plot('kept_weights', 'Kept weights per layer',
              'Non-zero kernel entries of the deployed network over all kernel entries, biases '
              'apart. The axis is logarithmic: read the amounts, not the lengths.', figure)


def percent(fraction: float) -> str:
  """A fraction as percent, to three digits."""
  return f'{100 * fraction:.3g} %'


def colours(count: int) -> Sequence:
  """`count` colours that can be told apart: the palette, or a map if it does not suffice."""
  if count <= len(figures.PALETTE):
    return figures.PALETTE[:count]
  return list(matplotlib.colormaps['viridis'](np.linspace(0, 0.92, count)))


def _layer(key: str) -> str:
  return key.removeprefix('density/').removesuffix('/kernel')


def _line(axes: Axes, epochs: np.ndarray, values: np.ndarray, **style) -> None:
  marker = 'o' if len(epochs) <= MARKED else None
  axes.plot(epochs, values, marker=marker, markersize=3, linewidth=1.4, **style)
