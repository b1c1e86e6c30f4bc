"""What the commands of benchmarks have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable

from absl import app


def run(measure: Callable[[], object]) -> None:
  """Parses the flags and runs `measure`; a mistake is one line of standard error, exit code 1."""
  def main(arguments: list[str]) -> None:
    if len(arguments) > 1:
      raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
    try:
      measure()
    except (ValueError, OSError) as error:
      print(f'error: {error}', file=sys.stderr)
      sys.exit(1)
  app.run(main)
