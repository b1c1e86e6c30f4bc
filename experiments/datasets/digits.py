"""The 8x8 digits that come with scikit-learn: no network, seconds to train on, for smoke runs.

1,797 grey images, the test part of UCI's "Optical Recognition of Handwritten Digits" (E. Alpaydin,
C. Kaynak, 1998).
"""
import os

import numpy as np
import sklearn.datasets
import sklearn.model_selection

from experiments.datasets.dataset import Dataset

TEST_EXAMPLES = 360                        # a fifth; 1,437 are left for training
SPLIT_SEED = 0
_LEVELS = 16                               # a pixel counts the ink dots in a 4x4 block


def load(data_dir: str | os.PathLike | None = None) -> Dataset:
  """Returns digits: images (1437, 8, 8, 1) for training, (360, 8, 8, 1) for testing.

  The split is scikit-learn's `train_test_split(test_size=360, stratify=labels, random_state=0)`,
  each part put back into the original order. Ink counts 0..16 become 0..255, rounded to the nearest
  (halves up).
  """
  del data_dir                             # nothing to fetch
  bunch = sklearn.datasets.load_digits()
  labels = bunch.target.astype(np.int32)
  ink = bunch.images.astype(np.int64)      # (1797, 8, 8)
  images = ((255 * ink + _LEVELS // 2) // _LEVELS).astype(np.uint8)[..., np.newaxis]
  train, test = sklearn.model_selection.train_test_split(
      np.arange(len(labels)), test_size=TEST_EXAMPLES, stratify=labels, random_state=SPLIT_SEED)
  train, test = np.sort(train), np.sort(test)
  return Dataset(
      name='digits', classes=10, class_names=tuple('0123456789'),
      train_images=images[train], train_labels=labels[train],
      test_images=images[test], test_labels=labels[test],
      note='8x8 images; stratified random split 1437/360 with seed 0, not a published one: '
           'training and test share writers')
