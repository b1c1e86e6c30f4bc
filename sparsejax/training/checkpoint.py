"""Checkpoints by Orbax: a flat dict of named arrays, whose names do not depend on optax's classes.

The trees of `TrainState` are NamedTuples of the optimiser inside dicts of the method; stored flat,
by path, a checkpoint can be checked leaf by leaf and read with any version of either. Each has a
file `about.json` with the form of every array and the SHA-256 of every file, because Orbax hands
out an array with a flipped bit as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from sparsejax.codec.atomic import write_atomically
from sparsejax.training.fit import TrainState

Array = jax.Array
ABOUT_FILE = 'about.json'


class Checkpoints:
  """The checkpoints of one run, newest last; the newest `max_to_keep` are kept.

  A checkpoint is complete once its about.json is there. One that is not was cut off while it was
  written, and is removed.

  Args:
    folder: made if missing; absolute or relative to the working directory.
    max_to_keep: older ones are removed after a newer one is there.
  """

  def __init__(self, folder: str | pathlib.Path, max_to_keep: int = 2):
    self._folder = pathlib.Path(folder).absolute()
    options = ocp.CheckpointManagerOptions(max_to_keep=max_to_keep,
                                           enable_async_checkpointing=False)
    self._manager = ocp.CheckpointManager(self._folder, options=options)
    for epoch in self._manager.all_steps():
      if not (self._folder / str(epoch) / ABOUT_FILE).exists():
        self._manager.delete(epoch)

  def save(self, epoch: int, state: TrainState) -> None:
    """Writes the state after `epoch` whole epochs; it counts only once it is complete.

    Raises:
      OSError: if it cannot be written, such as on a full disk.
    """
    leaves = _filled(named_leaves(state))
    path = self._folder / str(epoch)
    try:
      self._manager.save(epoch, args=ocp.args.StandardSave(leaves), force=True)
      self._manager.wait_until_finished()
      about = {'leaves': _forms(leaves), 'files': _digests(path)}
      write_atomically(path / ABOUT_FILE, json.dumps(about, indent=1).encode())
    except Exception as error:  # Orbax's errors for a full disk are of several kinds
      raise OSError(f'checkpoint {path} cannot be written: {_first_line(error)}; free the disk and '
                    'run the same command again') from error

  def latest_epoch(self) -> int | None:
    """Returns the number of epochs in the newest checkpoint, or None without one."""
    return self._manager.latest_step()

  def restore(self, like: TrainState) -> tuple[int, TrainState]:
    """Returns (epochs done, state) of the newest checkpoint.

    Args:
      like: a state of the same recipe, for names, shapes and dtypes.

    Raises:
      ValueError: if there is none, it is damaged, or its leaves are not those of `like`.
    """
    epoch = self.latest_epoch()
    if epoch is None:
      raise ValueError(f'no checkpoint in {self._folder}; start without resuming')
    path = self._folder / str(epoch)
    wanted = _filled(named_leaves(like))
    _require_same_forms(path, _sound_forms(path), _forms(wanted))
    try:
      stored = self._manager.restore(epoch, args=ocp.args.StandardRestore(wanted))
    except Exception as error:  # Orbax raises a bare Exception for bytes it cannot read
      raise _damaged(path, _first_line(error)) from error
    return epoch, with_leaves(like, stored)

  def close(self) -> None:
    self._manager.close()


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


def _filled(leaves: Mapping[str, Array]) -> dict[str, Array]:
  """Returns the leaves without empty arrays, which Orbax refuses and a shape says all about."""
  return {name: leaf for name, leaf in leaves.items() if leaf.size}


def _forms(leaves: Mapping[str, Any]) -> dict[str, str]:
  """Returns {path: 'float32 (3, 2)'}."""
  return {name: f'{leaf.dtype} {tuple(leaf.shape)}' for name, leaf in sorted(leaves.items())}


def _digests(path: pathlib.Path) -> dict[str, str]:
  """Returns {file in the folder: SHA-256}, but for about.json itself."""
  files = sorted(file for file in path.rglob('*') if file.is_file() and file.name != ABOUT_FILE)
  return {file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
          for file in files}


def _sound_forms(path: pathlib.Path) -> dict[str, str]:
  """Returns the forms of the arrays, once every file is as it was written."""
  try:
    about = json.loads((path / ABOUT_FILE).read_bytes())
    forms, digests = dict(about['leaves']), dict(about['files'])
  except (OSError, ValueError, TypeError, KeyError) as error:
    raise _damaged(path, f'{ABOUT_FILE}: {_first_line(error)}') from error
  found = _digests(path)
  for name in sorted(digests.keys() | found.keys()):
    if name not in found:
      raise _damaged(path, f'{name} is missing')
    if digests.get(name) != found[name]:
      raise _damaged(path, f'{name} is not as it was written (SHA-256 differs)')
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


def _damaged(path: pathlib.Path, what: str) -> ValueError:
  return ValueError(f'checkpoint {path} is damaged: {what}; remove that folder to go on from the '
                    'checkpoint before it, or from the start if there is none')


def _first_line(error: Exception) -> str:
  return (str(error) or type(error).__name__).splitlines()[0][:200]


def _raw_key(state: TrainState) -> TrainState:
  return state._replace(key=jax.random.key_data(state.key))
