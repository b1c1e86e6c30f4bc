"""Data files by checksum: from the data folder if they are there, else from the first good mirror.

The folder is `data_dir`, else the environment variable SPARSEJAX_DATA_DIR, else the user's cache. A
file that is there with the right SHA-256 is used as it is and nothing is written, so the folder may
be read-only.
"""
import dataclasses
import os
import pathlib

import pooch
import requests

DATA_DIR_VARIABLE = 'SPARSEJAX_DATA_DIR'
_TIMEOUT_SECONDS = 30                      # to connect, and between two reads; then the next mirror

# Unreachable (the first three, all OSErrors), or bytes with another checksum (pooch's ValueError).
_MIRROR_ERRORS = (requests.exceptions.RequestException, ConnectionError, TimeoutError, ValueError)


@dataclasses.dataclass(frozen=True)
class RemoteFile:
  """One published file.

  Attributes:
    path: where it lies in the data folder, '/'-joined, such as 'mnist/train-labels-idx1-ubyte.gz'.
    size: in bytes.
    sha256: of its bytes, in hex.
    urls: where it can be had, in the order they are tried.
  """
  path: str
  size: int
  sha256: str
  urls: tuple[str, ...]


def data_folder(data_dir: str | os.PathLike | None = None) -> pathlib.Path:
  """Returns `data_dir`, else a non-empty SPARSEJAX_DATA_DIR, else the user's cache folder."""
  if data_dir is None:
    data_dir = os.environ.get(DATA_DIR_VARIABLE) or pooch.os_cache('sparsejax')
  return pathlib.Path(data_dir).expanduser()


def fetch(file: RemoteFile, data_dir: str | os.PathLike | None = None) -> pathlib.Path:
  """Returns the local path of `file`, fetching it only if it is not there.

  A download goes to a temporary file in the same folder, is checked, and only then takes its name.

  Raises:
    ValueError: a file is there with another checksum. It is left as it is.
    FileNotFoundError: it is not there, and no mirror gave it.
    OSError: it is not there, and the data folder cannot be written.
  """
  path = data_folder(data_dir).joinpath(*file.path.split('/'))
  if path.exists():
    _check(path, file)
  else:
    _download(path, file)
  return path


def _check(path: pathlib.Path, file: RemoteFile) -> None:
  seen = pooch.file_hash(str(path), alg='sha256')
  if seen == file.sha256:
    return
  size = path.stat().st_size
  kind = 'truncated' if size < file.size else 'damaged, or another file'
  raise ValueError(f'{path} is {kind} ({size} bytes, published {file.size}): expected SHA-256 '
                   f'{file.sha256}, found {seen}; delete it, and it will be fetched again')


def _download(path: pathlib.Path, file: RemoteFile) -> None:
  failures = []
  for url in file.urls:
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      pooch.retrieve(url, known_hash=f'sha256:{file.sha256}', fname=path.name, path=path.parent,
                     downloader=pooch.HTTPDownloader(chunk_size=1 << 20, timeout=_TIMEOUT_SECONDS))
      path.chmod(0o644)                    # pooch leaves 0600, but a data folder is often shared
      return
    except _MIRROR_ERRORS as error:
      failures.append(f'  {url}: {type(error).__name__}: {error}')
    except OSError as error:               # what is left is our own disk
      raise OSError(f'{path} is not there, and cannot be written ({error}); make {path.parent} '
                    f'writable, or point {DATA_DIR_VARIABLE} to a folder that is, or put the file '
                    'there by hand') from error
  raise FileNotFoundError(
      f'{path} is not there, and no mirror gave it:\n' + '\n'.join(failures) +
      f'\nPut the file ({file.size} bytes, SHA-256 {file.sha256}) there by hand, or point '
      f'{DATA_DIR_VARIABLE} to a folder that holds {file.path}.')
