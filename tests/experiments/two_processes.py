"""Two processes of one device each that train a network together; run by `processes_test.py`.

  python -m tests.experiments.two_processes FOLDER

The interpreter imports everything, and forks both before JAX has started. Prints what each found,
as a JSON list.
"""
import functools
import io
import json
import os
import pathlib
import signal
import sys
import traceback

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from benchmarks.data_parallel import free_port
from experiments import mesh, processes, run
from experiments.datasets import digits      # noqa: F401   each fork would import it
from experiments.epochs import train
from experiments.stopping import Stopped, StopSignals
from sparsejax.training import pieces
from sparsejax.training.checkpoint import Checkpoints, named_leaves
from sparsejax.training.fit import TrainState
from sparsejax.training.metrics import read_metrics
from tests.experiments.run_test import small_config


def config(**changes):
  """Two epochs of four steps."""
  made = small_config(epochs=2, evaluate_every=1, **changes)
  made.regulariser.gates.strength = 0.05
  with made.unlocked():
    made.optimiser = {'name': 'sgd', 'learning_rate': 0.1}
    made.early_stopping = {'patience': 2}
  return made


class Asked(StopSignals):
  """Signals of a process that is sent SIGTERM once it trains."""

  number = signal.SIGTERM


def one_device(folder):
  """Trains on one device in this process alone; returns the last numbers."""
  data, recipe, state = run.begin(config())
  folder.mkdir()
  train(config(), recipe, state, data, folder, Console(file=io.StringIO()))
  return read_metrics(folder / 'metrics.jsonl')[-1]


def parameters(folder, like):
  return [np.asarray(leaf) for name, leaf in
          sorted(named_leaves(Checkpoints(folder / 'checkpoints').load(2, like)[0]).items())]


def distance(found, wanted):
  """The largest difference of two lists of arrays, relative to the largest entry of each array."""
  return max(float(np.abs(a.astype(np.float64) - b).max(initial=0)
                   / max(np.abs(b).max(initial=0), 1e-12)) for a, b in zip(found, wanted))


def carried(devices):
  """A recurrent state that is split over the processes comes home whole, as it was."""
  leaf = np.arange(12.0, dtype=np.float32).reshape(6, 2)
  nothing = jnp.zeros(())
  state = TrainState({'a': nothing}, {}, {'carry': {'h': leaf}}, (), None, nothing,
                     jax.random.key(5))
  placed = devices.place_state(state)
  home = devices.gather_state(placed)
  return (placed.collections['carry']['h'].addressable_shards[0].data.shape == (3, 2)
          and np.array_equal(home.collections['carry']['h'], leaf) and home.key == state.key)


def trained(process, port, folder):
  """Returns what one process finds."""
  processes.connect(f'localhost:{port}', 2, process)
  devices = mesh.open_devices('data:2', config().batch_size)
  assert (devices.process, devices.processes, jax.device_count()) == (process, 2, 2)
  found = {'carried': bool(carried(devices))}
  text = io.StringIO()
  start = functools.partial(run.run, config_name='small.py', devices=devices,
                            console=Console(file=text) if devices.first else None)
  for name, call in {
      'other config': lambda: start(config(seed=process), folder / 'other'),
      'not a folder': lambda: start(config(), folder / 'file'),
  }.items():
    try:
      call()
    except (ValueError, OSError) as error:
      found[name] = f'{type(error).__name__}: {error}'
  try:
    start(config(), folder / 'two', stop=Asked() if process == 1 else None)
  except Stopped as stopped:
    found['stopped'] = [stopped.exit_code, str(stopped)]
  sheet = start(config(), folder / 'two')
  assert start(config(), folder / 'two') == sheet
  found['sheet'] = {name: sheet[name] for name in ('weights_kept', 'device', 'epochs')}
  found['text'] = text.getvalue()
  found['one'] = devices.agree(lambda: one_device(folder / 'one'))
  if devices.first:
    like = run.begin(config())[2]
    two, one = parameters(folder / 'two', like), parameters(folder / 'one', like)
    found['distance'] = distance(two, one)
    found['moved'] = distance(two, [np.asarray(leaf) for _, leaf in
                                    sorted(named_leaves(like).items())])
    found['two'] = read_metrics(folder / 'two' / 'metrics.jsonl')[-1]
  return found


def main(folder):
  folder = pathlib.Path(folder)
  (folder / 'file').write_text('in the way')
  jax.config.update('jax_compilation_cache_dir', str(folder / 'programs'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.config.update('jax_disable_most_optimizations', True)
  pieces.PIECE_SECONDS, pieces._STEPS_AT_ONCE = 0.0, 1
  port = free_port()
  children = []
  for process in (0, 1):
    child = os.fork()
    if not child:
      try:
        (folder / f'{process}.json').write_text(json.dumps(trained(process, port, folder)))
        jax.distributed.shutdown()
        os._exit(0)
      except BaseException:
        traceback.print_exc()
        processes.leave(1)
    children.append(child)
  codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
  assert codes == [0, 0], codes
  print(json.dumps([json.loads((folder / f'{process}.json').read_text()) for process in (0, 1)]))


if __name__ == '__main__':
  main(sys.argv[1])
