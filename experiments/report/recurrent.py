"""Recurrent networks: which units and gates live, how dense each gate is, and perplexity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colors, ticker
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from experiments.report import figures
from experiments.report.figures import Plot
from experiments.report.folder import Run
from experiments.report.tables import table
from experiments.structure import count, is_recurrent
from sparsejax.cell_paths import CELLS, cell_kernels

GONE, CONSTANT, LIVING = 0, 1, 2
_COLOURS = ('0.85', figures.ORANGE, figures.BLUE)
_NAMES = ('unit gone', 'gate constant', 'living')


def recurrent_plots(run: Run) -> list[Plot]:
  """Returns the plots that only a recurrent network has; none for another."""
  if not is_recurrent(run.config):
    return []
  return [*perplexity(run), living_units(run), gate_densities(run)]


def structure(run: Run) -> list[str]:
  """Returns a section of the report: words, inputs, units and gates left; none for other nets."""
  if not is_recurrent(run.config):
    return []
  found = count(run.deployed)
  rows = [(name, f'{kept:,}', f'{whole:,}') for name, (kept, whole) in found.counts().items()]
  rows.append(('weights', f'{found.remaining:,}', f'{found.total:,}'))
  ratio = f'{found.compression:,.1f}' if found.remaining else 'without end'
  return ['### What stays, as the papers on recurrent networks count it', '',
          table(('', 'kept', 'of'), rows, right=(1, 2)), '',
          (f'{ratio} times fewer weights: here the weights of units that nothing reads are taken '
           'away first, in the table of sizes above they count as long as they are not zero. A '
           'gate that is not kept is constant.'), '']


def perplexity(run: Run) -> list[Plot]:
  """Perplexity of a language model over the epochs, with bits per token at the right."""
  if 'test_perplexity' not in run.ledger:
    return []
  figure = figures.new_figure(6.2, 3.6)
  axes = figure.add_subplot()
  for key, label, colour in (('train_nll_nats', 'training, mean of the epoch', figures.BLUE),
                             ('validation_nll_nats', 'validation, deployed', figures.ORANGE)):
    rows = [(row['epoch'], row[key]) for row in run.metrics if key in row]
    if rows:
      epochs, nll = np.array(rows).T
      axes.plot(epochs, np.exp(nll), marker='o' if len(rows) <= 30 else None, markersize=3,
                linewidth=1.4, color=colour, label=label)
  chosen = best_epoch(run)
  if chosen is not None:
    axes.axvline(chosen, color='black', linestyle=':', linewidth=1,
                 label=f'deployed: epoch {chosen:g}, the best on validation')
  end = run.ledger['test_perplexity']
  axes.plot([run.ledger['epochs'] if chosen is None else chosen], [end], 'D', markersize=6,
            color=figures.VERMILLION, label=f'test, once at the end: {end:.4g}', zorder=3)
  axes.set_yscale('log')
  figures.log_ticks(axes.yaxis)
  axes.set_xlim(0, 1.03 * max(row['epoch'] for row in run.metrics))
  figures.tidy(axes, x='epoch', y='perplexity (logarithmic)')
  bits = axes.secondary_yaxis('right', functions=(_log2, np.exp2))
  bits.set_ylabel('bits per token', fontsize=9)
  bits.yaxis.set_major_locator(ticker.MaxNLocator(6))
  bits.yaxis.set_minor_locator(ticker.NullLocator())
  bits.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f'{value:.4g}'))
  bits.tick_params(labelsize=8)
  axes.legend(fontsize=8, frameon=False)
  stopped = '' if chosen is None else (' Training went on past the dotted line; the network of '
                                       'that epoch was deployed.')
  return [Plot('perplexity', 'Perplexity',
               'exp of the mean NLL of a token, training with noise and validation without; a '
               'curve of validation that turns upwards is overfitting.' + stopped, figure)]


def best_epoch(run: Run) -> float | None:
  """Returns the epoch that was deployed, where the config has early stopping."""
  if not run.config.get('early_stopping'):
    return None
  rows = [(row['validation_nll_nats'], row['epoch']) for row in run.metrics
          if 'validation_nll_nats' in row]
  return min(rows)[1] if rows else None


def living_units(run: Run) -> Plot:
  """A picture of each cell: a column a unit, a row a gate."""
  found = count(run.deployed)
  cells = list(found.hidden)
  states = {cell: unit_states(found.hidden[cell], found.gates[cell]) for cell in cells}
  figure = figures.new_figure(9.0, 1.0 + sum(0.5 + 0.28 * len(states[cell]) for cell in cells))
  grid = figure.add_gridspec(len(cells), 1)
  for i, cell in enumerate(cells):
    _picture(figure.add_subplot(grid[i]), cell, states[cell], list(found.gates[cell]))
  figure.legend(handles=[Patch(facecolor=colour, label=name)
                         for colour, name in zip(_COLOURS, _NAMES, strict=True)],
                loc='outside upper right', ncols=3, fontsize=8, frameon=False)
  kept, whole = found.counts()['hidden']
  gates, of_gates = found.counts()['gates']
  return Plot('living_units', 'Units and gates that live',
              f'A column is a unit, a row one of its gates; {kept} of {whole} units and {gates} of '
              f'{of_gates} gates are left. A constant gate needs no weights, only its bias. Units '
              'stand in the order of their gates, the living ones first.', figure)


def unit_states(hidden: np.ndarray, gates: dict[str, np.ndarray]) -> np.ndarray:
  """Returns GONE, CONSTANT or LIVING of each gate and unit, (gates, units), living units first."""
  states = np.array([np.where(hidden, np.where(mask, LIVING, CONSTANT), GONE)
                     for mask in gates.values()])
  return states[:, np.lexsort((*-states[::-1], -states.sum(0)))]


def gate_densities(run: Run) -> Plot:
  """Bars: which fraction of its entries each kernel of each cell keeps."""
  rows = []
  for cell, sides in cell_kernels(list(run.deployed), CELLS).items():
    for side, what in (('i', 'input'), ('h', 'state')):
      for gate, path in sides[side].items():
        kernel = run.deployed[path]
        rows.append((f'{cell} {gate or "unit"}', what, np.count_nonzero(kernel) / kernel.size))
  figure = figures.new_figure(7.0, 3.2)
  axes = figure.add_subplot()
  names = list(dict.fromkeys(name for name, _, _ in rows))
  lowest = min((value for _, _, value in rows if value > 0), default=1.0)
  for offset, (what, colour) in zip((-0.2, 0.2), (('input', figures.BLUE),
                                                  ('state', figures.GREEN)), strict=True):
    values = [value for _, side, value in rows if side == what]
    places = np.arange(len(names)) + offset
    axes.bar(places, values, width=0.38, color=colour, label=f'weights of the {what}')
    for place, value in zip(places, values, strict=True):
      axes.annotate(f'{100 * value:.3g} %', (place, max(value, 0.5 * lowest)), ha='center',
                    va='bottom', fontsize=7)
  axes.set_yscale('log')
  axes.set_ylim(0.4 * lowest, 2)
  figures.log_ticks(axes.yaxis)
  figures.tidy(axes, y='density (logarithmic)')
  axes.set_xticks(np.arange(len(names)), names)
  axes.legend(fontsize=8, frameon=False, ncols=2, loc='lower left', bbox_to_anchor=(0, 1))
  return Plot('gate_densities', 'Density of each gate',
              'Fraction of the kernel entries of each gate that the deployed network keeps. In an '
              'LSTM i, f and o are the input, forget and output gate and g is the new content; in '
              'a GRU r and z are the reset and update gate and n is the new content.', figure)


def _picture(axes: Axes, cell: str, states: np.ndarray, gates: Sequence[str]) -> None:
  axes.imshow(states, aspect='auto', interpolation='nearest', vmin=0, vmax=2,
              cmap=colors.ListedColormap(_COLOURS))
  axes.set_yticks(np.arange(len(gates)), [gate or 'unit' for gate in gates], fontsize=8)
  axes.tick_params(labelsize=8)
  axes.set_title(cell, fontsize=10, loc='left')
  axes.set_xlabel('units', fontsize=9)
  axes.spines[['top', 'right']].set_visible(False)


def _log2(value):
  return np.log2(np.maximum(value, 1e-12))       # matplotlib asks outside of the axis, too
