"""Times two processes of one core each against one process of one core, at the same global batch.

  python -m benchmarks.data_parallel              LeNet-5-Caffe, batches of 1024
  python -m benchmarks.data_parallel --quick      does it run: numbers mean nothing

Each process is bound to a core of its own (--cores). All of them stay, and train in turn: the one
alone, then the several together, the order changing from round to round; a speed-up is the median
of the quotients of each round with its 95 % interval. The time of several is that of the slowest.
The steps are those of `experiments.train --mesh=data:N`: forward and backward pass of each part of
the batch, gradients summed over the processes by gloo. Run it on an idle machine.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import subprocess
import sys

from absl import flags

from benchmarks import command

FLAGS = flags.FLAGS
AT_LEAST = {('lenet_5_caffe', 1024, 2): 1.7}       # (network, batch, processes) -> speed-up


class Group:
  """Processes that train one network together; a call trains once more, and returns when all have.

  Args:
    options: for `data_parallel_worker`. cores: one a process.
  """

  def __init__(self, options: dict, cores: list[int]):
    coordinator = f'localhost:{free_port()}'
    self.milliseconds: list[float] = []
    self._workers = [subprocess.Popen(
        [sys.executable, '-m', 'benchmarks.data_parallel_worker', json.dumps(
            {**options, 'core': core, 'coordinator': coordinator, 'processes': len(cores),
             'process': process})],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for process, core in enumerate(cores)]
    self._answers('ready')

  def __call__(self) -> None:
    for worker in self._workers:
      assert worker.stdin is not None
      worker.stdin.write('\n')
      worker.stdin.flush()
    self.milliseconds.append(max(self._answers('ms')))

  def close(self) -> None:
    for worker in self._workers:
      assert worker.stdin is not None
      worker.stdin.close()
    for worker in self._workers:
      worker.wait(timeout=60)

  def _answers(self, name: str) -> list[float]:
    found = []
    for worker in self._workers:
      assert worker.stdout is not None
      for line in worker.stdout:
        if line.startswith('{'):               # gloo prints lines of its own
          found.append(json.loads(line)[name])
          break
      else:
        raise OSError(f'a process ended with exit code {worker.wait()}; its message is above')
    return found


def free_port() -> int:
  """Returns a port that nobody listens on at the moment."""
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    return int(probe.getsockname()[1])


def cores_of(given: list[str]) -> list[int]:
  """Returns the cores to use, one a process.

  Raises:
    ValueError: for fewer than two, or one that this process may not use.
  """
  if not hasattr(os, 'sched_setaffinity'):
    raise ValueError('this system cannot bind a process to a core, so one core a process cannot be '
                     'measured; run it on Linux')
  allowed = sorted(os.sched_getaffinity(0))
  cores = [int(core) for core in given] or allowed[:2]
  if len(set(cores)) != len(cores) or len(cores) < 2 or not set(cores) <= set(allowed):
    raise ValueError(f'--cores={",".join(map(str, cores))}: name two or more different cores of '
                     f'{", ".join(map(str, allowed))}')
  return cores


def measure() -> None:
  """Times what the flags name, prints the table and appends the rows."""
  from rich.console import Console

  from benchmarks import cases, results, timing
  from sparsejax.ledger.provenance import describe_run

  if FLAGS.network not in cases.NETWORKS or FLAGS.method not in cases.METHODS:
    raise ValueError(f'--network={FLAGS.network} --method={FLAGS.method}: choose from '
                     f'{", ".join(cases.NETWORKS)} and {", ".join(cases.METHODS)}')
  cores = cores_of(FLAGS.cores)
  steps, rounds = (1, timing.MIN_ROUNDS) if FLAGS.quick else (FLAGS.steps, FLAGS.rounds)
  options = {'network': FLAGS.network, 'method': FLAGS.method, 'batch_size': FLAGS.batch_size,
             'steps': steps}
  setting = {'benchmark': 'data_parallel', **describe_run(), **options, 'rounds': rounds,
             'quick': FLAGS.quick, 'cores': cores, 'date': datetime.date.today().isoformat(),
             'load_before': os.getloadavg()[0]}
  console = Console()
  if FLAGS.quick:
    console.print('--quick: this checks that the benchmark runs; its numbers mean nothing')
  groups = {1: Group(options, cores[:1]), len(cores): Group(options, cores)}
  try:
    timing.interleaved(groups, rounds, warmup=1)
  finally:
    for group in groups.values():
      group.close()
  samples = {count: timing.np.asarray(group.milliseconds[-rounds:])
             for count, group in groups.items()}
  rows = [{'kind': 'milliseconds_per_step', 'processes': count, **timing.estimate(times)._asdict()}
          for count, times in samples.items()]
  found = timing.ratio(samples[1], samples[len(cores)])
  goal = AT_LEAST.get((FLAGS.network, FLAGS.batch_size, len(cores)))
  rows.append({'kind': 'speed_up', 'processes': len(cores), 'at_least': goal, **found._asdict()})
  for row in rows:
    console.print(f'{row["kind"]:22} {row["processes"]} processes  {row["median"]:9.3f}  '
                  f'({row["low"]:.3f} to {row["high"]:.3f})'
                  + (f'  goal >= {goal}' if row.get('at_least') else ''), soft_wrap=True)
  if FLAGS.results:
    results.append(FLAGS.results, ({**setting, **row} for row in rows))
    console.print(f'Rows appended to {FLAGS.results}')


def define_flags() -> None:
  """Not on import, so that tests may import this beside other benchmarks."""
  flags.DEFINE_string('network', 'lenet_5_caffe', 'Network of benchmarks/cases.py.')
  flags.DEFINE_string('method', 'dense', 'Method of benchmarks/cases.py.')
  flags.DEFINE_integer('batch_size', 1024, 'Images per step, all processes together.',
                       lower_bound=1)
  flags.DEFINE_integer('steps', 8, 'Steps per timed call.', lower_bound=1)
  flags.DEFINE_integer('rounds', 11, 'Timed calls of each; at least 6.')
  flags.DEFINE_list('cores', [], 'One core a process; the first two of this process, if not '
                    'given.')
  flags.DEFINE_bool('quick', False, 'Six rounds of one step: a check that it runs.')
  flags.DEFINE_string('results', 'benchmarks/results/data_parallel.jsonl',
                      'File to append rows to; empty for none.')


if __name__ == '__main__':
  define_flags()
  command.run(measure)
