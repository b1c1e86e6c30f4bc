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
TEXT_HEAD = ('network', 'n', 'epochs', 'bits per token', 'perplexity', 'difference, bits',
             'weights', 'bytes', 'token error, %', 'difference, points', 'McNemar p')
# Of a terminal's narrow table; the report has them all.
NARROW = ('network', 'epochs', 'bits per token', 'difference, bits', 'weights', 'bytes')
TEXT_FIELDS = ('bits_per_token', 'bits_difference', 'bits_low', 'bits_high')
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
  names = head(outcomes)
  shown = [i for i, name in enumerate(names) if names == HEAD or name in NARROW]
  for i in shown:
    table.add_column(names[i], justify='right' if i else 'left')
  for row in rows(outcomes):
    table.add_row(*(row[i] for i in shown))
  return table


def write(outcomes: Sequence[Outcome], settings: Settings, path: pathlib.Path,
          title: str = 'Controls', left_out: Sequence[str] = ()) -> pathlib.Path:
  """Writes the Markdown to `path` and the CSV beside it; returns `path`.

  `left_out` are sentences on controls that the network has not.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  write_atomically(path.with_suffix('.csv'), as_csv(outcomes).encode())
  shown = head(outcomes)
  text = '\n'.join([f'# {title}', '',
                    tables.table(shown, rows(outcomes), right=range(1, len(shown))), '',
                    *_legend(outcomes, settings, left_out), ''])
  write_atomically(path, text.encode())
  return path


def head(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
  """Returns the heads of the columns, which language models have more of."""
  return TEXT_HEAD if _is_text(outcomes) else HEAD


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
  sizes = (f'{np.mean([o.weights for o in seeds]):,.0f}',
           f'{np.mean([o.bytes_file for o in seeds]):,.0f}')
  error = _score([outcome.test_error_percent for outcome in seeds])
  points = _difference(first.control, [(o.difference, o.low, o.high) for o in seeds])
  p_value = f'{first.p_value:.2g}' if first.control else ''
  if first.control and len(seeds) > 1:
    p_value = 'per seed: ' + ' '.join(f'{outcome.p_value:.1g}' for outcome in seeds)
  begin = (name, str(len(seeds)), f'{np.mean([o.epochs for o in seeds]):.0f}')
  if not _is_text(seeds):
    return (*begin, error, *sizes, points, p_value)
  bits = [outcome.bits_per_token or 0.0 for outcome in seeds]
  change = _difference(first.control, [(o.bits_difference, o.bits_low, o.bits_high)
                                       for o in seeds], 3)
  return (*begin, _score(bits, 3), f'{2 ** np.mean(bits):.2f}', change, *sizes, error, points,
          p_value)


def _score(values: Sequence[float], digits: int = 2) -> str:
  """The mean, for several seeds with half the length of its interval."""
  spread = ''
  if len(values) > 1:
    low, high = mean_interval(values)
    spread = f' ± {(high - low) / 2:.{digits}f}'
  return f'{np.mean(values):.{digits}f}{spread}'


def _difference(control: str, seeds: Sequence[tuple[float, float, float]], digits: int = 2) -> str:
  """The difference and its interval: of the one seed over test data, else over the seeds."""
  if not control:
    return ''
  mean, low, high = seeds[0]
  if len(seeds) > 1:
    mean = float(np.mean([value for value, _, _ in seeds]))
    low, high = mean_interval([value for value, _, _ in seeds])
  return f'{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]'


def _is_text(outcomes: Sequence[Outcome]) -> bool:
  return any(outcome.bits_per_token is not None for outcome in outcomes)


def as_csv(outcomes: Sequence[Outcome]) -> str:
  """Returns one row per outcome, a column per field; those of bits for language models alone."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  names = [name for name in Outcome._fields if name not in TEXT_FIELDS or _is_text(outcomes)]
  writer.writerow(names)
  for outcome in outcomes:
    values = [getattr(outcome, name) for name in names]
    writer.writerow(f'{value:.5g}' if isinstance(value, float) else value for value in values)
  return text.getvalue()


def _legend(outcomes: Sequence[Outcome], settings: Settings,
            left_out: Sequence[str] = ()) -> list[str]:
  several = len({outcome.seed for outcome in outcomes}) > 1
  text = _is_text(outcomes)
  lines = [
      '- difference: error of the control minus that of the network under test, so that a negative '
      'one speaks against the method; ' + (
          'mean over seeds with its 95 % interval (Student t, paired by seed)' if several else
          'with the paired bootstrap 95 % interval over the test examples'
          if not text else 'in bits with the 95 % interval of Student over the windows of the test '
          'text, in points with the paired bootstrap interval over its tokens'),
  ]
  explained = {
      'scratch': 'multiply-adds of the linear layers, with at most '
                 f'{settings.max_epochs_factor:g} times the epochs; the cost of the method itself '
                 'is left out',
      'distil': f'temperature {settings.temperature:g}, weight of the labels '
                f'{settings.hard_weight:g}, fixed beforehand',
      'rewind': f'{settings.rounds} rounds within equal epochs',
      'int8_zstd': 'rounded after training, a scale per output channel'}
  run = {outcome.control for outcome in outcomes}
  lines += [f'- {WORDS[name]}: {words}' for name, words in explained.items() if name in run]
  if text and not several:
    lines.append('- tokens of one text are not independent of each other, and the interval in '
                 "points and McNemar's p take them to be: they claim too much; windows, which the "
                 'interval in bits takes to be independent, depend on each other far less')
  lines += [f'- {sentence}' for sentence in left_out]
  notes = dict.fromkeys(f'- {o.subject}, {WORDS[o.control]}: {o.note}' for o in outcomes if o.note)
  lines += notes
  for subject in dict.fromkeys(o.subject for o in outcomes):
    dense = [o for o in outcomes if o.subject == subject and o.control == 'dense']
    if dense and not text:
      good = sum(o.not_worse for o in dense)
      lines.append(f'- {subject}: not worse than the dense network by {MARGIN_PERCENT} points or '
                   f'more (one-sided 95 %, Tango) for {good} of {len(dense)} seeds')
  return ['- ' + tables.escape(line.removeprefix('- ')) for line in lines]
