"""The Pareto front of a sweep: validation error against bytes and against milliseconds.

The test set takes no part: whoever picks a member here has not seen it. Its errors stand in the
ledgers of the members.
"""

from __future__ import annotations

import csv
import io
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from experiments.evidence.configs import load_config
from experiments.evidence.sheet import ERROR_KEY, read_sheet
from experiments.report import figures
from experiments.sweeps.members import Member
from experiments.sweeps.status import state_of
from experiments.workdir import LEDGER_FILE
from sparsejax import ledger
from sparsejax.codec.atomic import write_atomically

CSV_FILE, PLOT_FILE = 'sweep.csv', 'pareto.png'
ERROR = 'validation_error_percent'
COSTS = {'bytes_file': 'bytes of the file', 'ms_compact_batch128': 'milliseconds, 128 examples'}
COLUMNS = (ERROR, 'bytes_file', 'bytes_coded', 'ms_compact_batch1', 'ms_compact_batch128',
           'parameters_compact', 'weights_kept', 'flops_compact', 'wall_seconds', 'device')
MOST_LABELS = 12          # members of a front that are named in the plot
BYTES_A_PARAMETER = 4     # a published count of parameters, as a float32 file would hold them


class Entry(NamedTuple):
  """A member, how it stands, and its ledger if it has ended."""

  member: Member
  state: str
  ledger: dict[str, Any] | None


class Published(NamedTuple):
  """A figure of a paper: test error in percent, and bytes."""

  label: str
  error: float
  size: float


def entries(folder: pathlib.Path, members: Sequence[Member]) -> list[Entry]:
  """Returns every member with its ledger."""
  found = []
  for member in members:
    path = folder / member.name / LEDGER_FILE
    found.append(Entry(member, state_of(folder, member).state,
                       ledger.read(path) if path.exists() else None))
  return found


def front(errors: Sequence[float], costs: Sequence[float]) -> list[int]:
  """Returns which points no other point beats, by rising cost: none is as good in both and better
  in one. Points that are the same are all on it or all off it."""
  points = list(zip(errors, costs, strict=True))
  best = [index for index, (error, cost) in enumerate(points)
          if not any(e <= error and c <= cost and (e, c) != (error, cost) for e, c in points)]
  return sorted(best, key=lambda index: (costs[index], errors[index]))


def fronts(found: Sequence[Entry]) -> dict[str, list[Entry]]:
  """Returns {key of a cost: the members on its front}; empty without validation errors."""
  known = [entry for entry in found if entry.ledger is not None and _is_number(entry.ledger[ERROR])]
  if not known:
    return {}
  ledgers = [entry.ledger or {} for entry in known]
  errors = [float(sheet[ERROR]) for sheet in ledgers]
  return {cost: [known[index] for index in front(errors, [float(s[cost]) for s in ledgers])]
          for cost in COSTS}


def _is_number(value: Any) -> bool:
  return value is not None and math.isfinite(value)


def csv_text(found: Sequence[Entry]) -> str:
  """Returns a row for each member: what it overrides, how it stands, and what the front is of."""
  on = fronts(found)
  fields = list(dict.fromkeys(path for entry in found for path in entry.member.overrides))
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(['member', *fields, 'state', *COLUMNS, *(f'pareto_{cost}' for cost in COSTS)])
  for entry in found:
    sheet = entry.ledger or {}
    own = [_cell(entry.member.overrides.get(path)) for path in fields]
    writer.writerow([entry.member.name, *own, entry.state,
                     *(_cell(sheet.get(column)) for column in COLUMNS),
                     *(int(entry in on.get(cost, ())) if sheet else '' for cost in COSTS)])
  return text.getvalue()


def _cell(value: Any) -> Any:
  return '' if value is None else json.dumps(value) if isinstance(value, (list, tuple)) else value


