"""Times an epoch of a population against one run, and against as many runs one after the other.

  python -m benchmarks.population                     where JAX runs by default
  python -m benchmarks.population --device=cpu        1 to 16 members
  python -m benchmarks.population --quick             does it run: numbers mean nothing

Members differ in the seed, so that each has its own noise and order of examples, and in the
learning rate ('seeds'), or in the strength alone, so that noise and order are shared ('strengths').
On a CPU members are taken in turn inside of one program, which can be no faster than runs in turn.
One run and all populations are timed in one process, in turn; ratios are medians of the quotients
of each round with their 95 % interval. On an accelerator the population is doubled until an epoch
takes twice as long as that of one run, which is the size from which on side by side stops being
free; the goal is 8 members of LeNet-300-100 in at most 1.2 times the time of one. Rows go to
benchmarks/results.
"""

from __future__ import annotations

import datetime
import math
import os
from typing import Any

from absl import flags

from benchmarks import command

FLAGS = flags.FLAGS
VARIED = ('seeds', 'strengths')
GOAL_MEMBERS, GOAL_RATIO = 8, 1.2           # of LeNet-300-100, on an accelerator
MOST_ON_CPU, MOST = 16, 8192
LEARNING_RATES = (3e-4, 3e-3)               # of the first and the last member


class PopulationEpoch:
  """A call runs one epoch of `members` runs side by side, waits for it and carries the states on.

  `members` is None for one run as it is without a population.
  """

  def __init__(self, network: str, method: str, varied: str, members: int | None, data: Any,
               batch_size: int):
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from benchmarks import jax_steps
    from sparsejax.training import fit, population

    self._data = jax.device_put(data.images), jax.device_put(data.labels)
    count = members or 1
    rates = np.geomspace(*LEARNING_RATES, count).astype(np.float32)

    def build(rate):
      return jax_steps.recipe(network, method, batch_size, optax.adam(rate))
    start = jax.jit(lambda key: fit.start(build(rates[0]), key, self._data[0][:1]))
    seeds = range(count) if varied == 'seeds' else [0] * count
    if members is None:
      epoch = fit.jit_epoch(build(float(rates[0])))
      self._state = start(jax.random.key(0))
      self._run = lambda state: epoch(state, *self._data)
      return
    states = [start(jax.random.key(seed)) for seed in seeds]
    if varied == 'strengths':
      states = [_with_strength(state, 10.0 ** (index / count))
                for index, state in enumerate(states)]
      rates[:] = rates[0]
    self._state = population.stack(states)
    numbers, alive = jnp.asarray(rates), jnp.ones(count, bool)
    side_by_side = population.jit_epoch(build)
    self._run = lambda state: side_by_side(numbers, state, alive, *self._data)

  def __call__(self) -> None:
    import jax
    self._state = jax.block_until_ready(self._run(self._state))[0]


def _with_strength(state: Any, factor: float) -> Any:
  """Returns the state with every strength times `factor`."""
  import jax
  scaled = jax.tree_util.tree_map_with_path(
      lambda path, leaf: leaf * factor if path[-1].key == 'strength' else leaf, state.method_state)
  return state._replace(method_state=scaled)


def doubling(ratios: dict[int, float]) -> float | None:
  """Returns the members at which an epoch takes twice as long as that of one run.

  Args:
    ratios: {members: time relative to one run}. Between two sizes logarithms are interpolated.

  Returns: None where all sizes take less; the smallest size where all take more.
  """
  sizes = sorted(ratios)
  above = next((size for size in sizes if ratios[size] >= 2), None)
  if above is None or above == sizes[0]:
    return above
  below = sizes[sizes.index(above) - 1]
  low, high = math.log(ratios[below]), math.log(ratios[above])
  share = (math.log(2) - low) / (high - low)
  return float(math.exp(math.log(below) + share * math.log(above / below)))


def measure_case(network: str, method: str, varied: str, members: list[int], data: Any,
                 batch_size: int, rounds: int, until_twice: bool) -> list[dict[str, Any]]:
  """Returns the rows of one network, one method and one way to differ."""
  import jax

  from benchmarks import timing

  rows: list[dict[str, Any]] = []
  ratios: dict[int, float] = {}
  case = {'network': network, 'method': method, 'varied': varied}
  alone = PopulationEpoch(network, method, varied, None, data, batch_size)
  for count in members:
    try:
      functions = {'one': alone,
                   'all': PopulationEpoch(network, method, varied, count, data, batch_size)}
      samples = timing.interleaved(functions, rounds, warmup=2)
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error):
        raise
      rows.append({**case, 'kind': 'out_of_memory', 'members': count})
      break
    against_one = timing.ratio(samples['all'], samples['one'])
    against_all = timing.ratio(count * samples['one'], samples['all'])
    ratios[count] = against_one.median
    goal = (count == GOAL_MEMBERS and network == 'lenet_300_100'
            and jax.default_backend() != 'cpu')
    rows += [
        {**case, 'kind': 'milliseconds_per_epoch', 'members': count,
         **timing.estimate(samples['all'])._asdict()},
        {**case, 'kind': 'ratio', 'against': 'one run', 'members': count,
         'at_most': GOAL_RATIO if goal else None,
         'verdict': ('met' if against_one.median <= GOAL_RATIO else 'missed') if goal else '',
         **against_one._asdict()},
        {**case, 'kind': 'speed_up', 'against': f'{count} runs in turn', 'members': count,
         **against_all._asdict()},
    ]
    if until_twice and against_one.median >= 2:
      break
  rows.append({**case, 'kind': 'members_at_twice_the_time', 'members': doubling(ratios),
               'largest': max(ratios, default=None)})
  return rows


