"""Draws networks from what a stochastic method has learned, and scores their average.

  python -m experiments.bayesian --workdir=out/vd --draws=100 --ood=fashion_mnist

The folder is that of a finished run; bayesian.json and bayesian.md are added to it.
"""

import sys

from absl import app, flags

from experiments import command_line

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of a finished run of a method with noise.',
                               required=True)
_DRAWS = flags.DEFINE_integer('draws', 100, 'Networks drawn.', lower_bound=1)
_OOD = flags.DEFINE_string('ood', '', 'Another data set, to be told apart by the uncertainty.')
_DENSE = flags.DEFINE_string('dense', '', 'Folder of a finished dense run to compare with.')
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the draws.', lower_bound=0)


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
  # Imported here so that --help answers at once.
  from rich.console import Console

  from experiments.evidence import bayesian

  try:
    bayesian.evaluate(_WORKDIR.value, draws=_DRAWS.value, seed=_SEED.value, ood=_OOD.value,
                      dense=_DENSE.value, console=Console())
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
  command_line.run(main)
