"""The table of a paper in three forms: for the terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np
from rich.table import Table

from experiments.evidence.comparison import Line, ours, published
from experiments.evidence.sheet import Sheet
from experiments.evidence.verdict import EXPLANATIONS, LEVEL
from experiments.report import tables

HEAD = ('row', 'published error', 'our error, %', 'published size', 'our size', 'n', 'verdict')
CSV_HEAD = ('paper', 'network', 'method', 'budget', 'figure', 'unit_key', 'published', 'verified',
            'mean', 'low', 'high', 'n', 'verdict', 'values', 'seeds', 'device', 'jax', 'commits')


def cells(line: Line) -> tuple[str, ...]:
  """Returns one row under HEAD."""
  row = line.row
  return (name(line), published(row.error), ours(line, row.error), published(row.size),
          ours(line, row.size), str(len(line.results)), line.verdict.name)


def name(line: Line) -> str:
  """Returns network and method, and the budget if it is not the paper's."""
  return line.row.name + ('' if line.budget == 'full' else f' ({line.budget} budget)')


def terminal(sheet: Sheet, lines: Sequence[Line]) -> Table:
  """Returns the table for a terminal."""
  table = Table(title=f'{sheet.authors} {sheet.year}, table {sheet.table}', title_justify='left')
  for column in HEAD:
    table.add_column(column, justify='right' if column in HEAD[2:6:2] + ('n',) else 'left')
  for line in lines:
    table.add_row(*cells(line))
  return table


def markdown(lines: Sequence[Line]) -> str:
  """Returns the table in Markdown."""
  return tables.table(HEAD, [cells(line) for line in lines], right=(2, 4, 5))


def legend(lines: Sequence[Line]) -> str:
  """Returns what the table's signs and the verdicts in it mean, one a line."""
  rows = [f'ours: mean ± half-width of the {100 * LEVEL:.0f} % prediction interval of a further '
          'single run, or every value where seeds are few']
  names = {line.verdict.name for line in lines}
  if names & {'better', 'near', 'miss'}:
    names.add('match')
  rows += [f'{verdict}: {text}' for verdict, text in EXPLANATIONS.items() if verdict in names]
  for line in lines:
    remarks = '; '.join(filter(None, (line.remark, line.row.note)))
    rows += [f'{name(line)}: {remarks}'] if remarks else []
  return '\n'.join(f'- {tables.escape(row)}' for row in rows)


def as_csv(sheet: Sheet, lines: Sequence[Line]) -> str:
  """Returns one row per published figure, with every value of ours."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(CSV_HEAD)
  for line in lines:
    for kind, figure in (('error', line.row.error), ('size', line.row.size)):
      if figure is None:
        continue
      values = line.values(figure.ledger_key)
      low, high = line.verdict.intervals.get(figure.ledger_key, ('', ''))
      each = [result.ledger for result in line.results]
      writer.writerow((
          sheet.key, line.row.network, line.row.method, line.budget, kind, figure.ledger_key,
          figure.value, figure.verified, float(np.mean(values)) if values else '', low, high,
          len(values), line.verdict.name, ' '.join(map(str, values)),
          ' '.join(str(sheet['seed']) for sheet in each),
          '; '.join(sorted({sheet['device'] for sheet in each})),
          ' '.join(sorted({sheet['jax_version'] for sheet in each})),
          ' '.join(sorted({sheet['commit'] for sheet in each}))))
  return text.getvalue()
