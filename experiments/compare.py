"""Runs side by side: their ledgers as one table, how their configs differ, their curves as a plot.

  python -m experiments.compare out/l0 out/vd [--plot=out/compare.png]

A run that has not ended has its curves, and no column of results.
"""

import sys

from absl import app, flags

from experiments import command_line

_PLOT = flags.DEFINE_string('plot', 'out/compare.png', 'Where the curves are drawn.')


def main(arguments: list[str]) -> None:
  folders = arguments[1:]
  if not folders:
    raise app.UsageError('name the folders of the runs: python -m experiments.compare RUN RUN ...')
  # Imported here so that --help answers at once.
  from rich.console import Console

  from experiments.report import runs_compared
  from experiments.report.figures import png
  from sparsejax.codec import write_atomically

  console = Console()
  try:
    runs = [runs_compared.read(folder) for folder in folders]
    console.print(runs_compared.results_table(runs), runs_compared.config_table(runs), sep='\n')
    write_atomically(_PLOT.value, png(runs_compared.curves(runs)))
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
  console.print(f'Curves: {_PLOT.value}', highlight=False)


if __name__ == '__main__':
  command_line.run(main)
