"""Checkpoints by Orbax: a flat dict of named arrays, whose names do not depend on optax's classes.

The trees of `TrainState` are NamedTuples of the optimiser inside dicts of the method; stored flat,
by path, a checkpoint can be checked leaf by leaf and read with any version of either.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from sparsejax.training.fit import TrainState

Array = jax.Array


class Checkpoints:
  """The checkpoints of one run, newest last; the newest `max_to_keep` are kept.

  Args:
    folder: made if missing; absolute or relative to the working directory.
    max_to_keep: older ones are removed after a newer one is complete.
  """

  def __init__(self, folder: str | pathlib.Path, max_to_keep: int = 2):
    options = ocp.CheckpointManagerOptions(max_to_keep=max_to_keep,
                                           enable_async_checkpointing=False)
    self._manager = ocp.CheckpointManager(pathlib.Path(folder).absolute(), options=options)

  def save(self, epoch: int, state: TrainState) -> None:
    """Writes the state after `epoch` whole epochs; it appears under its name only when complete."""
    self._manager.save(epoch, args=ocp.args.StandardSave(named_leaves(state)))
    self._manager.wait_until_finished()

  def latest_epoch(self) -> int | None:
    """Returns the number of epochs in the newest checkpoint, or None without one."""
    return self._manager.latest_step()

  def restore(self, like: TrainState) -> tuple[int, TrainState]:
    """Returns (epochs done, state) of the newest checkpoint.

    Args:
      like: a state of the same recipe, for names, shapes and dtypes.

    Raises:
      ValueError: if there is none, or its leaves are not those of `like`.
    """
    epoch = self.latest_epoch()
    if epoch is None:
      raise ValueError(f'no checkpoint in {self._manager.directory}; start without resuming')
    wanted = named_leaves(like)
    try:
      stored = self._manager.restore(epoch, args=ocp.args.StandardRestore(wanted))
    except (ValueError, KeyError, OSError) as error:
      raise ValueError(f'checkpoint {self._manager.directory / str(epoch)} cannot be read into this '
                       f'run: {error}; remove that folder to use the one before') from error
    return epoch, with_leaves(like, stored)

  def close(self) -> None:
    self._manager.close()


def named_leaves(state: TrainState) -> dict[str, Array]:
  """Returns {path: array}; the key is stored as its raw words."""
  leaves = jax.tree_util.tree_flatten_with_path(_raw_key(state))[0]
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def with_leaves(like: TrainState, leaves: Mapping[str, Any]) -> TrainState:
  """Returns the state with these leaves, the inverse of `named_leaves`."""
  wanted = named_leaves(like)
  if set(wanted) != set(leaves):
    odd = sorted(set(wanted) ^ set(leaves))
    raise ValueError(f'checkpoint and run differ in the leaves {", ".join(odd[:5])}; use the config '
                     'the checkpoint was written with')
  for name, leaf in wanted.items():
    if np.shape(leaves[name]) != leaf.shape:
      raise ValueError(f'checkpoint leaf {name} has shape {np.shape(leaves[name])}, the run '
                       f'{leaf.shape}; use the config the checkpoint was written with')
  values = [jnp.asarray(leaves[name], leaf.dtype) for name, leaf in wanted.items()]
  raw = jax.tree.unflatten(jax.tree.structure(_raw_key(like)), values)
  return raw._replace(key=jax.random.wrap_key_data(raw.key, impl=jax.random.key_impl(like.key)))


def _raw_key(state: TrainState) -> TrainState:
  return state._replace(key=jax.random.key_data(state.key))