def show(console: Any, title: str, rows: list[dict[str, Any]]) -> None:
  """Prints one line for each population."""
  from rich.table import Table

  table = Table(title=title, title_justify='left')
  for name in ('members', 'ms an epoch', 'times one run', '95 % interval', 'runs in turn / this',
               'goal'):
    table.add_column(name, justify='right')
  by_members: dict[int, dict[str, Any]] = {}
  for row in rows:
    by_members.setdefault(row['members'], {})[row['kind']] = row
  for members, kinds in by_members.items():
    if 'ratio' in kinds:
      ratio = kinds['ratio']
      goal = f'<= {ratio["at_most"]}: {ratio["verdict"]}' if ratio['at_most'] else ''
      table.add_row(str(members), f'{kinds["milliseconds_per_epoch"]["median"]:.2f}',
                    f'{ratio["median"]:.3f}', f'{ratio["low"]:.3f} to {ratio["high"]:.3f}',
                    f'{kinds["speed_up"]["median"]:.2f}', goal)
    elif 'out_of_memory' in kinds:
      table.add_row(str(members), 'does not fit into memory')
  console.print(table)
  last = rows[-1]
  console.print('An epoch takes twice that of one run at '
                + (f'{last["members"]:.0f} members' if last['members'] else
                   f'more than {last["largest"]} members'))


def measure() -> None:
  """Times what the flags name, prints tables and appends rows."""
  import jax
  from rich.console import Console

  from benchmarks import cases, results, timing
  from sparsejax.ledger.provenance import describe_run

  backend = jax.default_backend()
  if FLAGS.device and backend != FLAGS.device:
    raise ValueError(f'--device={FLAGS.device}, but JAX runs on {backend} here; set JAX_PLATFORMS '
                     'or install the JAX of that device')
  for name, given, known in (('networks', FLAGS.networks, cases.NETWORKS),
                             ('methods', FLAGS.methods, cases.METHODS),
                             ('varied', FLAGS.varied, VARIED)):
    unknown = [entry for entry in given if entry not in known]
    if unknown or not given:
      raise ValueError(f'--{name}={",".join(given)}: choose from {", ".join(known)}')
  if 'strengths' in FLAGS.varied and 'dense' in FLAGS.methods:
    raise ValueError('--methods=dense has no strength to differ in; add --varied=seeds')
  members = sizes(FLAGS.members, backend)
  steps, rounds = FLAGS.steps, FLAGS.rounds
  if FLAGS.quick:
    steps, rounds, members = 2, timing.MIN_ROUNDS, members[:2]
  steps = steps or (40 if backend == 'cpu' else cases.EXAMPLES // FLAGS.batch_size)
  data = cases.synthetic_data(steps * FLAGS.batch_size)
  console = Console()
  if FLAGS.quick:
    console.print('--quick: this checks that the benchmark runs; its numbers mean nothing')
  setting = {'benchmark': 'population', **describe_run(), 'batch_size': FLAGS.batch_size,
             'steps': steps, 'rounds': rounds, 'quick': FLAGS.quick,
             'date': datetime.date.today().isoformat(), 'load_before': os.getloadavg()[0]}
  for network in FLAGS.networks:
    for method in FLAGS.methods:
      for varied in FLAGS.varied:
        rows = measure_case(network, method, varied, members, data, FLAGS.batch_size, rounds,
                            until_twice=backend != 'cpu' and not FLAGS.members)
        show(console, f'{network}, {method}, members differ in {varied}, batch '
             f'{FLAGS.batch_size}, {steps} steps, {setting["device"]}', rows)
        if FLAGS.results:
          results.append(FLAGS.results, ({**setting, **row} for row in rows))
  if FLAGS.results:
    console.print(f'Rows appended to {FLAGS.results}')


def sizes(given: list[str], backend: str) -> list[int]:
  """Returns the sizes to time: those of --members, or powers of two.

  Raises:
    ValueError: for what is no positive integer.
  """
  if not given:
    most = MOST_ON_CPU if backend == 'cpu' else MOST
    return [2 ** power for power in range(int(math.log2(most)) + 1)]
  if not all(entry.isdecimal() and int(entry) > 0 for entry in given):
    raise ValueError(f'--members={",".join(given)}: give positive integers, such as 1,2,4')
  return sorted(map(int, given))


def define_flags() -> None:
  """Not on import, so that tests may import this beside other benchmarks."""
  flags.DEFINE_enum('device', None, ('cpu', 'gpu', 'tpu'), 'Where to run; where JAX runs '
                    'by default.')
  flags.DEFINE_bool('quick', False, 'Six rounds of two steps and 1, 2 members.')
  flags.DEFINE_list('networks', ['lenet_300_100'], 'Networks to time.')
  flags.DEFINE_list('methods', ['l0'], 'Methods to time.')
  flags.DEFINE_list('varied', ['seeds', 'strengths'], 'In what members differ.')
  flags.DEFINE_list('members', [], 'Sizes of the population; 1, 2, 4, ... by default.')
  flags.DEFINE_integer('batch_size', 128, 'Images per step.', lower_bound=1)
  flags.DEFINE_integer('steps', 0, 'Steps of an epoch; 0: those of 60,000 images, on a CPU '
                       '40.', lower_bound=0)
  flags.DEFINE_integer('rounds', 11, 'Timed epochs of each; at least 6.')
  flags.DEFINE_string('results', 'benchmarks/results/population.jsonl',
                      'File to append rows to; empty for none.')


if __name__ == '__main__':
  define_flags()
  command.run(measure)
