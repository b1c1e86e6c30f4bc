"""Controls as tables: for the terminal, as Markdown and as CSV, seeds side by side or averaged."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Sequence

import numpy as np
from rich.table import Table

from experiments.evidence.control_run import MARGIN_PERCENT, Outcome
from experiments.evidence.controls import Settings
from experiments.report import tables
from sparsejax.codec import write_atomically
from sparsejax.statistics.intervals import mean_interval

HEAD = ('network', 'n', 'epochs', 'test error, %', 'weights', 'bytes',
        'difference, points', 'McNemar p')
WORDS = {
    '': 'the network under test',
    'dense': 'the big network, no method',
    'scratch': 'compact architecture, random start, equal compute',
    'distil': 'the same, taught by the big network',
    'random': 'random masks, same densities',
    'rewind': 'iterative magnitude, rewound, same density',
    'dense_small': 'dense network of equal bytes',
    'int8_zstd': 'the big network in int8 + zstd',
}


def terminal(outcomes: Sequence[Outcome]) -> Table:
  """Returns the table for a terminal."""
  table = Table(title='Controls', title_justify='left')
  for i, name in enumerate(HEAD):
    table.add_column(name, justify='right' if i else 'left')
  for row in rows(outcomes):
    table.add_row(*row)
  return table


def write(outcomes: Sequence[Outcome], settings: Settings, path: pathlib.Path,
          title: str = 'Controls') -> pathlib.Path:
  """Writes the Markdown to `path` and the CSV beside it; returns `path`."""
  path.parent.mkdir(parents=True, exist_ok=True)
  write_atomically(path.with_suffix('.csv'), as_csv(outcomes).encode())
  text = '\n'.join([f'# {title}', '', tables.table(HEAD, rows(outcomes), right=range(1, 8)), '',
                    *_legend(outcomes, settings), ''])
  write_atomically(path, text.encode())
  return path


def rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
  """Returns one row per network and control, with the mean over the seeds."""
  shown = []
  for subject in dict.fromkeys(outcome.subject for outcome in outcomes):
    mine = [outcome for outcome in outcomes if outcome.subject == subject]
    for control in dict.fromkeys(outcome.control for outcome in mine):
      shown.append(_row([o for o in mine if o.control == control]))
  return shown


def _row(seeds: Sequence[Outcome]) -> tuple[str, ...]:
  first = seeds[0]
  name = f'{first.subject}' if not first.control else f'- {WORDS[first.control]}'
  errors = np.array([outcome.test_error_percent for outcome in seeds])
  difference, p_value = '', ''
  if first.control and len(seeds) == 1:
    difference = f'{first.difference:+.2f} [{first.low:+.2f}, {first.high:+.2f}]'
    p_value = f'{first.p_value:.2g}'
  elif first.control:
    low, high = mean_interval([outcome.difference for outcome in seeds])
    mean = np.mean([outcome.difference for outcome in seeds])
    difference = f'{mean:+.2f} [{low:+.2f}, {high:+.2f}]'
    p_value = 'per seed: ' + ' '.join(f'{outcome.p_value:.1g}' for outcome in seeds)
  spread = ''
  if len(seeds) > 1:
    low, high = mean_interval(errors)
    spread = f' ± {(high - low) / 2:.2f}'
  return (name, str(len(seeds)), f'{np.mean([o.epochs for o in seeds]):.0f}',
          f'{errors.mean():.2f}{spread}', f'{np.mean([o.weights for o in seeds]):,.0f}',
          f'{np.mean([o.bytes_file for o in seeds]):,.0f}', difference, p_value)


def as_csv(outcomes: Sequence[Outcome]) -> str:
  """Returns one row per outcome, a column per field."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(Outcome._fields)
  for outcome in outcomes:
    writer.writerow(f'{value:.5g}' if isinstance(value, float) else value for value in outcome)
  return text.getvalue()


def _legend(outcomes: Sequence[Outcome], settings: Settings) -> list[str]:
  several = len({outcome.seed for outcome in outcomes}) > 1
  lines = [
      '- difference: error of the control minus that of the network under test, so that a negative '
      'one speaks against the method; ' + (
          'mean over seeds with its 95 % interval (Student t, paired by seed)' if several else
          'with the paired bootstrap 95 % interval over the test examples'),
      f'- {WORDS["scratch"]}: multiply-adds of the linear layers, with at most '
      f'{settings.max_epochs_factor:g} times the epochs; the cost of the method itself is left out',
      f'- {WORDS["distil"]}: temperature {settings.temperature:g}, weight of the labels '
      f'{settings.hard_weight:g}, fixed beforehand',
      f'- {WORDS["rewind"]}: {settings.rounds} rounds within equal epochs',
      f'- {WORDS["int8_zstd"]}: rounded after training, a scale per output channel',
  ]
  notes = dict.fromkeys(f'- {o.subject}, {WORDS[o.control]}: {o.note}' for o in outcomes if o.note)
  lines += notes
  for subject in dict.fromkeys(o.subject for o in outcomes):
    dense = [o for o in outcomes if o.subject == subject and o.control == 'dense']
    if dense:
      good = sum(o.not_worse for o in dense)
      lines.append(f'- {subject}: not worse than the dense network by {MARGIN_PERCENT} points or '
                   f'more (one-sided 95 %, Tango) for {good} of {len(dense)} seeds')
  return ['- ' + tables.escape(line.removeprefix('- ')) for line in lines]
