"""Checkpoints by Orbax: a flat dict of named arrays, whose names do not depend on optax's classes.

The trees of `TrainState` are NamedTuples of the optimiser inside dicts of the method; stored flat,
by path, a checkpoint can be checked leaf by leaf and read with any version of either. They hold
NumPy arrays, so that they say nothing about devices: what was written on one can be read on eight.

  <folder>/<number>/default/     the arrays, by Orbax
                   /notes.json   what the caller keeps beside them
                   /about.json   the form of every array and the SHA-256 of every file

The SHA-256 is there because Orbax hands out an array with a flipped bit as if nothing had happened.
A checkpoint is written into a hidden folder that takes its name at the end, and loses it before it
is removed: whoever is killed leaves whole checkpoints and hidden folders, which the next save
removes. Nothing is removed by reading.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from sparsejax.codec.atomic import write_atomically
from sparsejax.training.fit import TrainState

Array = jax.Array
T = TypeVar('T')
ABOUT_FILE, NOTES_FILE, ARRAYS_FOLDER = 'about.json', 'notes.json', 'default'


class DamagedCheckpoint(ValueError):
  """A checkpoint whose files are not as they were written."""


class Checkpoints:
  """Numbered checkpoints of one run, such as by epoch, of which the newest `max_to_keep` are kept.

  One process writes into a folder at a time; of several processes of one training, one. What it
  saves must be whole on its own devices.

  Args:
    folder: made by the first save; absolute or relative to the working directory.
    max_to_keep: older ones are removed after a newer one is there.
  """

  def __init__(self, folder: str | pathlib.Path, max_to_keep: int = 2):
    self.folder = pathlib.Path(folder).absolute()
    self._max_to_keep = max_to_keep
    # Orbax would wait for the other processes of a training; this one writes and reads alone.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()},
        barrier_sync_key_prefix=f'sparsejax_{jax.process_index()}')
    self._orbax = ocp.Checkpointer(ocp.StandardCheckpointHandler(multiprocessing_options=alone),
                                   multiprocessing_options=alone)

  def numbers(self) -> list[int]:
    """Returns the numbers of the checkpoints, oldest first; one may turn out to be damaged."""
    if not self.folder.is_dir():
      return []
    return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

  def latest_epoch(self) -> int | None:
    """Returns the number of the newest checkpoint, or None without one."""
    return max(self.numbers(), default=None)

  def save(self, number: int, state: TrainState, notes: Any = None) -> None:
    """Writes the state, such as that after `number` whole epochs, in place of any of that number.

    Checkpoints of higher numbers are removed: they are not of the past of this state.

    Args:
      notes: anything that JSON holds, given back by `load`.

    Raises:
      OSError: if it cannot be written, such as on a full disk. Those before it are untouched.
    """
    leaves = _stored(state)
    path = self.folder / str(number)
    new = self.folder / f'.{number}.new'
    try:
      self.folder.mkdir(parents=True, exist_ok=True)
      self._remove_hidden()
      new.mkdir()
      self._orbax.save(new / ARRAYS_FOLDER, args=ocp.args.StandardSave(leaves))
      write_atomically(new / NOTES_FILE, json.dumps(notes).encode())
      about: dict[str, Any] = {'leaves': _forms(leaves), 'files': _digests(new)}
      about['sha256'] = _digest_of(about)
      write_atomically(new / ABOUT_FILE, json.dumps(about, indent=1).encode())
      if path.exists():
        self._hide(path)
      os.replace(new, path)
    except Exception as error:  # Orbax's errors for a full disk are of several kinds
      shutil.rmtree(new, ignore_errors=True)          # room for whoever frees some more
      raise OSError(f'checkpoint {path} cannot be written: {_first_line(error)}; free the disk and '
                    'run the same command again') from error
    kept = [other for other in self.numbers() if other <= number][-self._max_to_keep:]
    for other in self.numbers():
      if other not in kept:
        self._hide(self.folder / str(other))
    self._remove_hidden()

  def load(self, number: int, like: TrainState) -> tuple[TrainState, Any]:
    """Returns (state, notes) of one checkpoint.

    Args:
      like: a state of the same recipe, for names, shapes and dtypes.

    Raises:
      DamagedCheckpoint: if its files are not as they were written.
      ValueError: if its leaves are not those of `like`.
    """
    path = self.folder / str(number)
    wanted = _stored(like)
    _require_same_forms(path, _sound_forms(path), _forms(wanted))
    try:
      stored = self._orbax.restore(path / ARRAYS_FOLDER, args=ocp.args.StandardRestore(wanted))
      # Those of former versions of this library have no notes.
      notes = path / NOTES_FILE
      return with_leaves(like, stored), json.loads(notes.read_bytes()) if notes.exists() else None
    except Exception as error:  # Orbax raises a bare Exception for bytes it cannot read
      raise DamagedCheckpoint(f'checkpoint {path} is damaged: {_first_line(error)}') from error

  def restore(self, like: TrainState,
              warn: Callable[[str], None] = warnings.warn) -> tuple[int, TrainState]:
    """Returns (number, state) of the newest sound checkpoint; `like` as for `load`.

    Damaged ones are skipped, and `warn` told which, and why.

    Raises:
      ValueError: if there is none, none is sound, or its leaves are not those of `like`.
    """
    if not self.numbers():
      raise ValueError(f'no checkpoint in {self.folder}; start without resuming')
    return first_sound([(self.folder / str(number), functools.partial(self._numbered, number, like))
                        for number in reversed(self.numbers())], warn)

  def _numbered(self, number: int, like: TrainState) -> tuple[int, TrainState]:
    return number, self.load(number, like)[0]

  def close(self) -> None:
    self._orbax.close()

  def _hide(self, path: pathlib.Path) -> None:
    """Takes the name from a checkpoint at once; removing it takes a while."""
    os.replace(path, self.folder / f'.{path.name}.old')

  def _remove_hidden(self) -> None:
    for path in self.folder.iterdir():
      if path.name.startswith('.') and path.name.endswith(('.new', '.old')):
        shutil.rmtree(path)


def first_sound(candidates: Sequence[tuple[pathlib.Path, Callable[[], T]]],
                warn: Callable[[str], None]) -> T:
  """Returns what the first of [(checkpoint, load)] gives that does not raise DamagedCheckpoint.

  `warn` is told of those before it.

  Raises:
    ValueError: if all of them are damaged.
  """
  damage: list[str] = []
  for path, load in candidates:
    try:
      found = load()
    except DamagedCheckpoint as error:
      damage.append(str(error))
      continue
    for message in damage:
      warn(f'{message}; it is skipped, and {path} used in its place')
    return found
  raise ValueError('none of the checkpoints can be used, and starting from the beginning is not '
                   f'going on: {"; ".join(damage)}. Restore one from a copy, or use another '
                   '--workdir')


def named_leaves(state: TrainState) -> dict[str, Array]:
  """Returns {path: array}; the key is stored as its raw words."""
  leaves = jax.tree_util.tree_flatten_with_path(_raw_key(state))[0]
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def with_leaves(like: TrainState, leaves: Mapping[str, Any]) -> TrainState:
  """Returns the state with these leaves, the inverse of `named_leaves`."""
  values = [jnp.asarray(leaves[name], leaf.dtype) if leaf.size else leaf
            for name, leaf in named_leaves(like).items()]
  raw = jax.tree.unflatten(jax.tree.structure(_raw_key(like)), values)
  return raw._replace(key=jax.random.wrap_key_data(raw.key, impl=jax.random.key_impl(like.key)))


def _stored(state: TrainState) -> dict[str, np.ndarray]:
  """Returns the leaves without empty arrays, which Orbax refuses and a shape says all about."""
  return {name: np.asarray(leaf) for name, leaf in named_leaves(state).items() if leaf.size}


def _forms(leaves: Mapping[str, Any]) -> dict[str, str]:
  """Returns {path: 'float32 (3, 2)'}."""
  return {name: f'{leaf.dtype} {tuple(leaf.shape)}' for name, leaf in sorted(leaves.items())}


def _digests(path: pathlib.Path) -> dict[str, str]:
  """Returns {file in the folder: SHA-256}, but for about.json itself."""
  files = sorted(file for file in path.rglob('*') if file.is_file() and file.name != ABOUT_FILE)
  return {file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
          for file in files}


def _digest_of(about: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _sound_forms(path: pathlib.Path) -> dict[str, str]:
  """Returns the forms of the arrays, once every file is as it was written."""
  damaged = f'checkpoint {path} is damaged: '
  try:
    about = json.loads((path / ABOUT_FILE).read_bytes())
    forms, digests = dict(about['leaves']), dict(about['files'])
    if about.pop('sha256', None) not in (_digest_of(about), None):   # former versions have none
      raise ValueError('not as it was written (SHA-256 differs)')
    found = _digests(path)
  except (OSError, ValueError, TypeError, KeyError) as error:
    raise DamagedCheckpoint(f'{damaged}{ABOUT_FILE}: {_first_line(error)}') from error
  for name in sorted(digests.keys() | found.keys()):
    if name not in found:
      raise DamagedCheckpoint(f'{damaged}{name} is missing')
    if digests.get(name) != found[name]:
      raise DamagedCheckpoint(f'{damaged}{name} is not as it was written (SHA-256 differs)')
  return forms


def _require_same_forms(path: pathlib.Path, stored: Mapping[str, str],
                        wanted: Mapping[str, str]) -> None:
  """Raises ValueError, naming a few leaves, if checkpoint and run are not of the same form."""
  absent = 'absent'
  different = [f'{name} is {stored.get(name, absent)} there and {wanted.get(name, absent)} here'
               for name in sorted(stored.keys() | wanted.keys())
               if stored.get(name) != wanted.get(name)]
  if different:
    more = f' and {len(different) - 3} more' if len(different) > 3 else ''
    raise ValueError(f'checkpoint {path} is of another run: {"; ".join(different[:3])}{more}; use '
                     'the config the checkpoint was written with')


def _first_line(error: Exception) -> str:
  return (str(error) or type(error).__name__).splitlines()[0][:200]


def _raw_key(state: TrainState) -> TrainState:
  return state._replace(key=jax.random.key_data(state.key))
