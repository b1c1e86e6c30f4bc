"""Compares mean-field VI and sparse variational dropout with NUTS on a tiny regression network.

  python -m experiments.nuts --dataset=wine_quality_red --workdir=out/nuts

Writes nuts_<dataset>.json and nuts_<dataset>.md there. NUTS takes a minute or two on one core.
"""

import sys

from absl import app, flags

from experiments import command_line

_DATASET = flags.DEFINE_string('dataset', 'wine_quality_red',
                               'Regression set, see experiments/datasets/uci.py.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder for the results.', required=True)
_SPLIT = flags.DEFINE_integer('split', 0, 'Published split, 0 to 19.')
_HIDDEN = flags.DEFINE_integer('hidden', 10, 'Hidden tanh units.')
_WARMUP = flags.DEFINE_integer('warmup', 400, 'Warm-up steps of each chain of NUTS.')
_DRAWS = flags.DEFINE_integer('draws', 500, 'Draws kept of each chain of NUTS.')
_CHAINS = flags.DEFINE_integer('chains', 2, 'Chains of NUTS, one after the other.')
_STEPS = flags.DEFINE_integer('steps', 5000, 'Optimiser steps of the variational methods.')
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of all draws.')


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
  # Imported here so that --help answers at once.
  from rich.console import Console

  from experiments.evidence import nuts

  try:
    nuts.evaluate(nuts.Settings(
        dataset=_DATASET.value, split=_SPLIT.value, hidden=_HIDDEN.value, warmup=_WARMUP.value,
        draws=_DRAWS.value, chains=_CHAINS.value, steps=_STEPS.value, seed=_SEED.value),
        _WORKDIR.value, Console())
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
  command_line.run(main)
