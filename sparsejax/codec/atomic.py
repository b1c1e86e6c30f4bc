"""Files that are either the old ones or the new ones, never half of each."""
from __future__ import annotations

import contextlib
import errno
import os
import uuid


def write_atomically(path: str | os.PathLike[str], data: bytes) -> int:
  """Writes `data` to `path` by way of a temporary file in the same folder and `os.replace`.

  A reader at any moment, or a machine that stops in between, sees the former file or the new one.

  Returns: the number of bytes written.
  Raises: ValueError if the folder does not exist, or if `path` is a folder; OSError, which names
    `path`, if it cannot be written.
  """
  path = os.path.abspath(os.fspath(path))
  folder = os.path.dirname(path)
  if not os.path.isdir(folder):
    raise ValueError(f'cannot write {path}: its folder {folder} does not exist; create it first')
  if os.path.isdir(path):
    raise ValueError(f'cannot write {path}: it is a folder; name a file in it')
  temporary = os.path.join(folder, f'.{uuid.uuid4().hex}.tmp')
  try:
    with open(temporary, 'xb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())      # the bytes reach the disk before the name does
    os.replace(temporary, path)
  except OSError as error:           # of a write it names no file, of the rest the temporary one
    with contextlib.suppress(FileNotFoundError):
      os.remove(temporary)
    raise OSError(error.errno or errno.EIO, error.strerror or str(error), path) from error
  except BaseException:
    with contextlib.suppress(FileNotFoundError):
      os.remove(temporary)
    raise
  return len(data)
