"""Times recurrent networks: drawn against dense steps, compact and packed against dense tokens.

  python -m benchmarks.recurrent            steps, tokens and memory, some ten minutes on two cores
  python -m benchmarks.recurrent --quick    does it run: numbers mean nothing

What is timed is in `recurrent_cells.py`. Steps are jitted scans of --steps training steps with
Adam, without loading of data; deployed networks read 32 sequences of 35 symbols. Everything of one
network runs in one process, in turn; a ratio is the median of the quotients of each round with its
95 % interval. Memory is what XLA says that the compiled step allocates beside its arguments.
"""

from __future__ import annotations

import datetime
import os
from typing import Any

from absl import flags

from benchmarks import command

_PARTS = flags.DEFINE_list('parts', ['steps', 'tokens', 'memory'], 'What to measure.')
_STEPS = flags.DEFINE_integer('steps', 4, 'Training steps per timed call.', lower_bound=1)
_ROUNDS = flags.DEFINE_integer('rounds', 21, 'Timed calls of each.', lower_bound=6)
_QUICK = flags.DEFINE_bool('quick', False, 'Tiny networks, six rounds: a check that it runs.')
_RESULTS = flags.DEFINE_string('results', 'benchmarks/results/recurrent.jsonl',
                               'File to append rows to; empty for none.')


def measure() -> None:
  """Measures what the flags name, prints tables and appends rows."""
  from rich.console import Console

  from benchmarks import recurrent_cells, recurrent_report, results, timing
  from sparsejax.ledger.provenance import describe_run

  unknown = [part for part in _PARTS.value if part not in recurrent_report.PARTS]
  if unknown or not _PARTS.value:
    raise ValueError(f'--parts={",".join(_PARTS.value)}: choose from '
                     f'{", ".join(recurrent_report.PARTS)}')
  console = Console()
  quick = _QUICK.value
  if quick:
    console.print('--quick: this checks that the benchmark runs; its numbers mean nothing')
  rounds = timing.MIN_ROUNDS if quick else _ROUNDS.value
  setting = {'benchmark': 'recurrent', **describe_run(), 'rounds': rounds, 'quick': quick,
             'date': datetime.date.today().isoformat()}
  cells = recurrent_cells
  work: dict[str, Any] = {
      'steps': [(recurrent_report.time_steps, (network, 1 if quick else _STEPS.value, rounds))
                for network in (cells.QUICK_STEPS if quick else cells.STEPS)],
      'tokens': [(recurrent_report.time_tokens, (network, rounds))
                 for network in (cells.QUICK_TOKENS if quick else cells.TOKENS)],
      'memory': [(recurrent_report.measure_memory,
                  (network, cells.QUICK_LENGTHS if quick else cells.LENGTHS))
                 for network in (cells.QUICK_STEPS if quick else cells.STEPS)[:1]],
  }
  for part in _PARTS.value:
    for function, arguments in work[part]:
      load = os.getloadavg()[0]
      rows = function(*arguments)
      console.print(recurrent_report.table(rows))
      if _RESULTS.value:
        results.append(_RESULTS.value,
                       ({**setting, 'load_before': load, **row} for row in rows))
  if _RESULTS.value:
    console.print(f'Rows appended to {_RESULTS.value}')


if __name__ == '__main__':
  command.run(measure)
