"""Several processes that train one network together, on one machine or on many.

They are started with the same flags and, each with its own number, --coordinator=host:port
--num_processes=2 --process_id=0; or with JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
JAX_PROCESS_ID in the environment.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

CONNECT_SECONDS = 300.0
LAST_SECONDS = 1.0
VARIABLES = {'--coordinator': 'JAX_COORDINATOR_ADDRESS', '--num_processes': 'JAX_NUM_PROCESSES',
             '--process_id': 'JAX_PROCESS_ID'}


def connect(coordinator: str | None = None, num_processes: int | None = None,
            process_id: int | None = None, seconds: float = CONNECT_SECONDS,
            environment: Mapping[str, str] = os.environ) -> None:
  """Joins this process to the others of a run; does nothing where neither flags nor variables ask.

  It comes before the first computation. Collectives between CPUs are gloo's.

  Args:
    coordinator: host:port of process 0, the same in all processes. num_processes: how many there
      are. process_id: number of this one, from 0. What is None is read from `environment`.
    seconds: how long to wait for the others.

  Raises:
    ValueError: for flags that do not hold together, a port in use, or a process 0 that does not
      answer; the message names them.
  """
  values = _given(coordinator, num_processes, process_id, environment)
  missing = [flag for flag, value in values.items() if value is None]
  if len(missing) == len(values):
    return
  if missing:
    raise ValueError(f'{", ".join(f"{flag} ({VARIABLES[flag]})" for flag in missing)} missing: '
                     'several processes need the address of process 0, how many they are, and the '
                     'number of each')
  address, count, own = str(values['--coordinator']), *(
      _whole_number(flag, values[flag]) for flag in ('--num_processes', '--process_id'))
  host, _, port = address.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 2 ** 16:
    raise ValueError(f'--coordinator={address} must be host:port, such as localhost:45671')
  if not own < count:
    raise ValueError(f'--process_id={own} must lie below --num_processes={count}; they count '
                     'from 0')
  if own == 0:
    _require_free(address, int(port))
  else:
    _await_listener(address, host.strip('[]'), int(port), seconds)
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.distributed.initialize(address, count, own, cluster_detection_method='deactivate',
                             initialization_timeout=max(1, round(seconds)))


def require_alone(what: str, coordinator: str | None = None, num_processes: int | None = None,
                  process_id: int | None = None,
                  environment: Mapping[str, str] = os.environ) -> None:
  """Raises ValueError where flags or variables ask for several processes; `what` takes one."""
  values = _given(coordinator, num_processes, process_id, environment)
  asked = [flag for flag, value in values.items() if value is not None]
  if asked:
    raise ValueError(f'{what} is a matter of one process: leave out '
                     + ', '.join(f'{flag} ({VARIABLES[flag]})' for flag in asked)
                     + '; --mesh=data:2 then means two devices of this process')


def _given(coordinator: Any, num_processes: Any, process_id: Any,
           environment: Mapping[str, str]) -> dict[str, Any]:
  """Returns {flag: its value, or that of its variable, or None}."""
  given = dict(zip(VARIABLES, (coordinator, num_processes, process_id)))
  return {flag: value if value is not None else environment.get(VARIABLES[flag])
          for flag, value in given.items()}


def leave(code: int) -> NoReturn:
  """Ends this process; one of several without waiting for the others, who may wait for it.

  Its end is soon noticed by the others. Process 0 goes last: with it goes the service whose loss
  would end them in the middle of what they have to say.
  """
  if alone():
    sys.exit(code)
  if jax.process_index() == 0:
    time.sleep(LAST_SECONDS)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def alone() -> bool:
  """Whether this process has not joined others."""
  return not jax.distributed.is_initialized()


def tells_of_another(error: BaseException) -> bool:
  """Whether an error is that gloo has lost another process."""
  return 'Gloo' in str(error)


def explained(error: BaseException) -> str:
  """Returns the message of an error; where gloo has lost another process, what that means."""
  if tells_of_another(error):
    return (f'another process of this run has ended ({str(error).splitlines()[0]}); its own '
            'message says why. Start all of them again to go on')
  return str(error)


def _whole_number(flag: str, value: Any) -> int:
  text = str(value)
  if not text.isdecimal():
    raise ValueError(f'{flag}={text} must be a whole number from 0 on')
  return int(text)


def _require_free(address: str, port: int) -> None:
  """Raises ValueError if something listens on the port: gRPC would share it without a word."""
  families = [(socket.AF_INET, '')] + ([(socket.AF_INET6, '::')] if socket.has_ipv6 else [])
  for family, host in families:
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
      # A port that a process has left a moment ago is free all the same.
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      if family == socket.AF_INET6:
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
      try:
        probe.bind((host, port))
      except OSError as error:
        if error.errno != errno.EADDRINUSE:       # such as a machine without IPv6
          continue
        raise ValueError(f'port {port} of --coordinator={address} is in use by another process; '
                         'give all processes of the run another port, or end that process (ss '
                         f'-ltnp "sport = :{port}" names it)') from error


def _await_listener(address: str, host: str, port: int, seconds: float) -> None:
  """Waits until process 0 listens; JAX itself would end the process without an error to catch."""
  end = time.monotonic() + seconds
  while True:
    try:
      socket.create_connection((host, port), timeout=5).close()
      return
    except OSError as error:
      if time.monotonic() > end:
        raise ValueError(f'nobody answered at --coordinator={address} within {seconds:g} s '
                         f'({error.strerror or error}); start process 0 with the same flags and '
                         '--process_id=0, and see that the address is that of its host') from error
      time.sleep(0.1)


def broadcast(data: bytes) -> bytes:
  """Returns the bytes of process 0 in every process; those of the others may be anything."""
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
  room = 1 << max(size - 1, 0).bit_length()          # a program is compiled for each length
  padded = np.zeros(room, np.uint8)
  if jax.process_index() == 0:
    padded[:size] = np.frombuffer(data, np.uint8)
  return np.asarray(multihost_utils.broadcast_one_to_all(padded))[:size].tobytes()
