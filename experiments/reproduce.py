"""Reproduces the table of a paper: published | ours ± interval | verdict.

  python -m experiments.reproduce --paper=MoAV17
  python -m experiments.reproduce --paper=LoWK17 --networks=LeNet-300 --budget=small --seeds=3

Runs what is missing, several runs side by side, and goes on where it was stopped; what is there
already is only read. Writes report/<paper>.md and .csv with plots; the rows really obtained are
kept in experiments/results. --norun only reads.
"""

import sys

from absl import app, flags, logging

from experiments import command_line

_PAPER = flags.DEFINE_string('paper', None, 'Key of the paper, as in third_party/papers.',
                             required=True)
_BUDGET = flags.DEFINE_enum('budget', 'full', ('full', 'small', 'smoke'),
                            "full: the paper's recipe; small: shorter; smoke: seconds.")
_SEEDS = flags.DEFINE_integer('seeds', 5, 'Seeds 0 to N-1; an interval needs 5.', lower_bound=1)
_NETWORKS = flags.DEFINE_string('networks', '', 'Only rows whose name contains this.')
_RUN = flags.DEFINE_bool('run', True, 'Run what is missing.')
_WORKERS = flags.DEFINE_integer('workers', 0, 'Runs side by side; 0: one per core, one on a GPU.',
                                lower_bound=0)
_ATTEST = flags.DEFINE_bool('attest', False, 'First see whether stale results still hold: repeat '
                            'the first epochs of one seed each.')
_ROOT = flags.DEFINE_string('workdir', 'out/reproduce', 'Folder of the run folders.')
_REPORT = flags.DEFINE_string('report', 'report', 'Folder of the reports.')


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
  # Imported here so that --help answers at once.
  from experiments.evidence import reproduce

  logging.set_verbosity(logging.WARNING)
  try:
    complete = reproduce.reproduce(
        _PAPER.value, budget=_BUDGET.value, seeds=_SEEDS.value, networks=_NETWORKS.value,
        run=_RUN.value, attest=_ATTEST.value, workers=_WORKERS.value, root=_ROOT.value,
        report=_REPORT.value)
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
  if not complete:
    sys.exit(1)


if __name__ == '__main__':
  command_line.run(main)
