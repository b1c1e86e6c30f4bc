"""Writes the report of a finished run again, from its folder alone.

  python -m experiments.report --workdir=out/l0
"""

import sys

from absl import app, flags

from experiments import command_line

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of a finished run.', required=True)


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
  # Imported here so that --help answers at once.
  from experiments.report.report import write_report

  try:
    print(write_report(_WORKDIR.value))
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
  command_line.run(main)
