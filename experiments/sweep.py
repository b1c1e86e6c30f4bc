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
--status tells how the members stand, and stops. SIGTERM and SIGINT stop a sweep: members that are
trained together after the epoch that runs, one by itself within seconds. One that diverged stays
as it is; remove its diverged.json, and the same command trains it again.

--mesh=data:2 uses two devices of this process: members that are trained together are shared out to
them, and of one that trains by itself each batch is.

--launcher=slurm gives the sweep to a cluster (pip install 'sparsejax[slurm]'), as a job array with
one task a program, and comes back at once:

  ... --launcher=slurm --partition=gpu --time=4:00:00 --gpus_per_task=1 --sbatch=account=lab

A task that is preempted, or reaches its time limit, keeps its states and goes on when SLURM starts
it again. Logs are in --workdir/slurm; the last task to end writes the table and the front. The same
command submits what failed and what is new; --status shows how the logs of failed tasks end.
"""

import os
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from experiments import command_line
from experiments.launchers.options import Options, passed_on
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
_MESH = flags.DEFINE_string('mesh', None, 'Devices of this process, such as data:2: members that '
                            'are trained together are shared out to them, and each batch of one '
                            'that trains by itself. Of a task, with --launcher=slurm.')
_LAUNCHER = flags.DEFINE_enum('launcher', 'local', ['local', 'slurm'], 'Where the members are '
                              'trained: here, or by tasks of a job array.')
_PARTITION = flags.DEFINE_string('partition', None, 'Of SLURM, as the next five are: see sbatch.')
_TIME = flags.DEFINE_string('time', None, 'Time limit of a task, such as 4:00:00; a task that '
                            'reaches it goes on later.')
_CPUS = flags.DEFINE_integer('cpus_per_task', None, 'Cores of a task.', lower_bound=1)
_GPUS = flags.DEFINE_integer('gpus_per_task', None, 'GPUs of a task.', lower_bound=0)
_MEM = flags.DEFINE_string('mem', None, 'Memory of a task, such as 16G.')
_SBATCH = flags.DEFINE_multi_string('sbatch', [], 'Another option of sbatch, name=value or name; '
                                    'may be given several times.')
_PROGRAM = flags.DEFINE_string('program', None, 'What a task of a job array runs; the launcher '
                               'gives it.')


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

  from experiments.launchers import standing
  from experiments.sweeps.members import recorded_members
  standing.show(folder, recorded_members(folder), Console())


def open_devices():
  """Returns the devices of --mesh, before JAX starts."""
  from experiments import mesh, processes
  mesh.give_devices_threads(_MESH.value)
  processes.require_alone('a sweep')
  return mesh.open_devices(_MESH.value)


def checked_mesh():
  """Returns --mesh as it is, for tasks whose devices are not seen from here.

  Raises:
    ValueError: for what names no mesh.
  """
  from experiments import mesh
  if _MESH.value is not None:
    mesh.parse(_MESH.value)
  return _MESH.value


def run_task(folder, program):
  """Trains the members of one program, as a task of a job array."""
  from experiments.launchers import task
  stop = task.signals()
  with stop.listening():
    task.run(folder.absolute(), program, stop, at_once=_AT_ONCE.value,
             save_minutes=_SAVE_MINUTES.value, devices=open_devices())


def run_sweep(folder, options):
  """Trains all members here, or gives them to SLURM."""
  path = config_flags.get_config_filename(flags.FLAGS['config'])
  overrides = overrides_of(_SWEEP.value, _CONFIG.value, path)
  name = os.path.relpath(path)
  if _LAUNCHER.value == 'slurm':
    from experiments.launchers import slurm
    slurm.launch(_CONFIG.value, overrides, folder, name, options,
                 passed_on(_AT_ONCE.value, _SAVE_MINUTES.value, checked_mesh()))
    return
  from experiments.sweeps import runner
  stop = StopSignals()
  with stop.listening():
    runner.sweep(_CONFIG.value, overrides, folder, name, at_once=_AT_ONCE.value, stop=stop,
                 save_minutes=_SAVE_MINUTES.value, devices=open_devices())


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
  # Imports stand in functions so that --help answers at once.
  command_line.require('workdir', None if _STATUS.value or _PROGRAM.value else 'config')
  logging.set_verbosity(logging.WARNING)  # Orbax tells every step of every checkpoint
  folder = pathlib.Path(str(_WORKDIR.value))
  options = Options(_PARTITION.value, _TIME.value, _CPUS.value, _GPUS.value, _MEM.value,
                    tuple(_SBATCH.value))
  try:
    if options.given() and _LAUNCHER.value != 'slurm':
      raise ValueError(f'--{options.given()[0]} is for --launcher=slurm; give that too, or leave '
                       'it out')
    if _STATUS.value:
      show_status(folder)
    elif _PROGRAM.value is not None:
      run_task(folder, _PROGRAM.value)
    else:
      run_sweep(folder, options)
  except Stopped as stopped:
    print(stopped, file=sys.stderr)
    sys.exit(stopped.exit_code)
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
  command_line.run(main)
