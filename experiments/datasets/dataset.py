"""A labelled image set in memory, its fingerprint, and a held-out part of its training examples."""
import dataclasses
import functools
import hashlib
import operator

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """A labelled image set, split into training and test.

  The arrays are seen through read-only views, so that the cached `hash` stays true.

  Attributes:
    name: the name it is loaded by.
    classes: number of classes; labels lie in [0, classes).
    train_images, test_images: uint8, (N, H, W, C), values 0..255 as stored, not standardised.
    train_labels, test_labels: int32, (N,).
    class_names: one name a class, in label order.
    note: what a reader of a result must know about this copy (lossy, no published split), or ''.
  Raises: ValueError if an array has another shape or dtype, counts differ, or a label is out of
    range.
  """
  name: str
  classes: int
  train_images: np.ndarray
  train_labels: np.ndarray
  test_images: np.ndarray
  test_labels: np.ndarray
  class_names: tuple[str, ...]
  note: str = ''

  def __post_init__(self):
    self.check_names()
    for split in ('train', 'test'):
      images, labels = getattr(self, f'{split}_images'), getattr(self, f'{split}_labels')
      self.check_split(f'{self.name}/{split}', images, labels)
      for field, array in ((f'{split}_images', images), (f'{split}_labels', labels)):
        view = array.view()               # the caller's own array keeps its flags
        view.flags.writeable = False
        object.__setattr__(self, field, view)
    self.check_shapes()

  def check_names(self) -> None:
    """Raises ValueError unless each class has one name."""
    if len(self.class_names) != self.classes:
      raise ValueError(f'{self.name}: {len(self.class_names)} class names for {self.classes} '
                       'classes; give one name a class')

  def check_split(self, where: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Raises ValueError for arrays of one split that are not what the class says."""
    if images.dtype != np.uint8 or images.ndim != 4:
      raise ValueError(f'{where}: images are {images.dtype} {images.shape}; need uint8 '
                       '(N, H, W, C)')
    if labels.dtype != np.int32 or labels.ndim != 1:
      raise ValueError(f'{where}: labels are {labels.dtype} {labels.shape}; need int32 (N,)')
    if len(images) != len(labels):
      raise ValueError(f'{where}: {len(images)} images but {len(labels)} labels; the files do not '
                       'belong together')
    if len(labels) == 0:
      raise ValueError(f'{where}: no examples; give at least one')
    if labels.min() < 0 or labels.max() >= self.classes:
      raise ValueError(f'{where}: labels run from {labels.min()} to {labels.max()}; '
                       f'need 0 to {self.classes - 1}')

  def check_shapes(self) -> None:
    """Raises ValueError unless training and test examples have the same shape."""
    if self.train_images.shape[1:] != self.test_images.shape[1:]:
      raise ValueError(f'{self.name}: training images are {self.train_images.shape[1:]}, test '
                       f'images {self.test_images.shape[1:]}; both must have the same (H, W, C)')

  @functools.cached_property
  def hash(self) -> str:
    """SHA-256, in hex, of the four arrays: for each a line 'field dtype d0,d1,...', then its bytes.

    Bytes are row-major and little-endian, so the fingerprint is the same on every machine. Name,
    classes and note are not part of it: it answers "the same numbers?".
    """
    digest = hashlib.sha256()
    for field in ('train_images', 'train_labels', 'test_images', 'test_labels'):
      array = getattr(self, field)
      digest.update(f'{field} {array.dtype.name} {",".join(map(str, array.shape))}\n'.encode())
      digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder('<')).data)
    return digest.hexdigest()


def hold_out(dataset: Dataset, validation_examples: int,
             seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Takes a random part of the training set away for validation; the test set is not looked at.

  A uniform draw without replacement, the same for a seed on every machine and NumPy: examples are
  ordered by raw PCG64 output, whose stream NumPy guarantees, as it does not for
  `Generator.permutation` (NEP 19). Both parts keep the order of the training set.

  Args:
    dataset: N training examples.
    validation_examples: how many to hold out, v in [0, N); with 0 everything is for training.
    seed: non-negative.
  Returns: training images (N - v, H, W, C), training labels (N - v,), validation images
    (v, H, W, C), validation labels (v,).
  Raises: ValueError for a number out of range.
  """
  validation = held_out(dataset, validation_examples, seed)
  if not validation.any():             # without a copy
    images, labels = dataset.train_images, dataset.train_labels
    return images, labels, images[:0], labels[:0]
  return (dataset.train_images[~validation], dataset.train_labels[~validation],
          dataset.train_images[validation], dataset.train_labels[validation])


def held_out(dataset: Dataset, validation_examples: int, seed: int) -> np.ndarray:
  """Returns which training examples `hold_out` takes away, bool (N,)."""
  count = len(dataset.train_labels)
  held = operator.index(validation_examples)
  if not 0 <= held < count:
    raise ValueError(f'validation_examples={held} of the {count} training examples of '
                     f'{dataset.name}; give 0 to {count - 1}, so that some are left for training')
  if operator.index(seed) < 0:
    raise ValueError(f'seed={seed} of hold_out is negative; give 0 or more')
  validation = np.zeros(count, bool)
  if held == 0:
    return validation
  order = np.argsort(np.random.PCG64(seed).random_raw(count), kind='stable')
  validation[order[:held]] = True
  return validation
