"""Where a run took place: device, versions, commit, time."""
from __future__ import annotations

import datetime
import os
import pathlib
import platform
import subprocess

import flax
import jax
import jaxlib
import numpy as np
import optax

from sparsejax.ledger.timing import thread_count

UNKNOWN = 'unknown'


def describe_run() -> dict[str, str | int]:
  """The provenance keys of the ledger, for this process and now."""
  threads = thread_count()
  return {
      'device': device(),
      'threads': threads.number,
      'threads_source': threads.source,
      'jax_version': jax.__version__,
      'jaxlib_version': jaxlib.__version__,
      'flax_version': flax.__version__,
      'optax_version': optax.__version__,
      'numpy_version': np.__version__,
      'python_version': platform.python_version(),
      'commit': commit(),
      'time_utc': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
  }


def device() -> str:
  """Backend, count and kind of JAX's devices, as in 'gpu: 1 x NVIDIA H100'; a CPU by its model."""
  devices = jax.devices()
  kind = devices[0].device_kind
  if devices[0].platform == 'cpu':
    kind = _cpu_model()
  return f'{devices[0].platform}: {len(devices)} x {kind}'


def commit(file: str | os.PathLike[str] = __file__) -> str:
  """The git commit of the checkout that `file` belongs to, 40 hexadecimal digits.

  '-dirty' is added if a tracked file differs from it or a Python file is not tracked. 'unknown' if
  `file` is not tracked (a package installed inside someone else's checkout is not), or git fails.
  """
  path = pathlib.Path(file).resolve()
  if _git(path.parent, 'ls-files', '--error-unmatch', path.name) is None:
    return UNKNOWN
  head = _git(path.parent, 'rev-parse', '--verify', 'HEAD')
  root = _git(path.parent, 'rev-parse', '--show-toplevel')
  if head is None or root is None:
    return UNKNOWN
  status = _git(root.strip(), 'status', '--porcelain', '--untracked-files=all')
  if status is None:
    return UNKNOWN
  changed = any(not line.startswith('??') or line.rstrip('"').endswith('.py')
                for line in status.splitlines())
  return head.strip() + ('-dirty' if changed else '')


def _git(folder: str | os.PathLike[str], *arguments: str) -> str | None:
  """Output of a git command, None if there is no git or it refuses."""
  # A process started by a git hook inherits GIT_DIR, which would answer for another repository.
  environment = {key: value for key, value in os.environ.items() if not key.startswith('GIT_')}
  try:
    done = subprocess.run(['git', *arguments], cwd=folder, env=environment, timeout=30, check=True,
                          capture_output=True)
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.decode(errors='replace')


def _cpu_model() -> str:
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    lines = []
  names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
  return names[0] if names else platform.processor() or platform.machine() or UNKNOWN
