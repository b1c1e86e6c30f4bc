"""report/frontier_<suite>.md: a table per task and measure, a plot with the published points."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Group
from rich.table import Table

from experiments.evidence.selection import SIZES, Chosen
from experiments.evidence.sheet import known_papers, read_sheet
from experiments.report import figures, tables
from sparsejax.codec import write_atomically
from sparsejax.statistics.intervals import mean_interval

# The network of a published row, for each task that has published rows, and its parameters.
PUBLISHED = {'MNIST MLP': ('LeNet-300-100', 266_610), 'MNIST LeNet-5': ('LeNet-5-Caffe', 431_080)}
HIGHEST_PERCENT = 20        # drawn; a network near chance would flatten all others
MEASURES = {'weights': 'times fewer weights', 'bytes': 'times fewer bytes of the file'}


def terminal(chosen: Sequence[Chosen]) -> Group:
  """Returns the tables for a terminal."""
  shown = []
  for task, measure in _sections(chosen):
    head, rows = _grid(chosen, task, measure)
    table = Table(title=f'{task}: test error in % at matched {measure}', title_justify='left')
    for i, name in enumerate(head):
      table.add_column(name, justify='right' if i else 'left')
    for row in rows:
      table.add_row(*row)
    shown.append(table)
  return Group(*shown)


def write(suite: str, chosen: Sequence[Chosen],
          contents: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]],
          folder: pathlib.Path) -> pathlib.Path:
  """Writes the report and one plot per task; returns the path of the report."""
  folder.mkdir(parents=True, exist_ok=True)
  texts = [f'# The frontier of the suite "{suite}"', '',
           f'`python -m experiments.frontier --suite={suite}`', '', _explanation(), '']
  for task in dict.fromkeys(entry.task for entry in chosen):
    name = f'frontier_{suite}_{task.replace(" ", "_")}.png'
    write_atomically(folder / name, figures.png(task_figure(chosen, task)))
    texts += [f'## {task}', '', f'![error against size]({name})', '']
    for measure in SIZES:
      head, rows = _grid(chosen, task, measure)
      texts += [f'Test error in % at matched {measure}:', '',
                tables.table(head, rows, right=range(1, len(head))), '']
    texts += [_provenance(task, contents), '']
  path = folder / f'frontier_{suite}.md'
  write_atomically(path, '\n'.join(texts).encode())
  return path


def task_figure(chosen: Sequence[Chosen], task: str) -> Figure:
  """Returns test error against weights and against bytes, a line per method."""
  figure = figures.new_figure(11, 4.6)
  for axes, measure in zip(figures.panels(figure, 2, columns=2), SIZES, strict=True):
    methods = dict.fromkeys(e.method for e in chosen if e.task == task and e.method != 'dense')
    for i, method in enumerate(methods):
      drawn = [e for e in chosen if (e.task, e.method, e.measure) == (task, method, measure)
               and e.candidate is not None]
      if drawn:
        axes.errorbar([e.candidate.ratio(measure) for e in drawn if e.candidate],
                      [e.test_errors.mean() for e in drawn],
                      [_half_width(e.test_errors) for e in drawn], label=method,
                      color=figures.PALETTE[i % len(figures.PALETTE)], marker='osv^D'[i % 5],
                      linestyle='-' if i < len(figures.PALETTE) else '--', markersize=4,
                      linewidth=1, capsize=2)
    for e in chosen:
      if (e.task, e.method, e.measure) == (task, 'dense', measure):
        axes.axhline(e.test_errors.mean(), color='black', linewidth=0.8, label='dense')
    if measure == 'weights':
      _draw_published(axes, task)
    axes.set_xscale('log')
    axes.set_yscale('log')
    if axes.get_ylim()[1] > HIGHEST_PERCENT:
      axes.set_ylim(top=HIGHEST_PERCENT)
    figures.log_ticks(axes.xaxis)
    figures.log_ticks(axes.yaxis)
    figures.tidy(axes, f'{task}: {MEASURES[measure]}', MEASURES[measure], 'test error, %')
  if axes.get_legend_handles_labels()[0]:
    axes.legend(fontsize=7)
  return figure


def _draw_published(axes: Axes, task: str) -> None:
  if task not in PUBLISHED:
    return
  network, parameters = PUBLISHED[task]
  for paper in known_papers():
    for row in read_sheet(paper).rows:
      if row.network == network and row.size and row.error:
        key, value = row.size.ledger_key, row.size.value
        ratio = value if key.startswith('compression') else parameters / value
        sure = row.size.verified and row.error.verified
        axes.plot(ratio, row.error.value, '*', color='black', markersize=11,
                  fillstyle='full' if sure else 'none')
        axes.annotate(f'{paper}{"" if sure else ", unverified"}', (ratio, row.error.value),
                      fontsize=6, xytext=(4, -9), textcoords='offset points')


def _sections(chosen: Sequence[Chosen]) -> list[tuple[str, str]]:
  return list(dict.fromkeys((entry.task, entry.measure) for entry in chosen))


def _grid(chosen: Sequence[Chosen], task: str,
          measure: str) -> tuple[list[str], list[tuple[str, ...]]]:
  """Returns head and rows: methods down, budgets across."""
  mine = [e for e in chosen if (e.task, e.measure) == (task, measure)]
  budgets = sorted({e.budget for e in mine})
  cells = {(e.method, e.budget): _cell(e) for e in mine}
  rows = [(method, *(cells.get((method, budget), '') for budget in budgets))
          for method in dict.fromkeys(e.method for e in mine)]
  return ['method', *(f'{budget:g}x' for budget in budgets)], rows


def _cell(entry: Chosen) -> str:
  if entry.candidate is None:
    return 'not reached'
  half = _half_width(entry.test_errors)
  spread = f' ± {half:.2f}' if half else ''
  return (f'{entry.test_errors.mean():.2f}{spread} '
          f'({entry.candidate.ratio(entry.measure):.0f}x)')


def _half_width(errors: np.ndarray) -> float:
  if len(errors) < 2:
    return 0.0
  low, high = mean_interval(errors)
  return (high - low) / 2


def _explanation() -> str:
  return ('Mean over the seeds ± half-width of the 95 % interval of that mean (Student t), and in '
          'brackets how many times smaller the chosen networks are. Weights: non-zero kernel '
          "entries of the compact network, to all kernel entries of the dense one. Bytes: the "
          "compact network's file, to the dense network in a plain float32 file. Within a budget, "
          'the strength, density or threshold is the one with the lowest mean error on held-out '
          'images; the test set was read for the chosen networks alone. All methods have the same '
          'short recipe, so a method that needs long training (L0 above all) is shown here below '
          "what it reaches with its paper's recipe. Stars are published figures, from the papers' "
          'own and longer recipes. Errors above '
          f'{HIGHEST_PERCENT} % are in the tables but not in the pictures.')


def _provenance(task: str, contents: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> str:
  mine = [content for (name, _), rows in contents.items() if name == task for content in rows]
  seconds = sum(content['seconds'] for content in mine)
  told = {key: ', '.join(sorted({str(content[key]) for content in mine}))
          for key in ('device', 'jax_version', 'epochs', 'threads')}
  failed = sum(bool(content['error']) for content in mine)
  return (f'{len(mine)} trainings of {told["epochs"]} epochs, {seconds / 3600:.1f} hours of one '
          f'process with {told["threads"]} thread, {told["device"]}, JAX {told["jax_version"]}'
          + (f'; {failed} diverged' if failed else '') + '.')
