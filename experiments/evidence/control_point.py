"""A control as a point: a config derived from another network's, perhaps with a teacher."""

from __future__ import annotations

import json
import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections

from experiments import build
from experiments.data import Data
from experiments.evidence.code_hash import code_hash
from experiments.evidence.point import deployed_file
from experiments.workdir import config_hash
from sparsejax import codec
from sparsejax.training.evaluate import jit_logits
from sparsejax.training.fit import Recipe
from sparsejax.transfer.distillation import distillation


class Teacher(NamedTuple):
  """The big network: its own point, and how its logits are taught."""

  point: ControlPoint
  temperature: float
  hard_weight: float


class ControlPoint(NamedTuple):
  """One control of one network; stands where a `point.Point` may stand.

  Attributes:
    config: 'control:<name>'. config_json: the whole derived config. seed: as in it.
    teacher: whose logits are the targets beside the labels, or None.
  """

  config: str
  config_json: str
  seed: int
  teacher: Teacher | None = None
  overrides: Any = {}
  deployment: None = None

  def built(self) -> ml_collections.ConfigDict:
    """Returns the whole config."""
    return ml_collections.ConfigDict(json.loads(self.config_json))

  def folder(self, root: pathlib.Path) -> pathlib.Path:
    """Returns the folder: the same control of two networks may be one training."""
    config = self.built()
    taught = ''
    extra: tuple[str, ...] = ()
    if self.teacher:
      extra = (distillation.__module__,)
      taught = f'-T{self.teacher.temperature:g}-{self.teacher.hard_weight:g}'
    name = self.config.removeprefix('control:')
    return root / 'controls' / (
        f'{name}_{config.dataset}_seed{self.seed}-{config_hash(config)[:10]}-'
        f'{code_hash(config, extra)[:8]}{taught}')

  def prepare(self, recipe: Recipe, data: Data, root: pathlib.Path) -> tuple[Recipe, Any]:
    """Returns the recipe to train by, and its targets: labels, and the teacher's logits if any."""
    labels = jnp.asarray(data.labels)
    if self.teacher is None:
      return recipe, labels
    big = build.recipe(self.teacher.point.built(), data.images)
    variables = codec.read(self.teacher.point.folder(root) / deployed_file(0))
    logits = jit_logits(big)(variables, jnp.asarray(data.images))
    loss = distillation(self.teacher.temperature, self.teacher.hard_weight)
    return recipe._replace(loss=loss), {'labels': labels, 'teacher_logits': logits}
