"""Several devices for one run: --mesh=data:2, in one process or in several.

Each batch is split over the devices; the state and the data are held by each of them. Data are held
as a whole because a shuffled batch takes its examples from anywhere: a device then finds its own
without asking another, and the order of the examples is that of one device. (60,000 images of MNIST
are 47 MB.)

Of several processes (`processes.py`) the first alone writes files and to the console; the others
need not see its folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from rich.console import Console

from experiments.processes import broadcast
from sparsejax.training import sharding
from sparsejax.training.fit import CARRY, TrainState

T = TypeVar('T')


class Devices(NamedTuple):
  """The devices of a run, and this process's place among those that run it.

  Attributes:
    mesh: over whose axis 'data' batches are split; None for one device.
    process: number of this process. processes: how many there are.
  """

  mesh: Mesh | None = None
  process: int = 0
  processes: int = 1

  @property
  def first(self) -> bool:
    """Whether this process writes files and to the console."""
    return self.process == 0

  def console(self) -> Console:
    """Returns a console that is silent in all processes but the first."""
    return Console() if self.first else Console(file=io.StringIO())

  def ledger_keys(self) -> dict[str, Any]:
    """Returns what the ledger of a run on these devices says of them; nothing of one device."""
    if self.mesh is None:
      return {}
    return {'mesh': f'{sharding.AXIS}:{self.mesh.size}', 'mesh_processes': self.processes}

  def place(self, array: Any) -> jax.Array:
    """Returns an array of the host as a whole on every device."""
    return sharding.place(self.mesh, array)

  def place_state(self, state: TrainState) -> TrainState:
    """Returns the state of one device on all of them."""
    return sharding.place_state(self.mesh, state, rows=(CARRY,))

  def gather_state(self, state: TrainState) -> TrainState:
    """Returns the state on this process's first device; all processes call it together."""
    return sharding.gather_state(self.mesh, state)

  def agree(self, work: Callable[[], T]) -> T:
    """Returns what `work` gives in process 0, or raises its error, in every process.

    Args:
      work: called in process 0 alone; its result must be what JSON holds.
    """
    if self.processes == 1:
      return work()
    message: dict[str, Any] = {}
    if self.first:
      try:
        message['result'] = work()
      except (ValueError, OSError) as error:
        _told({'error': str(error), 'of system': isinstance(error, OSError)})
        raise
    message = _told(message)
    if 'error' in message:
      kind = OSError if message['of system'] else ValueError
      raise kind(f'process 0: {message["error"]}')
    return message['result']

  def in_turn(self, work: Callable[[], T]) -> T:
    """Returns this process's own `work()`; the others begin once process 0 has ended.

    So what process 0 downloads is there for the others of its machine. Its errors are theirs.
    """
    if self.processes == 1:
      return work()
    done: list[T] = []
    self.agree(lambda: done.append(work()))
    return done[0] if self.first else work()

  def agree_state(self, state: TrainState) -> TrainState:
    """Returns the state of process 0, for one device, in every process.

    Args:
      state: of process 0 its state; of the others one of the same shapes.
    """
    if self.processes == 1:
      return state
    raw = state._replace(key=jax.random.key_data(state.key))
    leaves, structure = jax.tree.flatten(raw)
    arrays = [np.asarray(leaf) for leaf in leaves]
    data = broadcast(b''.join(array.tobytes() for array in arrays))
    found, place = [], 0
    for array in arrays:
      found.append(jax.numpy.asarray(np.frombuffer(data, array.dtype, array.size, place)
                                     .reshape(array.shape)))
      place += array.nbytes
    filled = jax.tree.unflatten(structure, found)
    return filled._replace(key=jax.random.wrap_key_data(
        filled.key, impl=str(jax.random.key_impl(state.key))))

  def largest(self, *numbers: int) -> tuple[int, ...]:
    """Returns the largest of each number over all processes."""
    if self.processes == 1:
      return numbers
    gathered = multihost_utils.process_allgather(np.asarray(numbers, np.int32))
    return tuple(int(number) for number in gathered.max(axis=0))

  def require_same(self, facts: Mapping[str, str]) -> None:
    """Raises ValueError in every process unless all have the same facts, by name."""
    if self.processes == 1:
      return
    own = np.stack([np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
                    for text in facts.values()])
    everyone = multihost_utils.process_allgather(own)          # (processes, facts, 32)
    for process, theirs in enumerate(everyone):
      for name, mine, first in zip(facts, theirs, everyone[0]):
        if not np.array_equal(mine, first):
          raise ValueError(f'process {process} has another {name} than process 0; start all '
                           f'{self.processes} processes with the same flags, code and data')


