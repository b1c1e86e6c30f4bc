"""The frontier of a suite: every method at matched budgets, error against weights and bytes.

  python -m experiments.frontier --suite=small
  python -m experiments.frontier --suite=small --tasks=Fashion --methods=magnitude --norun

Trains what is missing, several points side by side, and goes on where it was stopped. Strengths,
densities and thresholds are chosen on held-out data; the test set is read for the chosen networks
alone. Writes report/frontier_<suite>.md with plots, and the rows to experiments/results.
"""

import sys

from absl import app, flags, logging

from experiments import command_line

_SUITE = flags.DEFINE_enum('suite', 'small', ('small', 'smoke'), 'What to run.')
_TASKS = flags.DEFINE_string('tasks', '', 'Only tasks whose name contains this.')
_METHODS = flags.DEFINE_string('methods', '', 'Only methods whose name contains this.')
_RUN = flags.DEFINE_bool('run', True, 'Train what is missing.')
_WORKERS = flags.DEFINE_integer('workers', 0, 'Processes; 0: one per core, one on a GPU.',
                                lower_bound=0)
_ROOT = flags.DEFINE_string('workdir', 'out/frontier', 'Folder of the points.')
_REPORT = flags.DEFINE_string('report', 'report', 'Folder of the reports.')
_CONTROLS = flags.DEFINE_bool('controls', False, 'Also the controls of L0, VD and magnitude at 10 '
                              'and 30 times fewer weights.')


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
  # Imported here so that --help answers at once.
  from experiments.evidence import frontier

  logging.set_verbosity(logging.WARNING)
  try:
    complete = frontier.frontier(
        _SUITE.value, tasks=_TASKS.value, methods=_METHODS.value, run=_RUN.value,
        workers=_WORKERS.value, root=_ROOT.value, report=_REPORT.value,
        controls=_CONTROLS.value)
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
  if not complete:
    sys.exit(1)


if __name__ == '__main__':
  command_line.run(main)
