"""The measurements of `benchmarks.recurrent` as rows, and as a table beside their targets."""

from __future__ import annotations

from rich.table import Table

from benchmarks import recurrent_cells as cells
from benchmarks import timing
from benchmarks.results import Row, ratio_row, time_row
from benchmarks.targets import OURS, Ratio
from benchmarks.timing import Estimate

PARTS = ('steps', 'tokens', 'memory')


def time_steps(setting: cells.Setting, steps: int, rounds: int) -> list[Row]:
  """Returns the times of a dense step and of steps with drawn weights, and their ratios."""
  methods = ('dense', *setting.methods)
  functions = {method: cells.TrainingSteps(setting, method, steps) for method in methods}
  samples = {name: times / steps
             for name, times in timing.interleaved(functions, rounds, warmup=2).items()}
  rows = [time_row(setting.network, name, OURS, timing.estimate(times))
          for name, times in samples.items()]
  for method in setting.methods:
    target = cells.AT_MOST if method == 'vd' else None
    rows.append(ratio_row(Ratio(setting.network, method, 'dense',
                                timing.ratio(samples[method], samples['dense']), at_most=target)))
  shape = {'batch_size': setting.batch, 'length': setting.length, 'steps': steps}
  return [{**row, **shape} for row in rows]


def time_tokens(setting: cells.Setting, rounds: int) -> list[Row]:
  """Returns milliseconds a token of deployed networks, and how many times as fast as dense."""
  forms = cells.deployed(setting)
  functions = {name: function for name, (function, _) in forms.items()}
  tokens = setting.batch * setting.length
  samples = {name: times / tokens
             for name, times in timing.interleaved(functions, rounds, warmup=2).items()}
  rows = []
  for name, times in samples.items():
    facts = {'network': setting.network, 'method': name, 'what': forms[name][1],
             'batch_size': setting.batch, 'length': setting.length}
    rows.append({'kind': 'milliseconds_per_token', **facts, **timing.estimate(times)._asdict()})
    if name != 'dense':
      gain = timing.ratio(samples['dense'], times)
      rows.append({'kind': 'speedup', 'against': 'dense', **facts, **gain._asdict()})
  return rows


def measure_memory(setting: cells.Setting, lengths: tuple[int, ...]) -> list[Row]:
  """Returns the scratch of the dense and the drawn step over the length, and the slopes' ratio."""
  rows, slopes = [], {}
  for method in ('dense', setting.methods[0]):
    scratch = [cells.scratch_bytes(setting, method, length) for length in lengths]
    slopes[method] = cells.bytes_per_step(lengths, scratch)
    rows += [{'kind': 'scratch_bytes', 'network': setting.network, 'method': method,
              'batch_size': setting.batch, 'length': length, 'bytes': number}
             for length, number in zip(lengths, scratch)]
    rows.append({'kind': 'scratch_bytes_per_time_step', 'network': setting.network,
                 'method': method, 'bytes': slopes[method], 'lengths': list(lengths)})
  quotient = slopes[setting.methods[0]] / slopes['dense']
  exact = Estimate(quotient, quotient, quotient)   # compiled, not timed: no interval
  found = Ratio(setting.network, setting.methods[0], 'dense', exact, at_most=cells.SLOPES_AT_MOST)
  return [*rows, {**ratio_row(found), 'kind': 'slope_ratio'}]


LABELS = {'milliseconds_per_step': 'ms a step', 'milliseconds_per_token': 'ms a token',
          'ratio': 'step / dense step', 'speedup': 'times as fast', 'slope_ratio': 'slope / dense',
          'scratch_bytes': 'bytes', 'scratch_bytes_per_time_step': 'bytes a time step'}


def table(rows: list[Row]) -> Table:
  """Returns a table of the rows of one call of a function here."""
  shown = Table(title=rows[0]['network'], title_justify='left')
  for name in ('method', 'what', 'value', '95 % interval', 'target'):
    shown.add_column(name, justify='right' if name in ('value', '95 % interval') else 'left')
  for row in rows:
    label = LABELS[row['kind']]
    if row['kind'] == 'scratch_bytes':
      label += f', T = {row["length"]}'
    value = f'{row["bytes"]:,.0f}' if 'bytes' in row else f'{row["median"]:.4g}'
    timed = 'low' in row and row['kind'] != 'slope_ratio'
    interval = f'{row["low"]:.4g} to {row["high"]:.4g}' if timed else ''
    target = f'<= {row["at_most"]}: {row["verdict"]}' if row.get('at_most') else ''
    shown.add_row(row['method'], label, value, interval, target)
  shown.caption = '\n'.join(f'{row["method"]}: {row["what"]}' for row in rows
                            if row['kind'] == 'milliseconds_per_token')
  return shown
