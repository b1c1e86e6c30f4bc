"""What a task of a job array asks SLURM for; the names are those of sbatch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

# Before its time limit a task is sent this signal, so many seconds ahead; SIGTERM it is sent when
# it is preempted, cancelled, or put back by `scontrol requeue`.
SIGNAL, SECONDS_BEFORE = 'USR2', 90
# What --sbatch may not say, for the launcher does, or it makes no sense of one process a task.
OWN = ('array', 'chdir', 'error', 'job-name', 'nodes', 'no-requeue', 'ntasks', 'ntasks-per-node',
       'open-mode', 'output', 'requeue', 'wrap')


class Options(NamedTuple):
  """What a task asks SLURM for; None leaves it to the cluster.

  Attributes:
    partition, time, mem: as sbatch takes them, such as '2:00:00' and '16G'.
    cpus_per_task, gpus_per_task: integers.
    sbatch: further options, ('account=lab', 'constraint=a100', 'exclusive').
  """

  partition: str | None = None
  time: str | None = None
  cpus_per_task: int | None = None
  gpus_per_task: int | None = None
  mem: str | None = None
  sbatch: Sequence[str] = ()

  def given(self) -> list[str]:
    """Returns the names of those that are given."""
    return [name for name, value in self._asdict().items() if value not in (None, ())]


def parameters(options: Options) -> dict[str, Any]:
  """Returns the options as submitit's executor takes them.

  Raises:
    ValueError: for one that sbatch could not read, or that the launcher sets itself.
  """
  further: dict[str, Any] = {'requeue': True, 'signal': f'{SIGNAL}@{SECONDS_BEFORE}'}
  for text in options.sbatch:
    name, equals, value = text.removeprefix('--').partition('=')
    if not re.fullmatch('[a-z][a-z0-9-]*', name) or (equals and not value):
      raise ValueError(f'--sbatch={text}: give name=value or name, as sbatch has them without --, '
                       'such as --sbatch=account=lab')
    if name in OWN:
      raise ValueError(f'--sbatch={text}: {name} is set by the launcher; leave it out')
    if name.replace('-', '_') in Options._fields:
      raise ValueError(f'--sbatch={text}: give --{name.replace("-", "_")}, a flag of its own')
    if name == 'signal' and not re.fullmatch(f'{SIGNAL}@[0-9]+', value):
      raise ValueError(f'--sbatch={text}: tasks wait for {SIGNAL}; give signal={SIGNAL}@<seconds '
                       'before the time limit>')
    further[name] = value if equals else True
  own = {name: value for name, value in options._asdict().items()
         if name != 'sbatch' and value is not None}
  broken = next((value for value in (*own.values(), *further.values())
                 if isinstance(value, str) and not value.isprintable()), None)
  if broken is not None:
    raise ValueError(f'option {broken!r} of a job holds characters that cannot be printed')
  # srun does not take the CPUs of its job for those of its task.
  cpus = [f'--cpus-per-task={options.cpus_per_task}'] if options.cpus_per_task else []
  # submitit would ask for five minutes, and for its own accounting key.
  return {'time': None, 'wckey': None, 'stderr_to_stdout': True, 'additional_parameters': further,
          'srun_args': ['--open-mode=append', *cpus], **own}


def passed_on(at_once: int, save_minutes: float, mesh: str | None = None) -> list[str]:
  """Returns the flags of the sweep that its tasks are given."""
  return [f'--members_at_once={at_once}', f'--save_minutes={save_minutes!r}',
          *([f'--mesh={mesh}'] if mesh is not None else [])]
