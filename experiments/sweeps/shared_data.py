"""The data of a program's members: on the device once, with rows where seeds hold out others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from experiments import datasets
from experiments.data import Data, load


class SharedData(NamedTuple):
  """Arrays that all members share, and which of their rows are whose.

  Attributes:
    images, labels: for training. rows: int32 (members, n), those of a member in its order; None
      where each has all.
    watched_images, watched_labels: for the learning curve. watched_rows: as `rows`.
    names: of what is measured on these, see `Data.names`.
  """

  images: np.ndarray
  labels: np.ndarray
  rows: np.ndarray | None
  watched_images: np.ndarray
  watched_labels: np.ndarray
  watched_rows: np.ndarray | None
  names: dict[str, str]


def shared_data(configs: Sequence[ml_collections.ConfigDict]) -> SharedData:
  """Returns the data of configs that agree in all fields of the data but the seed."""
  data: Data = load(configs[0])
  seeds = [config.seed for config in configs]
  if len(set(seeds)) == 1 or not configs[0].validation_examples:
    return SharedData(data.images, data.labels, None, data.watched_images, data.watched_labels,
                      None, data.names)
  whole: Any = data.dataset
  held = [datasets.held_out(whole, configs[0].validation_examples, seed) for seed in seeds]
  rows = np.stack([np.flatnonzero(~own)[:len(data.images)] for own in held]).astype(np.int32)
  watched = np.stack([np.flatnonzero(own) for own in held]).astype(np.int32)
  images, labels = whole.train_images, whole.train_labels
  return SharedData(images, labels, rows, images, labels, watched, data.names)


def own_images(data: SharedData, index: int) -> np.ndarray:
  """Returns the training images of one member."""
  return data.images if data.rows is None else data.images[data.rows[index]]
