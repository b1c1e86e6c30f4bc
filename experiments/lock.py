"""One process a folder: a lock that the system releases, however its holder ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
from collections.abc import Callable, Iterator

LOCK_FILE = 'lock'
# What file systems say that know no such locks.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class InUse(ValueError):
  """Another process holds the folder."""


@contextlib.contextmanager
def held(folder: pathlib.Path, warn: Callable[[str], None]) -> Iterator[None]:
  """Holds the folder for this process; the file `lock` in it says who does, and goes at the end.

  The kernel releases the lock when the process ends, by SIGKILL too; the file may then stay, and
  means nothing. `warn` is told where the file system has no locks, as some of clusters have not.

  Raises:
    InUse: if another process holds it; the message names its id and host.
    OSError: if the file cannot be written.
  """
  path = folder / LOCK_FILE
  file = _opened(path)
  try:
    while True:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError as error:
        holder = os.pread(file, 1000, 0).decode(errors='replace').strip() or 'another process'
        raise InUse(f'workdir {folder} is in use by {holder}; wait for it, stop it, or use '
                    'another --workdir') from error
      except OSError as error:
        if error.errno not in _UNSUPPORTED:
          raise
        warn(f'{folder} is on a file system without locks ({error.strerror}): see to it that no '
             'second run uses it')
      # Who held it before may have removed the file between our opening and our locking.
      if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
        break
      os.close(file)
      file = _opened(path)
    os.ftruncate(file, 0)
    os.pwrite(file, f'process {os.getpid()} on {socket.gethostname()}\n'.encode(), 0)
    try:
      yield
    finally:
      with contextlib.suppress(FileNotFoundError):     # the folder itself may be gone
        path.unlink()
  finally:
    os.close(file)


def _opened(path: pathlib.Path) -> int:
  return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
