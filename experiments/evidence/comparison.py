"""Published rows beside ours: which results count, what they say, and in which words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.evidence.code_hash import code_hash
from experiments.evidence.configs import load_config
from experiments.evidence.results import Result
from experiments.evidence.sheet import BUDGETS, ERROR_KEY, Figure, Row, Sheet
from experiments.evidence.verdict import SEEDS, Verdict, verdict
from experiments.workdir import config_hash

UNITS = {
    ERROR_KEY: '%',
    'test_bits_per_token': 'bits per token',
    'test_perplexity': 'perplexity',
    'compression_weights': 'x fewer weights',
    'compression_structure': 'x fewer weights (of what is read)',
    'parameters_compact': 'parameters',
}
FORMS = {ERROR_KEY: '{:.2f}', 'test_bits_per_token': '{:.3f}', 'test_perplexity': '{:.1f}'}


class Line(NamedTuple):
  """A published row, our results under one budget, and the verdict.

  Attributes:
    row: the published row. budget: of the runs, 'full' being the paper's recipe.
    results: those counted, one a seed, of one version of the code. verdict: on them.
    remark: what a reader must know, or ''.
  """

  row: Row
  budget: str
  results: tuple[Result, ...]
  verdict: Verdict
  remark: str

  def values(self, key: str) -> list[float]:
    """Returns what each seed gave."""
    return [float(result.ledger[key]) for result in self.results]


def compare(sheet: Sheet, results: Sequence[Result], budget: str = 'full', networks: str = '',
            check_code: bool = True) -> list[Line]:
  """Returns one line per row of the sheet, and one for shorter runs where the recipe was not run.

  Results of different versions of the code never count together. With `check_code` those of any but
  the present version are called stale; without, the newest are shown as what was obtained.
  """
  lines = []
  for row in sheet.rows:
    if networks and networks not in row.name:
      continue
    asked = [_line(row, name, results, check_code) for name in BUDGETS[BUDGETS.index(budget):]]
    lines.append(asked[0])
    if len(asked[0].results) < SEEDS or asked[0].verdict.name == 'stale':
      lines += [line for line in asked[1:] if line.results and line.budget != 'smoke']
  return lines


def _line(row: Row, budget: str, results: Sequence[Result], check_code: bool) -> Line:
  if budget not in row.configs:
    return Line(row, budget, (), Verdict('not run', {}),
                f'no config runs this row with the budget {budget!r}')
  name = row.configs[budget]
  config = load_config(name)
  # A result of the same file with another override has another checksum and is none of this row.
  mine = [result for result in results if result.config == name and _config_hash(
      name, result.ledger['seed']) == result.ledger['config_hash']]
  figures = [figure for figure in (row.error, row.size) if figure]
  lacking = [result for result in mine
             if any(figure.ledger_key not in result.ledger for figure in figures)]
  mine = [result for result in mine if result not in lacking]
  newest = max(mine, key=lambda result: result.ledger['time_utc'], default=None)
  wanted = code_hash(config) if check_code or newest is None else newest.code_hash
  current = [result for result in mine if result.holds_for(wanted)]
  stale = [result for result in mine if not result.holds_for(wanted)]
  remarks = []
  if lacking:
    remarks.append(f'{len(lacking)} results without a figure to compare left out')
  if not current and newest is not None:
    current = [result for result in stale if result.code_hash == newest.code_hash]
    return Line(row, budget, tuple(current), Verdict('stale', {}),
                f'code {newest.code_hash[:8]}, now {wanted[:8]}; run again')
  if stale:
    remarks.append(f'{len(stale)} stale results (other code) left out')
  attested = sum(result.code_hash != wanted for result in current)
  if attested:
    remarks.append(f'{attested} results of older code, of which the present code repeats the '
                   'first epochs')
  data = {result.ledger['data_hash'] for result in current}
  if len(data) > 1:
    raise ValueError(f'results of {name} are of different data ({", ".join(sorted(data))}); remove '
                     'those of the wrong file from experiments/results')
  line = Line(row, budget, tuple(current), Verdict('not run', {}), '; '.join(remarks))
  if not current:
    return line
  if budget != 'full':
    full = load_config(row.configs['full']).epochs if 'full' in row.configs else None
    epochs = f'{config.epochs} epochs' + (f' of {full}' if full else '')
    return line._replace(verdict=Verdict('shorter recipe', {}),
                         remark='; '.join((*remarks, epochs)))
  found = verdict(row, {figure.ledger_key: line.values(figure.ledger_key) for figure in figures})
  partly = [figure.ledger_key for figure in figures if row.scored and not figure.verified]
  if partly:
    remarks.append(f'{", ".join(partly)}: unverified, not scored')
  return line._replace(verdict=found, remark='; '.join(remarks))


def missing_seeds(line: Line, seeds: int) -> list[int]:
  """Returns the seeds among 0..seeds-1 that this line has no current result of."""
  if line.budget not in line.row.configs:
    return []
  have = set() if line.verdict.name == 'stale' else {r.ledger['seed'] for r in line.results}
  return [seed for seed in range(seeds) if seed not in have]


def published(figure: Figure | None) -> str:
  """Returns a published figure in words."""
  if figure is None:
    return ''
  text = f'{figure.value:,g} {UNITS.get(figure.ledger_key, figure.ledger_key)}'
  return text if figure.verified else f'{text} (unverified)'


def ours(line: Line, figure: Figure | None) -> str:
  """Returns mean ± half-width of the prediction interval, or the points where there is none."""
  if figure is None or not line.results:
    return ''
  key = figure.ledger_key
  values = line.values(key)
  form = FORMS.get(key, '{:,.1f}' if key.startswith('compression') else '{:,.0f}')
  # The column of errors is in percent; another score says its unit.
  unit = f' {UNITS[key]}' if key in FORMS and key != ERROR_KEY else ''
  if key in line.verdict.intervals:
    low, high = line.verdict.intervals[key]
    return f'{form.format(np.mean(values))} ± {form.format((high - low) / 2)}{unit}'
  return ', '.join(form.format(value) for value in values) + unit


def _config_hash(name: str, seed: int) -> str:
  return config_hash(load_config(name, seed))
