"""Times the training steps of this library against the dense step and against PyTorch's.

  python -m benchmarks.training_step                  all networks and methods, all cores
  python -m benchmarks.training_step --threads=1      on one core
  python -m benchmarks.training_step --quick          does it run: numbers mean nothing

All steps run in one process, in turn, on the same images and threads; the order rotates from round
to round, and a ratio is the median of the quotients of each round with its 95 % interval. Ours is a
jitted scan of --steps steps, PyTorch's a Python loop of as many; shuffling is left out of both.
PyTorch is optional (`pip install sparsejax[bench]`). Run it on an idle machine: PyTorch's threads
spin, and lose most of their speed where something else wants the same cores.
"""

import datetime
import os
import sys

from absl import app, flags

_NETWORKS = flags.DEFINE_list('networks', ['lenet_300_100', 'lenet_5_caffe'], 'Networks to time.')
_METHODS = flags.DEFINE_list('methods', ['dense', 'l0', 'vd'], 'Steps to time.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'Images per step.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 40, 'Steps per timed call.', lower_bound=1)
_ROUNDS = flags.DEFINE_integer('rounds', 21, 'Timed calls of each step; at least 6.')
_THREADS = flags.DEFINE_integer('threads', 0, 'Cores to use; 0 for all this process may use.',
                                lower_bound=0)
_TORCH = flags.DEFINE_enum('torch', 'auto', ['auto', 'off', 'eager', 'compiled'],
                           'PyTorch rows: auto times both kinds if PyTorch is installed.')
_QUICK = flags.DEFINE_bool('quick', False, 'Six rounds of two steps: a check that it runs.')
_RESULTS = flags.DEFINE_string('results', 'benchmarks/results/training_step.jsonl',
                               'File to append rows to; empty for none.')


def restrict_threads(count: int) -> int:
  """Binds the process to `count` of its cores (0: all) and returns how many it has.

  XLA:CPU sizes its pool by the affinity mask, so this comes before the first import of jax.

  Raises:
    ValueError: for more cores than there are, or a system that cannot bind a process.
  """
  if not hasattr(os, 'sched_setaffinity'):
    if count:
      raise ValueError(f'--threads={count}: this system cannot bind a process to cores; leave '
                       '--threads out')
    return os.cpu_count() or 1
  allowed = sorted(os.sched_getaffinity(0))
  if count > len(allowed):
    raise ValueError(f'--threads={count}, but this process may use {len(allowed)} cores')
  if count:
    os.sched_setaffinity(0, allowed[:count])
  return count or len(allowed)


def torch_kinds(wanted: str, threads: int, platform: str) -> tuple[dict[str, bool], str]:
  """Returns ({framework: compiled?}, a line that says why rows are left out, or '').

  Raises:
    ValueError: if PyTorch is asked for by name and not installed.
  """
  if wanted == 'off':
    return {}, 'PyTorch: left out by --torch=off'
  try:
    import torch
  except ModuleNotFoundError as error:
    if wanted == 'auto':
      return {}, f'PyTorch: left out, it is not installed ({error}); pip install sparsejax[bench]'
    raise ValueError(f'--torch={wanted}: PyTorch is not installed ({error}); '
                     'pip install sparsejax[bench]') from error
  if platform != 'cpu':
    return {}, f'PyTorch: left out, our steps run on {platform} and its on the CPU'
  torch.set_num_threads(threads)
  kinds = {'torch eager': False, 'torch compiled': True}
  if wanted != 'auto':
    kinds = {f'torch {wanted}': kinds[f'torch {wanted}']}
  return kinds, ''


def steps_of(network, methods, kinds, data, batch_size, steps):
  """Returns {(method, framework): function that takes `steps` steps}."""
  from benchmarks import jax_steps
  from benchmarks.targets import OURS

  weights = jax_steps.initial_weights(network)
  functions = {}
  for method in methods:
    functions[method, OURS] = jax_steps.JaxSteps(network, method, data, batch_size, steps)
    for name, compiled in kinds.items():
      from benchmarks.torch_steps import TorchSteps
      functions[method, name] = TorchSteps(network, method, weights, data, batch_size, steps,
                                           compiled)
  return functions


def measure(threads: int) -> None:
  """Times what the flags name, prints the tables and appends the rows."""
  import jax
  from rich.console import Console

  from benchmarks import cases, results, targets, timing
  from sparsejax.ledger.provenance import describe_run

  for name, given, known in (('networks', _NETWORKS.value, cases.NETWORKS),
                             ('methods', _METHODS.value, cases.METHODS)):
    unknown = [entry for entry in given if entry not in known]
    if unknown or not given:
      raise ValueError(f'--{name}={",".join(given)}: choose from {", ".join(known)}')
  steps, rounds = (2, timing.MIN_ROUNDS) if _QUICK.value else (_STEPS.value, _ROUNDS.value)
  kinds, left_out = torch_kinds(_TORCH.value, threads, jax.default_backend())
  console = Console()
  if left_out:
    console.print(left_out)
  if _QUICK.value:
    console.print('--quick: this checks that the benchmark runs; its numbers mean nothing')
  setting = {
      'benchmark': 'training_step', **describe_run(), 'torch_version': torch_version(kinds),
      'batch_size': _BATCH_SIZE.value, 'steps': steps, 'rounds': rounds, 'quick': _QUICK.value,
      'date': datetime.date.today().isoformat(), 'load_before': os.getloadavg()[0],
  }
  examples = 8 * steps * _BATCH_SIZE.value if _QUICK.value else cases.EXAMPLES
  data = cases.synthetic_data(examples)
  for network in _NETWORKS.value:
    functions = steps_of(network, _METHODS.value, kinds, data, _BATCH_SIZE.value, steps)
    per_call = timing.interleaved(functions, rounds, warmup=2)
    samples = {name: times / steps for name, times in per_call.items()}
    rows = [results.time_row(network, method, framework, timing.estimate(times))
            for (method, framework), times in samples.items()]
    found = targets.ratios(network, samples)
    title = (f'{network}, batch {_BATCH_SIZE.value}, {setting["device"]}, {threads} threads, '
             f'jax {setting["jax_version"]}, torch {setting["torch_version"]}')
    results.show(console, title, rows, found)
    if _RESULTS.value:
      results.append(_RESULTS.value, ({**setting, **row} for row in
                                      (*rows, *map(results.ratio_row, found))))
      console.print(f'Rows appended to {_RESULTS.value}')


def torch_version(kinds: dict[str, bool]) -> str | None:
  """Returns PyTorch's version, None if it takes no part."""
  if not kinds:
    return None
  import torch
  return str(torch.__version__)


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
  try:
    measure(restrict_threads(_THREADS.value))
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
  app.run(main)
