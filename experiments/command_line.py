"""Flags whose mistakes are one line each, with the nearest name; configs found and listed."""

from __future__ import annotations

import difflib
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from absl import app, flags

CONFIGS = pathlib.Path(__file__).parent / 'configs'
USAGE_CODE = 1          # as absl ends where a flag is unknown
T = TypeVar('T')

# What ml_collections raises for an override of a field that is not there, or of another type.
_OVERRIDES = (AttributeError, KeyError, TypeError, ValueError)


def run(main: Callable[[list[str]], Any]) -> None:
  """Runs `main` as `absl.app.run` does; a mistake in a flag or in a config's field ends it.

  The exit code is then 1, and standard error holds one line.
  """
  app.run(main, flags_parser=parse)


def parse(arguments: Sequence[str]) -> list[str]:
  """Parses the flags; returns the arguments that are none."""
  try:
    return flags.FLAGS(tuple(arguments))
  except flags.Error as error:
    message = _one_line(str(error))
  except _OVERRIDES as error:
    message = _field(arguments, error)
  _end(message)


def defined(define: Callable[[], T]) -> T:
  """Returns a flag that reads its overrides from the command line when it is defined."""
  try:
    return define()
  except _OVERRIDES as error:
    _end(_field(sys.argv[1:], error))


def require(*names: str | None) -> None:
  """Ends the program with one line unless these flags are given; None stands for no flag.

  A config file that is not there is found out here, for its flag is read late.
  """
  for name in filter(None, names):
    try:
      found = flags.FLAGS[name].value
      getattr(found, 'to_dict', None)   # a config that failed to load says so when looked at
    except OSError as error:
      _end(_one_line(str(error)))
    if found is None:
      _end(f'--{name} is missing; --help explains, `python -m experiments.train --list` names the '
           'configs')


def config_files(folder: pathlib.Path = CONFIGS) -> list[pathlib.Path]:
  """Returns the config files under a folder, in the order of their paths."""
  return [path for path in sorted(folder.rglob('*.py')) if path.name != '__init__.py']


def missing_config(path: str) -> str:
  """Returns 'did you mean ...? ' for a config file that is not there, or ''."""
  known = [os.path.relpath(file) for file in config_files()]
  near = difflib.get_close_matches(path, known, n=1, cutoff=0.5)
  return f'did you mean {near[0]}? ' if near else ''


def _end(message: str) -> NoReturn:
  print(f'error: {message}', file=sys.stderr)
  sys.exit(USAGE_CODE)


def _field(arguments: Sequence[str], error: Exception) -> str:
  """Returns what is wrong with an override of a config's field: the flag, and the nearest name."""
  text = _one_line(str(error.args[0] if error.args else error).replace('\\n', '\n'))
  flag_names = [re.split('[= ]', word)[0] for word in arguments if re.match('--?config[.]', word)]
  meant = re.search(r'Did you mean "([^"]+)" instead of "([^"]+)"', text)
  name = meant.group(2) if meant else text.strip('\\\'"')
  flag = next((flag for flag in flag_names if name in flag.split('.')), None)
  if flag is None:
    return text
  return (f'{flag}: the config has no field {name!r}'
          + (f'; did you mean {meant.group(1)!r}?' if meant else '; --dry_run shows those it has'))


def _one_line(text: str) -> str:
  """Returns the message on one line; of a failed config file what failed, and the nearest name."""
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  missing = re.search(r"No such file or directory: '([^']+)'", text)
  if missing:
    return (f'config file {missing.group(1)} is not there; {missing_config(missing.group(1))}'
            '`python -m experiments.train --list` names all')
  failed = [line for line in lines if re.match(r'\w*(Error|Exception|Interrupt): ', line)]
  if failed:                     # the traceback of a config file, told in full by absl
    return failed[-1].partition(': ')[2]
  return ' '.join(lines)
