"""Trains one network by a config, compacts it, and ends with its ledger.

  python -m experiments.train --config=experiments/configs/LoWK17/lenet_300_100.py --workdir=out/l0

Any field can be overridden: --config.regulariser.hidden.strength=0.3; a variant of a config is
named after a colon: --config=.../lenet_300_100.py:smoke. The same command in the same workdir
resumes. --list names all configs and variants; --dry_run says what a run would be, and stops.

Several devices share each batch: --mesh=data:2, in one process, or in several that are started with
the same flags and --coordinator=localhost:45671 --num_processes=2 --process_id=0 (or 1; or in the
environment: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID).

Exit codes: 0 at the end, 1 after an error; 143 and 130 where SIGTERM or SIGINT stopped the run,
which then keeps its state within seconds, inside an epoch too, and can be resumed.
"""

import os
import sys
import traceback

from absl import app, flags, logging
from ml_collections import config_flags

from experiments import command_line
from experiments.stopping import Stopped, StopSignals

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Config file, see experiments/configs.',
                                          lock_config=True)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run; resumes if it holds this run.')
_LIST = flags.DEFINE_boolean('list', False, 'Name the papers, their configs and variants; stop.')
_DRY_RUN = flags.DEFINE_boolean('dry_run', False, 'Print the config, the rules and the leaves each '
                                'owns, sizes, and estimates of memory and time; train nothing.')
_SAVE_MINUTES = flags.DEFINE_float('save_minutes', 10.0, 'A run keeps its state after so many '
                                   'minutes at the latest.', lower_bound=0.0)
_MESH = flags.DEFINE_string('mesh', None, 'Devices to share each batch, such as data:2.')
_COORDINATOR = flags.DEFINE_string('coordinator', None, 'host:port of process 0, of several that '
                                   'train together.')
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'How many they are.', lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Which of them this is, from 0.',
                                   lower_bound=0)


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
  # Imported here, and below, so that --help and --list answer at once.
  from rich.console import Console
  if _LIST.value:
    from experiments import listing
    listing.show(Console())
    return
  command_line.require('config', 'workdir' if not _DRY_RUN.value else None)
  from experiments import build, dry_run, mesh, processes, run
  from sparsejax.training.loop import NonFiniteLoss

  logging.set_verbosity(logging.WARNING)  # Orbax tells every step of every checkpoint
  name = os.path.relpath(config_flags.get_config_filename(flags.FLAGS['config']))
  stop = StopSignals()
  try:
    with stop.listening():
      if not _DRY_RUN.value:
        build.require_whole(_CONFIG.value)
      mesh.give_devices_threads(_MESH.value)
      several = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
      if _DRY_RUN.value:
        processes.require_alone('--dry_run', *several)
        devices = mesh.open_devices(_MESH.value, _CONFIG.value.batch_size)
        dry_run.dry_run(_CONFIG.value, Console(), devices)
      else:
        assert _WORKDIR.value is not None
        processes.connect(*several)
        run.run(_CONFIG.value, _WORKDIR.value, name, stop=stop, save_minutes=_SAVE_MINUTES.value,
                devices=mesh.open_devices(_MESH.value, _CONFIG.value.batch_size))
  except Stopped as stopped:
    print(stopped, file=sys.stderr)
    processes.leave(stopped.exit_code)
  except (ValueError, OSError, NonFiniteLoss) as error:
    print(f'error: {processes.explained(error)}', file=sys.stderr)
    processes.leave(1)
  except Exception as error:
    if processes.alone():
      raise
    if not processes.tells_of_another(error):
      traceback.print_exc()
    print(f'error: {processes.explained(error)}', file=sys.stderr)
    processes.leave(1)


if __name__ == '__main__':
  command_line.run(main)