ONE = Devices()


def parse(text: str) -> int:
  """Returns the number of devices that --mesh asks for: 2 of 'data:2'.

  Raises:
    ValueError: for anything else, with what was seen.
  """
  found = re.fullmatch(r'(\w+):(\d+)', text.strip())
  if found is None:
    raise ValueError(f'--mesh={text!r} must name the axis and the number of devices, such as '
                     '--mesh=data:2')
  axis, devices = found[1], int(found[2])
  if axis != sharding.AXIS:
    raise ValueError(f'--mesh={text!r} splits over {axis!r}, but examples are all that can be '
                     f'split; write --mesh={sharding.AXIS}:{devices}')
  if devices == 0:
    raise ValueError(f'--mesh={text!r} asks for no device; the least is --mesh={axis}:1')
  return devices


def give_devices_threads(text: str | None) -> None:
  """Sees to it that the CPU devices of --mesh=`text` can wait for each other; before JAX starts.

  XLA has as many threads as there are cores, and each device holds some while it waits for the sum
  over all of them: with too few, all wait for ever.
  """
  if text is not None:
    os.environ.setdefault('PJRT_NPROC', str(max(os.cpu_count() or 1, 4 * parse(text), 16)))


def require_shares(devices: int, batch_size: int) -> None:
  """Raises ValueError where a batch cannot be shared alike by so many devices."""
  if batch_size % devices:
    below = max(batch_size // devices, 1) * devices
    raise ValueError(f'config.batch_size={batch_size} cannot be shared alike by the {devices} '
                     f'devices of --mesh={sharding.AXIS}:{devices}; set '
                     f'--config.batch_size={below}')


def open_devices(text: str | None, batch_size: int = 0) -> Devices:
  """Returns the devices of --mesh=`text`; without it, the first device.

  Args:
    batch_size: of the batches they are to share; 0 where batches are not what is shared.

  Raises:
    ValueError: for a mesh that the devices, the processes or the batch do not allow.
  """
  processes = jax.process_count()
  if text is None:
    if processes > 1:
      raise ValueError(f'{processes} processes run together but --mesh is not given; add '
                       f'--mesh={sharding.AXIS}:{jax.device_count()}')
    return ONE
  devices = parse(text)
  require_shares(devices, batch_size)
  found: list[list[jax.Device]] = [[] for _ in range(processes)]
  for device in jax.devices():
    found[device.process_index].append(device)
  if len({len(own) for own in found}) > 1:
    raise ValueError(f'the processes have {", ".join(str(len(own)) for own in found)} devices; '
                     'give each of them as many as the others')
  if devices % processes:
    raise ValueError(f'--mesh={text} cannot be shared alike by {processes} processes; ask for a '
                     f'multiple of {processes} devices')
  share = devices // processes
  if share > len(found[0]):
    kind = found[0][0].platform
    each = 'each process has' if processes > 1 else 'this process has'
    repair = ''
    if kind == 'cpu':
      repair = (f', set JAX_NUM_CPU_DEVICES={share} for as many virtual devices, or start more '
                'processes (--coordinator)')
    raise ValueError(f'--mesh={text} asks for {devices} devices, but {each} {len(found[0])} '
                     f'({kind}); ask for {len(found[0]) * processes}{repair}')
  if devices == 1:
    return ONE
  chosen = [device for own in found for device in own[:share]]
  return Devices(Mesh(np.array(chosen), (sharding.AXIS,)), jax.process_index(), processes)


def _told(message: dict[str, Any]) -> dict[str, Any]:
  """Returns the message of process 0."""
  return json.loads(broadcast(json.dumps(message).encode()))
