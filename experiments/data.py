"""The arrays of a run: the training set of a config, what is held out of it, and the whole."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_collections
import numpy as np

from experiments import datasets
from experiments.names import require_names


class Data(NamedTuple):
  """The arrays of a run. Without a held-out part, `watched` are training images.

  Attributes:
    images, labels: for training. watched_images, watched_labels: for the learning curve.
    watched: 'validation' or 'train', which the two are.
    dataset: the whole, with the test set.
  """

  images: np.ndarray
  labels: np.ndarray
  watched_images: np.ndarray
  watched_labels: np.ndarray
  watched: str
  dataset: Any

  @property
  def names(self) -> dict[str, str]:
    """Names in the metrics of what is measured on the watched images, without noise."""
    return {'error_percent': f'{self.watched}_error_percent',
            'nll_nats': f'{self.watched}{"_deployed" if self.watched == "train" else ""}_nll_nats'}


def load(config: ml_collections.ConfigDict) -> Data:
  """Returns the data of the config, with the held-out part taken from the training set.

  A data set with a published validation set holds that out. With `config.sequence` a long text is
  cut into windows, of `batch_size` texts side by side.
  """
  dataset: Any = datasets.load(config.dataset)
  if hasattr(dataset, 'windows') != ('sequence' in config):
    raise ValueError(f'config.sequence must be there for a continuous text and only for one; '
                     f'{config.dataset} is {"one" if hasattr(dataset, "windows") else "none"}: '
                     "give {'length': tokens of a window}, or leave it out")
  if 'sequence' in config:
    require_names(config.sequence, ('length',), 'config.sequence')
    dataset = dataset.windows(config.batch_size, config.sequence.length)
    if config.validation_examples or config.training_examples % config.batch_size:
      raise ValueError(f'windows of a text stand in the order of time: config.validation_examples='
                       f'{config.validation_examples} must be 0, and config.training_examples='
                       f'{config.training_examples} a multiple of the batch size')
  own = getattr(dataset, 'validation_images', None)
  if own is not None and config.validation_examples:
    raise ValueError(f'{config.dataset} has a validation set of its own; set '
                     f'config.validation_examples=0 in place of {config.validation_examples}')
  images, labels, held_images, held_labels = datasets.hold_out(
      dataset, config.validation_examples, config.seed)
  if own is not None:
    held_images, held_labels = own, dataset.validation_labels
  if config.training_examples > len(images):
    raise ValueError(f'config.training_examples={config.training_examples} exceeds the '
                     f'{len(images)} of {config.dataset} that are not held out; 0 takes all')
  if config.training_examples:
    images, labels = images[:config.training_examples], labels[:config.training_examples]
  if len(held_images):
    return Data(images, labels, held_images, held_labels, 'validation', dataset)
  watched = min(5000, len(images)) // config.batch_size * config.batch_size
  watched = watched if 'sequence' in config else 5000
  return Data(images, labels, images[:watched], labels[:watched], 'train', dataset)
