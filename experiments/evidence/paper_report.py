"""report/<paper>.md: table, a plot per network, recipe differences, what did not come out."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.evidence import against_dense, paper_table
from experiments.evidence.comparison import UNITS, Line
from experiments.evidence.sheet import ERROR_KEY, Sheet
from experiments.evidence.verdict import EXPLANATIONS
from experiments.report import figures, tables
from sparsejax.codec import write_atomically


def write_paper_report(sheet: Sheet, lines: Sequence[Line], folder: pathlib.Path) -> pathlib.Path:
  """Writes <folder>/<key>.md, <key>.csv and a plot per network; returns the path of the first."""
  folder.mkdir(parents=True, exist_ok=True)
  pictures = []
  for network in dict.fromkeys(line.row.network for line in lines):
    figure = network_figure([line for line in lines if line.row.network == network])
    if figure is not None:
      name = f'{sheet.key}_{re.sub("[^0-9A-Za-z-]+", "_", network)}.png'
      write_atomically(folder / name, figures.png(figure))
      pictures.append(f'![error against size, {network}]({name})')
  path = folder / f'{sheet.key}.md'
  write_atomically(folder / f'{sheet.key}.csv', paper_table.as_csv(sheet, lines).encode())
  write_atomically(path, markdown(sheet, lines, pictures).encode())
  return path


def markdown(sheet: Sheet, lines: Sequence[Line], pictures: Sequence[str]) -> str:
  """Returns the text of the report."""
  paired = against_dense.paired_with_dense(lines)
  sections = [
      f'# {sheet.authors} {sheet.year}: {sheet.title}', '',
      f'arXiv:{sheet.arxiv}, table {sheet.table}, by `python -m experiments.reproduce '
      f'--paper={sheet.key}`.', '',
      paper_table.markdown(lines), '', paper_table.legend(lines), '',
      *(part for picture in pictures for part in (picture, '')),
      *(['## Against dense', '', against_dense.markdown(paired), ''] if paired else []),
      '## Where our recipe differs', '',
      *(f'- {tables.escape(text)}' for text in sheet.differences or ('nothing known',)), '',
      '## What did not come out', '', *_misses(lines), '',
      '## Runs', '', _runs(lines), '']
  return '\n'.join(sections)


def network_figure(lines: Sequence[Line]) -> Figure | None:
  """Returns error against size for the rows of one network, ours and published; None if empty."""
  keys = {line.row.size.ledger_key for line in lines if line.row.size}
  drawn = [line for line in lines if line.row.size and line.row.error]
  scores = {line.row.error.ledger_key for line in drawn if line.row.error}
  if len(keys) != 1 or len(scores) != 1 or not any(line.results for line in drawn):
    return None
  key, score = keys.pop(), scores.pop()
  figure = figures.new_figure(6.5, 4)
  axes = figures.panels(figure, 1)[0]
  colours: dict[str, str] = {}
  for line in drawn:
    assert line.row.size is not None and line.row.error is not None
    method = line.row.method
    colour = colours.setdefault(method, figures.PALETTE[len(colours) % len(figures.PALETTE)])
    if line.results:
      axes.plot(line.values(key), line.values(line.row.error.ledger_key), 'o', color=colour,
                markersize=5, alpha=0.8, label=f'ours, {method} ({line.budget}), a point a seed')
    unsure = '' if line.row.error.verified and line.row.size.verified else ', unverified'
    if line.budget == 'full':
      axes.plot(line.row.size.value, line.row.error.value, '*', color=colour, markersize=13,
                fillstyle='none' if unsure else 'full', label=f'published, {method}{unsure}')
  axes.set_xscale('log')
  figures.log_ticks(axes.xaxis)
  label = 'test error, %' if score == ERROR_KEY else f'test {UNITS.get(score, score)}'
  figures.tidy(axes, f'{drawn[0].row.network}: error against size', UNITS.get(key, key), label)
  axes.legend(fontsize=7)
  return figure


def _misses(lines: Sequence[Line]) -> list[str]:
  bad = [line for line in lines if line.verdict.name in (
      'near', 'miss', 'inconclusive', 'not run', 'stale', 'shorter recipe', 'too few seeds')]
  if not bad:
    return ['Every row that can be scored came out.']
  texts = []
  for line in bad:
    why = line.row.diagnosis or line.remark or EXPLANATIONS[line.verdict.name]
    texts.append(f'- {tables.escape(line.row.name)} ({line.budget}): {line.verdict.name}. '
                 f'{tables.escape(why)}')
  return texts


def _runs(lines: Sequence[Line]) -> str:
  rows = []
  for line in lines:
    if line.results:
      each = [result.ledger for result in line.results]
      rows.append((line.results[0].config, ' '.join(str(sheet['seed']) for sheet in each),
                   f'{np.median([sheet["wall_seconds"] for sheet in each]):.0f}',
                   '; '.join(sorted({sheet['device'] for sheet in each})),
                   ' '.join(sorted({sheet['jax_version'] for sheet in each})),
                   ' '.join(sorted({sheet['commit'][:12] for sheet in each}))))
  return tables.table(('config', 'seeds', 'median seconds', 'device', 'JAX', 'commit'), rows,
                      right=(2,))