def table(found: Sequence[Entry]) -> Table | str:
  """Returns the front for a terminal, or why there is none."""
  on = fronts(found)
  if not on:
    ended = sum(entry.ledger is not None for entry in found)
    return ('no Pareto front: ' + ('no member has ended' if not ended else
            'nothing was held out, and the test set chooses nothing; set '
            'config.validation_examples'))
  shown = Table(title='Pareto front: validation error against bytes (B) and milliseconds (ms)',
                title_justify='left')
  shown.add_column('member', no_wrap=True)
  for name in ('validation error, %', 'bytes', 'ms, 128 examples', 'on the front of'):
    shown.add_column(name, justify='right')
  chosen = [entry for entry in found if any(entry in part for part in on.values())]
  for entry in sorted(chosen, key=lambda entry: (entry.ledger or {})[ERROR]):
    sheet = entry.ledger or {}
    marks = ' '.join(mark for cost, mark in zip(COSTS, ('B', 'ms'), strict=True)
                     if entry in on[cost])
    shown.add_row(entry.member.name, f'{sheet[ERROR]:.2f}', f'{sheet["bytes_file"]:,}',
                  f'{sheet["ms_compact_batch128"]:.3f}', marks)
  return shown


def published(config_name: str, dataset: str, paper: str) -> list[Published]:
  """Returns the verified figures of the paper for this network and data set, as bytes."""
  if not paper:
    return []
  stem = pathlib.PurePath(config_name).with_suffix('').as_posix()
  found = []
  for row in read_sheet(paper).rows:
    of_this = [name for name in row.configs.values() if stem.endswith(name.partition(':')[0])]
    if not of_this or row.error is None or row.size is None:
      continue
    if not (row.error.verified and row.size.verified and row.error.ledger_key == ERROR_KEY):
      continue
    if load_config(row.configs.get('full', of_this[0])).dataset != dataset:
      continue
    if row.size.ledger_key == 'parameters_compact':
      found.append(Published(f'{paper}, {row.method}', row.error.value,
                             BYTES_A_PARAMETER * row.size.value))
    elif row.size.ledger_key in ('bytes_file', 'bytes_coded'):
      found.append(Published(f'{paper}, {row.method}', row.error.value, row.size.value))
  return found


def figure(found: Sequence[Entry], stars: Sequence[Published] = ()) -> Figure:
  """Returns validation error against each cost, with the front as a line."""
  on = fronts(found)
  shown = figures.new_figure(11, 4.4)
  for axes, (cost, label) in zip(figures.panels(shown, len(COSTS), columns=2), COSTS.items(),
                                 strict=True):
    known = [entry.ledger for entry in found
             if entry.ledger is not None and _is_number(entry.ledger[ERROR])]
    axes.plot([sheet[cost] for sheet in known], [sheet[ERROR] for sheet in known], 'o',
              color=figures.GREY, markersize=4, label='members')
    line = [(entry.ledger or {}) for entry in on[cost]]
    axes.plot([sheet[cost] for sheet in line], [sheet[ERROR] for sheet in line], 'o-',
              color=figures.BLUE, markersize=5, linewidth=1, drawstyle='steps-post', label='front')
    for entry, sheet in list(zip(on[cost], line, strict=True))[:MOST_LABELS]:
      axes.annotate(entry.member.name, (sheet[cost], sheet[ERROR]), fontsize=6, xytext=(4, 4),
                    textcoords='offset points')
    if cost == 'bytes_file':
      _draw(axes, stars)
    axes.set_xscale('log')
    figures.log_ticks(axes.xaxis)
    figures.log_if_wide(axes, np.array([sheet[ERROR] for sheet in known], float))
    figures.tidy(axes, label, label, 'validation error, %')
    axes.legend(fontsize=7)
  return shown


def _draw(axes: Axes, stars: Sequence[Published]) -> None:
  for star in stars:
    axes.plot(star.size, star.error, '*', color='black', markersize=11)
    axes.annotate(star.label, (star.size, star.error), fontsize=6, xytext=(4, -9),
                  textcoords='offset points')
  if stars:
    axes.plot([], [], '*', color='black', label='published: test error, 4 bytes a parameter')


def write(folder: pathlib.Path, found: Sequence[Entry], config_name: str,
          base: Mapping[str, Any]) -> list[pathlib.Path]:
  """Writes the CSV and, if there is a front, its plot; returns their paths."""
  paths = [folder / CSV_FILE]
  write_atomically(paths[0], csv_text(found).encode())
  if fronts(found):
    stars = published(config_name, str(base['dataset']), str(base['paper']))
    paths.append(folder / PLOT_FILE)
    write_atomically(paths[1], figures.png(figure(found, stars)))
  return paths
