"""Controls of a finished run: would something simpler have done as well?

  python -m experiments.control --workdir=out/l0
  python -m experiments.control --workdir=out/l0 --control=scratch,distil

Trains what is missing under <workdir>/controls, compares each control with the run on the same test
labels, and writes <workdir>/controls.md and .csv. The controls are explained there, and what a
network has not, such as a compact architecture where no unit died. Language models are compared by
their bits per token.
"""

import sys

from absl import app, flags, logging

from experiments import command_line

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of a finished run of experiments.train.',
                               required=True)
_CONTROL = flags.DEFINE_list('control', 'all', 'dense, scratch, distil, random, rewind, '
                             'dense_small, int8_zstd; several with commas, or all.')
_FACTOR = flags.DEFINE_float('max_epochs_factor', 10.0, 'Limit of the epochs of equal compute, as '
                             "a multiple of the run's.", lower_bound=1.0)
_ROUNDS = flags.DEFINE_integer('rounds', 4, 'Of iterative pruning, in rewind.', lower_bound=1)
_TEMPERATURE = flags.DEFINE_float('temperature', 4.0, 'Of the teacher, in distil.')
_HARD_WEIGHT = flags.DEFINE_float('hard_weight', 0.5, 'Weight of the labels, in distil.')
_WORKERS = flags.DEFINE_integer('workers', 0, 'Processes; 0: one per core, one on a GPU.',
                                lower_bound=0)


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
  # Imported here so that --help answers at once.
  import pathlib

  from rich.console import Console

  from experiments.evidence import control_report, control_run, subject
  from experiments.evidence.controls import ALL, Settings, why_not
  from experiments.evidence.jobs import default_workers

  logging.set_verbosity(logging.WARNING)
  console = Console()
  folder = pathlib.Path(_WORKDIR.value)
  settings = Settings(_FACTOR.value, _ROUNDS.value, _TEMPERATURE.value, _HARD_WEIGHT.value)
  try:
    tested = subject.of_run(folder)
    controls = list(_CONTROL.value)
    left_out = []
    if controls == ['all']:
      reasons = {name: why_not(name, tested.config, tested.facts) for name in ALL}
      controls = [name for name, reason in reasons.items() if not reason]
      left_out = [f'without the control {name!r}, which {reason}'
                  for name, reason in reasons.items() if reason]
    outcomes = control_run.run_controls([tested], controls, settings, folder,
                                        _WORKERS.value or default_workers(), console)
    console.print(control_report.terminal(outcomes))
    for sentence in left_out:
      console.print(sentence)
    path = control_report.write(outcomes, settings, folder / 'controls.md', left_out=left_out)
    console.print(f'Report: {path}')
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
  command_line.run(main)
