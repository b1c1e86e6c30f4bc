"""What every timed training step has in common, whichever framework runs it.

Both frameworks read their constants here, start from the same weights and see the same images, so
that a row of the table differs from the next by the framework or the method alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NETWORKS = ('lenet_300_100', 'lenet_5_caffe')
METHODS = ('dense', 'l0', 'vd')

LEARNING_RATE = 1e-3
EXAMPLES = 60_000          # as MNIST: the mean NLL runs over so many terms
IMAGE_SHAPE = (28, 28, 1)
CLASSES = 10
SCALE = 1 / 255            # uint8 -> [0, 1]

L0_STRENGTH = 0.1          # nats per weight in use: the paper's 0.1 / N, times N
L0_DROP_RATE = 0.5
VD_STRENGTH = 1.0
VD_CLIP = 8.0              # bound of |log alpha| in the KL
VD_INIT_LOG_SIGMA2 = -10.0


class Data(NamedTuple):
  """uint8 images (n, 28, 28, 1) and int32 labels (n,)."""

  images: np.ndarray
  labels: np.ndarray


def synthetic_data(examples: int = EXAMPLES, seed: int = 0) -> Data:
  """Returns images that can be learnt: a dark picture per class under noise, a fifth of it lit.

  As in MNIST most pixels are 0, and the classes are told apart within some dozen steps. Real data
  would be no faster or slower: the time of a dense product does not depend on its numbers.
  """
  rng = np.random.default_rng(seed)
  lit = rng.random((CLASSES, *IMAGE_SHAPE)) < 0.2
  labels = rng.integers(0, CLASSES, examples).astype(np.int32)
  noise = rng.integers(128, 256, (examples, *IMAGE_SHAPE), dtype=np.uint8)
  return Data(np.where(lit[labels], noise, np.uint8(0)), labels)


def batches(examples: int, batch_size: int, steps: int, seed: int = 1) -> np.ndarray:
  """Returns the order of one epoch in calls of `steps` batches, int32 (calls, steps, batch_size).

  Raises:
    ValueError: if one call needs more images than there are.
  """
  calls = examples // (steps * batch_size)
  if calls == 0:
    raise ValueError(f'{steps} steps of {batch_size} images exceed the {examples} images; lower '
                     '--steps or --batch_size')
  order = np.random.default_rng(seed).permutation(examples).astype(np.int32)
  return order[:calls * steps * batch_size].reshape(calls, steps, batch_size)
