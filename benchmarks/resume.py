"""What it costs a run to be able to go on: pieces of epochs, checkpoints, and going on once.

  python -m benchmarks.resume                        LeNet-300-100 on MNIST with L0 gates
  python -m benchmarks.resume --resume_quick         does it run: numbers mean nothing

An epoch in pieces, as a run trains, is timed in turn with the same epoch as one scan, each against
the other in the same round. Checkpoints are written and read as a run does, digests included, into
--resume_folder or a temporary folder. Shares are of a run with the config's epochs and its
checkpoint_every; the last row is their sum, with one resumption a run.
"""

from __future__ import annotations

import datetime
import itertools
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import app, flags
from absl import logging as absl_logging
from rich.console import Console
from rich.table import Table

from benchmarks import results, timing
from experiments import run
from experiments.configs.digits import l0_mlp
from experiments.configs.LoWK17 import lenet_300_100
from experiments.resume import resume_point, stores
from sparsejax.ledger.provenance import describe_run
from sparsejax.training.fit import Recipe, TrainState, jit_epoch
from sparsejax.training.metrics import MetricsLog
from sparsejax.training.pieces import Pieces

RESULTS = 'benchmarks/results/resume.jsonl'
AT_MOST_PERCENT = 2.0


def define_flags() -> None:
  """Defines the flags, only when run as a command: modules share one space of names."""
  flags.DEFINE_integer('resume_rounds', 11, 'Timed calls of each.', lower_bound=timing.MIN_ROUNDS)
  flags.DEFINE_string('resume_folder', '', 'Where checkpoints are written; empty: the system\'s '
                      'folder of temporary files.')
  flags.DEFINE_bool('resume_quick', False, 'A small network on the digits, six rounds.')
  flags.DEFINE_string('resume_results', RESULTS, 'File to append rows to; empty for none.')


def functions(recipe: Recipe, state: TrainState, images: Any, labels: Any, folder: pathlib.Path,
              log: MetricsLog) -> dict[str, Callable[[], None]]:
  """Returns what is timed: an epoch both ways, a checkpoint written, and the newest one found."""
  data = jnp.asarray(images), jnp.asarray(labels)
  steps = len(images) // recipe.batch_size
  scan, pieces = jit_epoch(recipe), Pieces(recipe, lambda *_: None)
  kept, epochs = stores(folder, None), itertools.count(1)

  def save():
    epoch = next(epochs)
    log.write(epoch, {'train_nll_nats': 0.0, 'seconds': 1.0})
    log.sync()
    kept.whole.save(epoch, state)

  def resume():
    jax.block_until_ready(resume_point(folder, kept, state, steps, warn=print).state.params)

  return {'epoch as one scan': lambda: _wait(scan(state, *data)),
          'epoch in pieces': lambda: _wait(pieces(state, *data)),
          'checkpoint': save, 'resumption': resume}


def _wait(found: Any) -> None:
  """Ends with the arrays on the host, as the loop over epochs does."""
  np.asarray(found[1])


def shares(times: dict[str, np.ndarray], epochs: int,
           checkpoint_every: int) -> dict[str, timing.Estimate]:
  """Returns percent of a run's time for each, from {name: milliseconds by round, (rounds,)}."""
  whole = times['epoch as one scan']
  found = {'pieces': times['epoch in pieces'] / whole - 1,
           'checkpoints': times['checkpoint'] / (checkpoint_every * whole),
           'one resumption': times['resumption'] / (epochs * whole)}
  found['all'] = np.sum(list(found.values()), axis=0)
  return {name: timing.estimate(100 * share) for name, share in found.items()}


def rows_of(config: ml_collections.ConfigDict, rounds: int, folder: pathlib.Path) -> list[Any]:
  """Times everything; returns the rows without what they have in common."""
  data, recipe, state = run.begin(config)
  log = MetricsLog(folder)
  try:
    times = timing.interleaved(functions(recipe, state, data.images, data.labels, folder, log),
                               rounds, warmup=2)
  finally:
    log.close()
  rows: list[Any] = [{'kind': 'milliseconds', 'of': name, **timing.estimate(found)._asdict()}
                     for name, found in times.items()]
  for name, value in shares(times, config.epochs, config.checkpoint_every).items():
    bound = AT_MOST_PERCENT if name == 'all' else None
    rows.append({'kind': 'percent of a run', 'of': name, 'at_most': bound,
                 'verdict': '' if bound is None else verdict(value, bound), **value._asdict()})
  return rows


def verdict(value: timing.Estimate, at_most: float) -> str:
  """Returns 'met', 'missed', or 'open' where the interval leaves both possible."""
  return 'met' if value.high <= at_most else 'missed' if value.low > at_most else 'open'


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
  values, console = flags.FLAGS, Console()
  absl_logging.set_verbosity(absl_logging.WARNING)
  quick = values.resume_quick
  config = l0_mlp.get_config() if quick else lenet_300_100.get_config()
  common = {'benchmark': 'resume', **describe_run(), 'quick': quick,
            'load_before': os.getloadavg()[0], 'date': datetime.date.today().isoformat(),
            'network': 'digits/l0_mlp' if quick else 'LoWK17/lenet_300_100',
            'epochs': config.epochs, 'checkpoint_every': config.checkpoint_every,
            'batch_size': config.batch_size}
  if quick:
    console.print('--resume_quick: this checks that the benchmark runs; its numbers mean nothing')
  try:
    with tempfile.TemporaryDirectory(dir=values.resume_folder or None) as folder:
      rows = rows_of(config, timing.MIN_ROUNDS if quick else values.resume_rounds,
                     pathlib.Path(folder))
    if values.resume_results:
      results.append(values.resume_results, ({**common, **row} for row in rows))
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
  table = Table(title=f'{common["network"]}, {common["device"]}, jax {common["jax_version"]}',
                title_justify='left')
  for name in ('kind', 'of', 'median', '95 % interval', 'goal', 'verdict'):
    table.add_column(name)
  for row in rows:
    table.add_row(row['kind'], row['of'], f'{row["median"]:.2f}',
                  f'{row["low"]:.2f} to {row["high"]:.2f}',
                  f'<= {row["at_most"]}' if row.get('at_most') else '', row.get('verdict', ''))
  console.print(table)


if __name__ == '__main__':
  define_flags()
  app.run(main)
