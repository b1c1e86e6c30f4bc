"""Writes the results in README.md anew from the rows in experiments/results.

  python -m experiments.readme
"""

import sys

from absl import app

from experiments import command_line


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; there are none')
  from experiments.evidence import readme

  try:
    changed = readme.update()
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
  print('README.md was brought up to date' if changed else 'README.md was up to date')


if __name__ == '__main__':
  command_line.run(main)
