"""Rows of measurements: appended to a JSON-lines file, printed as tables."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.targets import Ratio
from benchmarks.timing import Estimate
from sparsejax.codec.atomic import write_atomically

Row = dict[str, Any]


def append(path: str | pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
  """Adds one line of JSON per row to the file, which is made with its folder if missing."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  before = path.read_bytes() if path.exists() else b''
  lines = ''.join(json.dumps(row, sort_keys=True) + '\n' for row in rows)
  write_atomically(path, before + lines.encode())


def time_row(network: str, method: str, framework: str, value: Estimate) -> Row:
  """Returns the row of a step's time, in milliseconds."""
  return {'kind': 'milliseconds_per_step', 'network': network, 'method': method,
          'framework': framework, **value._asdict()}


def ratio_row(found: Ratio) -> Row:
  """Returns the row of a ratio of times with its target."""
  return {'kind': 'ratio', 'network': found.network, 'method': found.method,
          'against': found.against, 'at_most': found.at_most, 'at_least': found.at_least,
          'verdict': found.verdict, **found.value._asdict()}


def show(console: Console, title: str, rows: Iterable[Row], found: Iterable[Ratio]) -> None:
  """Prints the times and below them the ratios, each beside its target."""
  times = Table(title=title, title_justify='left')
  for name in ('network', 'method', 'step of', 'ms', '95 % interval'):
    times.add_column(name, justify='right' if name in ('ms', '95 % interval') else 'left')
  for row in rows:
    times.add_row(row['network'], row['method'], row['framework'], f'{row["median"]:.3f}',
                  f'{row["low"]:.3f} to {row["high"]:.3f}')
  console.print(times)
  table = Table(title='Ratios, round by round', title_justify='left')
  for name in ('network', 'ratio', 'value', '95 % interval', 'target', 'verdict'):
    table.add_column(name, justify='right' if name in ('value', '95 % interval') else 'left')
  for entry in found:
    if entry.against == 'dense':
      label, target = f'{entry.method} / dense', entry.at_most and f'<= {entry.at_most}'
    else:
      label, target = f'{entry.against} / ours, {entry.method}', (
          entry.at_least and f'>= {entry.at_least}')
    table.add_row(entry.network, label, f'{entry.value.median:.3f}',
                  f'{entry.value.low:.3f} to {entry.value.high:.3f}', target or '', entry.verdict)
  console.print(table)
