"""Runs a config many times over, as few programs: each compiled once, its members side by side.

  python -m experiments.sweep --config=experiments/configs/digits/l0_mlp.py --workdir=out/sweep \
    --sweep='seed=0..7; regulariser.gates.strength=logspace(-2, 1, 8)'

--sweep says which fields take which values:

  seed=0..7                        integers        a=1..3; b=[x, y]       every combination
  lr=[1e-3, 1e-2], linspace(0, 1, 5), logspace(-2, 1, 8)                   lists of values
  a,b=[1, 2],[3, 4]                read side by side: two members, not four

Without it the config says so itself: config.sweep, a list of overrides such as ({'seed': 0}, ...),
or a function get_sweep() in its file, which returns such a list or a text as above; of a variant,
get_sweep(variant).

Each member gets the folder --workdir/<name>, as experiments.train would leave it. The same command
goes on where it stopped; with other values it adds what is new. At the end stand a table of all
members (sweep.csv) and the Pareto front of validation error against bytes and milliseconds.
--status tells how the members stand, and stops.
"""

import os
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from experiments import command_line
from experiments.stopping import Stopped, StopSignals

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Config file, see experiments/configs.',
                                          lock_config=True)
_SWEEP = flags.DEFINE_string('sweep', None, 'Fields and their values, see above.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the sweep; goes on if it holds one.')
_STATUS = flags.DEFINE_boolean('status', False, 'Tell how the members stand; run nothing.')
_AT_ONCE = flags.DEFINE_integer('members_at_once', 0, 'Members trained together; 0 for as many as '
                                'memory holds, 1 for one after the other.', lower_bound=0)
_SAVE_MINUTES = flags.DEFINE_float('save_minutes', 10.0, 'States are kept after so many minutes at '
                                   'the latest, at the end of an epoch.', lower_bound=0.0)


def overrides_of(text, config, path):
  """Returns the overrides of each member: of --sweep, of config.sweep, or of the config's file.

  Raises:
    ValueError: if none of the three is there, or it is not what it should be.
  """
  from experiments.sweeps import grammar
  found = text
  if found is None and config.get('sweep') is not None:
    found = config.sweep
  if found is None:
    found = sweep_of_file(path)
  if isinstance(found, str):
    return grammar.overrides(found)
  found = [entry.to_dict() if hasattr(entry, 'to_dict') else entry for entry in found]
  wrong = next((entry for entry in found if not isinstance(entry, dict)), None)
  if wrong is not None:
    raise ValueError(f"a sweep lists overrides such as {{'seed': 0}}; {wrong!r} is none")
  return found


def sweep_of_file(path):
  """Returns what get_sweep() of a config file returns; of 'file.py:variant', get_sweep(variant)."""
  import importlib.util
  file, _, variant = path.partition(':')
  spec = importlib.util.spec_from_file_location('config_of_sweep', file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  function = getattr(module, 'get_sweep', None)
  if function is None:
    raise ValueError(f"nothing is to be swept: give --sweep='seed=0..3', set config.sweep, or "
                     f'write get_sweep() into {file}')
  return function(variant) if variant else function()


def show_status(folder):
  """Prints how the members of a sweep stand."""
  from rich.console import Console

  from experiments.sweeps import status
  from experiments.sweeps.members import recorded_members
  Console().print(status.table(folder, recorded_members(folder)))


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
  # Imports stand in functions so that --help answers at once.
  command_line.require('workdir', None if _STATUS.value else 'config')
  logging.set_verbosity(logging.WARNING)  # Orbax tells every step of every checkpoint
  stop, folder = StopSignals(), pathlib.Path(str(_WORKDIR.value))
  try:
    if _STATUS.value:
      show_status(folder)
      return
    path = config_flags.get_config_filename(flags.FLAGS['config'])
    overrides = overrides_of(_SWEEP.value, _CONFIG.value, path)
    from experiments.sweeps import runner
    with stop.listening():
      runner.sweep(_CONFIG.value, overrides, folder, os.path.relpath(path),
                   at_once=_AT_ONCE.value, stop=stop, save_minutes=_SAVE_MINUTES.value)
  except Stopped as stopped:
    print(stopped, file=sys.stderr)
    sys.exit(stopped.exit_code)
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
  command_line.run(main)
