"""The folder of a run: it belongs to one config, and says so."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import ml_collections
from packaging.version import InvalidVersion, Version

import sparsejax
from sparsejax.codec.atomic import write_atomically
from sparsejax.paths import flatten

# The second file names the version that wrote the first, which is the config alone: so is its hash.
CONFIG_FILE, VERSION_FILE = 'config.json', 'version.json'
LEDGER_FILE = 'ledger.json'


def config_text(config: ml_collections.ConfigDict) -> str:
  """Returns the config as JSON with sorted keys, the text its hash is of."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True) + '\n'


def config_hash(config: ml_collections.ConfigDict) -> str:
  """Returns the SHA-256 of the config with every override, hexadecimal."""
  return hashlib.sha256(config_text(config).encode()).hexdigest()


def check(folder: str | pathlib.Path, config: ml_collections.ConfigDict) -> pathlib.Path:
  """Makes the folder, or checks that it belongs to this config; returns its path.

  Raises:
    ValueError: if it holds a run of another config; the message shows the difference. If it was
      written by a newer version of this library; the message names both.
    OSError: if it cannot be written, or the disk is full.
  """
  folder = pathlib.Path(folder)
  with _named(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as probe:
      probe.write(b'x' * 4096)
      probe.flush()
      os.fsync(probe.fileno())
  check_config(folder, config)
  return folder


def check_config(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
  """Checks, by reading alone, that the folder belongs to this config or to none; see `check`."""
  before = _stored(folder / CONFIG_FILE)
  if before is None:
    return
  now = json.loads(config_text(config))
  shown = f'Difference:\n{difference(before, now)}' if before != now else 'The config is the same.'
  written_by = (_stored(folder / VERSION_FILE) or {}).get('sparsejax', '0')
  try:
    newer = Version(written_by) > Version(sparsejax.__version__)
  except (InvalidVersion, TypeError) as error:
    raise ValueError(f'{folder / VERSION_FILE} is damaged: version {written_by!r}; restore it from '
                     'a copy, or choose another --workdir') from error
  if newer:
    raise ValueError(f'workdir {folder} holds a run of sparsejax {written_by}, which is newer than '
                     f'this sparsejax, {sparsejax.__version__}; install that version, or use '
                     f'another --workdir. {shown}')
  if before != now:
    raise ValueError(f'workdir {folder} holds a run of another config; use another --workdir, or '
                     f'its own config. {shown}')


def claim(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
  """Writes the config into the folder, which is this run's from then on."""
  version = json.dumps({'sparsejax': sparsejax.__version__}) + '\n'
  write_atomically(folder / VERSION_FILE, version.encode())
  write_atomically(folder / CONFIG_FILE, config_text(config).encode())


@contextlib.contextmanager
def _named(folder: pathlib.Path) -> Iterator[None]:
  """Gives OSErrors from here the name of the folder, and says what to do."""
  try:
    yield
  except OSError as error:
    what = 'is on a full disk' if error.errno == errno.ENOSPC else 'cannot be used'
    raise OSError(f'workdir {folder} {what} ({error.strerror}); choose another --workdir or free '
                  'it') from error


def _stored(path: pathlib.Path) -> dict[str, Any] | None:
  """Returns the object in a file of JSON, None if there is no such file."""
  with _named(path.parent):
    if not path.exists():
      return None
    data = path.read_bytes()
  try:
    found = json.loads(data)
    if not isinstance(found, dict):
      raise ValueError(f'it holds a {type(found).__name__}')
  except ValueError as error:               # JSONDecodeError and UnicodeDecodeError are ValueErrors
    raise ValueError(f'{path} is damaged: {error}; restore it from a copy, or choose another '
                     '--workdir') from error
  return found


def difference(before: dict[str, Any], now: dict[str, Any]) -> str:
  """Returns one line per field that differs: name: before -> now."""
  old, new = flatten(before), flatten(now)
  lines = []
  for name in sorted(old.keys() | new.keys()):
    if old.get(name) != new.get(name) or (name in old) != (name in new):
      was = old.get(name, 'absent')
      becomes = new.get(name, 'absent')
      lines.append(f'  {name.replace("/", ".")}: {was} -> {becomes}')
  return '\n'.join(lines)
