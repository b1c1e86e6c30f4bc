"""How near strengths by target come: three methods at three densities, one table.

  python -m experiments.steered --workdir=out/steered

The runs are those of experiments/configs/frontier/steered_mlp.py, in folders of their own under
--workdir: what has ended is read, what was interrupted goes on. The table is written to
experiments/results/steered.csv and report/steered.md.
"""

import sys

from absl import app, flags, logging

from experiments import command_line

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the runs.', required=True)
_METHODS = flags.DEFINE_list('methods', ['l0', 'vd', 'group_lasso'], 'Variants of the config.')
_COMPRESSIONS = flags.DEFINE_list('compressions', ['10', '30', '60'],
                                  'How many times fewer weights, each a target density of 1 / n.')
_DATASET = flags.DEFINE_string('dataset', 'mnist', 'Data set of the runs.')
_EPOCHS = flags.DEFINE_integer('epochs', None, 'Epochs of a run, for a trial; all of the config '
                               'if not given.', lower_bound=1)
_RESULTS = flags.DEFINE_string('results', 'experiments/results', 'Folder of the rows.')
_REPORT = flags.DEFINE_string('report', 'report', 'Folder of the table.')


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
  logging.set_verbosity(logging.WARNING)  # Orbax tells every step of every checkpoint
  # Imported here so that --help answers at once.
  from rich.console import Console

  from experiments.evidence import steered

  console = Console()
  try:
    members = steered.members(_METHODS.value, _COMPRESSIONS.value, _DATASET.value, _EPOCHS.value)
    rows = [steered.row(member, steered.train(member, _WORKDIR.value, console))
            for member in members]
    csv, table = steered.write(rows, _RESULTS.value, _REPORT.value)
  except (ValueError, OSError, FloatingPointError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
  print(steered.table(rows), f'Rows: {csv}', f'Report: {table}', sep='\n')


if __name__ == '__main__':
  command_line.run(main)
