"""Runs of a small config in processes that are sent signals, for resume_process_test.py.

  python -m tests.experiments.killed_runs FOLDER EPOCHS PART SIGNAL [SIGNAL ...]

PART is `whole`, or `training`: without deployment, report and ledger.

An uninterrupted run goes to FOLDER/whole. The one in FOLDER/cut is sent the signals at random
moments, one a start, and then left to end. Prints, as JSON, [signal, exit code, what was printed]
of each start, and what a second process in the folder was told.

Every start is a fork of this interpreter, which has imported all and has not yet started JAX.
"""

import json
import os
import pathlib
import random
import signal
import sys
import time

import jax
from rich.console import Console

from experiments import run
from experiments.datasets import digits      # noqa: F401   each fork would import it
from experiments.stopping import Stopped, StopSignals
from sparsejax import codec
from sparsejax.training import pieces
from tests.experiments.run_test import small_config


def config(epochs):
  """Epochs of four steps, whose every step is a piece that is kept."""
  made = small_config(epochs=epochs, evaluate_every=1, checkpoint_every=2)
  made.regulariser.gates.strength = 0.05
  with made.unlocked():
    made.early_stopping = {'patience': epochs}
  return made


def start(folder, epochs):
  """Forks a run and returns its process id; what it prints goes to FOLDER.txt."""
  child = os.fork()
  if child:
    return child
  code = 1
  try:
    with open(f'{folder}.txt', 'w', encoding='utf-8', buffering=1) as out:
      stop = StopSignals()
      try:
        with stop.listening():
          run.run(config(epochs), folder, 'small.py', Console(file=out), stop, save_minutes=0.0)
        code = 0
      except Stopped as stopped:
        out.write(f'{stopped}\n')
        code = stopped.exit_code
      except ValueError as error:
        out.write(f'{error}\n')
  finally:
    os._exit(code)


def ended(child):
  """Waits; returns the exit code, negative for the signal that ended it."""
  return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def only_parameters(config, config_name, recipe, state, data, folder, *others):
  codec.write(folder / 'parameters.safetensors', {'params': jax.device_get(state.params)})


def kept(folder):
  """The names of the states that a run keeps."""
  return {path for store in ('checkpoints', 'inside_epoch', 'best')
          for path in (folder / store).glob('[0-9]*')}


def moment(folder, child, anywhere):
  """Waits for a random moment of a start: anywhere, or once it has trained and kept something."""
  if anywhere:
    time.sleep(random.uniform(0.5, 2.0))          # from starting to listen
    return
  before = kept(folder)
  while kept(folder) <= before and not os.waitid(os.P_PID, child,
                                                 os.WEXITED | os.WNOHANG | os.WNOWAIT):
    time.sleep(0.01)
  time.sleep(random.uniform(0.0, 0.2))


def main(folder, epochs, part, *signals):
  folder, epochs = pathlib.Path(folder), int(epochs)
  if part == 'training':
    run.finish = only_parameters
  jax.config.update('jax_compilation_cache_dir', str(folder / 'programs'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.config.update('jax_disable_most_optimizations', True)
  pieces.PIECE_SECONDS, pieces._STEPS_AT_ONCE = 0.0, 1
  whole = ended(start(folder / 'whole', epochs))
  starts, second = [], None
  (folder / 'second').symlink_to(folder / 'cut')
  for i, name in enumerate(signals):
    child = start(folder / 'cut', epochs)
    moment(folder / 'cut', child, anywhere=i % 2 and len(signals) > 2)
    if second is None:
      os.kill(child, signal.SIGSTOP)
      second = [ended(start(folder / 'second', epochs)), (folder / 'second.txt').read_text(), child]
      os.kill(child, signal.SIGCONT)
    os.kill(child, getattr(signal, name))
    starts.append([name, ended(child), (folder / 'cut.txt').read_text()])
  end = ended(start(folder / 'cut', epochs))
  print(json.dumps({'whole': whole, 'starts': starts, 'second': second, 'end': end}))


if __name__ == '__main__':
  main(*sys.argv[1:])
