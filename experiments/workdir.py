"""The folder of a run: it belongs to one config, and says so."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pathlib
import tempfile
from typing import Any

import ml_collections

from sparsejax.codec.atomic import write_atomically
from sparsejax.paths import flatten

CONFIG_FILE = 'config.json'


def config_text(config: ml_collections.ConfigDict) -> str:
  """Returns the config as JSON with sorted keys, the text its hash is of."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True) + '\n'


def config_hash(config: ml_collections.ConfigDict) -> str:
  """Returns the SHA-256 of the config with every override, hexadecimal."""
  return hashlib.sha256(config_text(config).encode()).hexdigest()


def check(folder: str | pathlib.Path, config: ml_collections.ConfigDict) -> pathlib.Path:
  """Makes the folder, or checks that it belongs to this config; returns its path.

  Raises:
    ValueError: if it holds a run of another config; the message shows the difference.
    OSError: if it cannot be written, or the disk is full.
  """
  folder = pathlib.Path(folder)
  path = folder / CONFIG_FILE
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as probe:
      probe.write(b'x' * 4096)
      probe.flush()
      os.fsync(probe.fileno())
    stored = path.read_bytes() if path.exists() else None
  except OSError as error:
    what = 'is on a full disk' if error.errno == errno.ENOSPC else 'cannot be used'
    raise OSError(f'workdir {folder} {what} ({error.strerror}); choose another --workdir or free '
                  'it') from error
  if stored is None:
    return folder
  try:
    before = json.loads(stored)
    if not isinstance(before, dict):
      raise ValueError(f'it holds a {type(before).__name__}')
  except ValueError as error:               # JSONDecodeError and UnicodeDecodeError are ValueErrors
    raise ValueError(f'{path} is damaged: {error}; restore it from a copy, or choose another '
                     '--workdir') from error
  now = json.loads(config_text(config))
  if before != now:
    raise ValueError(f'workdir {folder} holds a run of another config; use another --workdir, or '
                     f'its own config. Difference:\n{difference(before, now)}')
  return folder


def claim(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
  """Writes the config into the folder, which is this run's from then on."""
  write_atomically(folder / CONFIG_FILE, config_text(config).encode())


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
