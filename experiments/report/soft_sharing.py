"""Weights moving into their clusters: the mixture of soft weight-sharing, from the run's folder."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import matplotlib
import numpy as np
import orbax.checkpoint as ocp
from matplotlib.axes import Axes

from experiments.report import figures
from experiments.report.figures import Plot
from experiments.report.folder import Run
from sparsejax.paths import flatten
from sparsejax.regularisers.gaussian_mixture import Mixture, merge
from sparsejax.regularisers.soft_weight_sharing import MIXTURE, mixtures
from sparsejax.training.checkpoint import ABOUT_FILE

BINS = 200
SHOWN = 6000             # weights in the scatter; those that are kept come first


def is_soft_sharing(params: Any) -> bool:
  """Whether a rule's params are those of `soft_weight_sharing`."""
  return isinstance(params, dict) and params.keys() == {'weight', MIXTURE}


def _sharing_state(state: Any) -> Any:
  """Returns the state of the method itself, which `chain` with another keeps under 'a' or 'b'."""
  return next(part for part in (state, state.get('b', {}), state.get('a', {}))
              if 'merge_below' in part)


def mixture_plots(run: Run) -> list[Plot]:
  """Returns, for each mixture of each rule of soft weight-sharing, its weights and where they went.

  Where they came from is read from the oldest checkpoint that the folder still has.
  """
  plots = []
  for rule in sorted(run.params):
    if is_soft_sharing(run.params[rule]):
      for group, mixture in mixtures(run.params[rule], _sharing_state(run.state[rule])).items():
        plots.append(_clusters(run, rule, group, mixture))
  return plots


def _clusters(run: Run, rule: str, group: str, mixture: Mixture) -> Plot:
  paths = [path for path in flatten(run.params[rule]['weight'])
           if not group or path.rpartition('/')[0] == group]
  trained = _joined(flatten(run.params[rule]['weight']), paths)
  deployed = _joined(run.deployed, paths)
  earlier = _earlier(run, rule, paths)
  merged = merge(mixture, _sharing_state(run.state[rule])['merge_below'])
  figure = figures.new_figure(11.0, 4.2)
  left, right = figures.panels(figure, 2, columns=2)
  _histogram(left, trained, deployed, merged, earlier)
  _scatter(right, trained, deployed, earlier)
  where = f' of `{group}`' if group else ''
  name = f'mixture_{rule}' + (f'_{group.replace("/", "_")}' if group else '')
  came_from = ('Right: each weight then and now' if earlier else
               'Right: each weight and the mean that replaces it; no earlier checkpoint is left')
  return Plot(name, f'Weights in their clusters, rule `{rule}`{where}',
              'Left: the trained weights and their mixture, in weights per bin, logarithmic; '
              'triangles are the means that some weight was given. '
              f'{came_from}, coloured by its mean, grey at zero (up to {SHOWN:,}, those that are '
              'kept first). Weights far from their mean are what the collapse costs.', figure)


def _histogram(axes: Axes, trained: np.ndarray, deployed: np.ndarray, mixture: Mixture,
               earlier: tuple[int, np.ndarray] | None) -> None:
  used = np.unique(deployed)
  span = 1.05 * max(np.abs(trained).max(), np.abs(used).max(), 1e-3)
  counts, edges = np.histogram(trained, BINS, (-span, span))
  width = edges[1] - edges[0]
  axes.bar(edges[:-1], counts, width, align='edge', color=figures.BLUE, label='trained')
  if earlier is not None:
    before, _ = np.histogram(earlier[1], BINS, (-span, span))
    axes.stairs(before, edges, color=figures.ORANGE, label=f'after epoch {earlier[0]}')
  x = np.linspace(-span, span, 4001)
  curve = trained.size * width * _density(x, mixture)
  axes.plot(x, curve, color=figures.VERMILLION,
            linewidth=1.2, label='mixture')
  axes.plot(used, np.full(used.size, 0.6), '^', color='black', markersize=5, clip_on=False,
            label='means in use', zorder=3)
  axes.set_yscale('log')
  # The mixture between its means is next to nothing, a margin of whose logarithm is everything.
  axes.set_ylim(0.5, 5 * max(counts.max(), curve.max()))
  figures.log_ticks(axes.yaxis)
  axes.legend(fontsize=8, frameon=False)
  figures.tidy(axes, x='weight', y=f'weights in a bin of {width:.2g}')


def _scatter(axes: Axes, trained: np.ndarray, deployed: np.ndarray,
             earlier: tuple[int, np.ndarray] | None) -> None:
  used = np.unique(deployed)
  chosen = np.concatenate([np.flatnonzero(deployed), np.flatnonzero(deployed == 0)])[:SHOWN]
  palette = matplotlib.colormaps['turbo'](np.linspace(0.05, 0.95, used.size))
  palette[used == 0] = matplotlib.colors.to_rgba(figures.GREY)
  colours = palette[np.searchsorted(used, deployed[chosen])]
  x, label = (trained, 'trained weight') if earlier is None else (
      earlier[1], f'weight after epoch {earlier[0]}')
  y, other = (deployed, 'its mean') if earlier is None else (trained, 'trained weight')
  axes.scatter(x[chosen], y[chosen], s=3, linewidths=0, c=colours)
  for mean in used:
    axes.axhline(mean, color='0.5', linewidth=0.5, zorder=0)
  figures.tidy(axes, x=label, y=other)


def _density(x: np.ndarray, mixture: Mixture) -> np.ndarray:
  """Returns p(x), (n,), in float64."""
  means, gamma, log_mixing = (np.asarray(leaf, np.float64) for leaf in mixture)
  height = np.exp(log_mixing + 0.5 * (gamma - np.log(2 * np.pi)))
  return (height * np.exp(-0.5 * np.exp(gamma) * (x[:, None] - means)**2)).sum(1)


def _joined(leaves: dict[str, Any], paths: list[str]) -> np.ndarray:
  return np.concatenate([np.ravel(leaves[path]) for path in paths]).astype(np.float64)


def _earlier(run: Run, rule: str, paths: list[str]) -> tuple[int, np.ndarray] | None:
  """Returns (epochs, weights) of the oldest whole checkpoint, None without one before the end.

  Raises:
    ValueError: for a checkpoint that cannot be read.
  """
  whole = (run.folder / 'checkpoints').glob(f'*/{ABOUT_FILE}')
  epochs = sorted(int(path.parent.name) for path in whole if path.parent.name.isdigit())
  if not epochs or epochs[0] >= run.ledger['epochs']:
    return None
  folder = (run.folder / 'checkpoints' / str(epochs[0])).absolute()
  names = [f'params/{rule}/weight/{path}' for path in paths]
  missing = [name for name in names if name not in _leaves(folder)]
  if missing:
    raise ValueError(f'checkpoint {folder} has no {missing[0]}: it is of another run; remove that '
                     'folder')
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      stored = checkpointer.restore(folder / 'default')
  except Exception as error:  # Orbax raises a bare Exception for bytes it cannot read
    raise ValueError(f'checkpoint {folder} is damaged: {str(error).splitlines()[0][:200]}; remove '
                     'that folder') from error
  return epochs[0], _joined(stored, names)


def _leaves(folder: pathlib.Path) -> dict[str, str]:
  """Returns {path: form} of the arrays of a checkpoint."""
  try:
    return dict(json.loads((folder / ABOUT_FILE).read_bytes())['leaves'])
  except (ValueError, TypeError, KeyError) as error:
    raise ValueError(f'checkpoint {folder} is damaged: {ABOUT_FILE}: {error}; remove that '
                     'folder') from error
