"""Text for language models: windows of symbols, the label of each is the next symbol.

Tiny Shakespeare is the file of A. Karpathy, 2015, "The unreasonable effectiveness of recurrent
neural networks"; the first 90 % are for training, as usual, and the last 10 % for testing.

Windows do not overlap. Those of the loaders here are independent of each other: a network starts
each from its zero state, and the first symbols of a window are guessed without what came before, so
that figures are slightly worse than those of a network that carries its state on through the text.
For that, see continuous_text.py.
"""
import dataclasses
import functools
import hashlib
import os

import numpy as np

from experiments.datasets import fetch
from experiments.datasets.dataset import Dataset

WINDOW = 64                                # symbols
TINY_SHAKESPEARE = fetch.RemoteFile(
    path='tinyshakespeare/input.txt', size=1_115_394,
    sha256='86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed',
    urls=('https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/'
          'input.txt',))
# W. Shakespeare, Sonnet 18: lines that a few seconds of training can learn.
VERSES = ('shall i compare thee to a summer day\n', 'thou art more lovely and more temperate\n',
          'rough winds do shake the darling buds of may\n',
          'and summer lease hath all too short a date\n')
VERSES_WINDOW = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Text(Dataset):
  """Windows of a text, split into training and test, and a published validation part if any.

  Attributes:
    name: the name it is loaded by.
    classes: number of symbols; all numbers lie in [0, classes).
    train_images, test_images: (N, T), the symbols of each window; uint8 up to 256 classes, else
      uint16.
    train_labels, test_labels: int32, (N, T), the symbol that follows each.
    class_names: one symbol a class.
    note: what a reader of a result must know, or ''.
    validation_images, validation_labels: as those for testing; None where no part is published.
  Raises: ValueError if an array has another shape or dtype, or a symbol is out of range.
  """
  validation_images: np.ndarray | None = None
  validation_labels: np.ndarray | None = None

  def __post_init__(self):
    super().__post_init__()
    images, labels = self.validation_images, self.validation_labels
    if (images is None) != (labels is None):
      raise ValueError(f'{self.name}: of the validation windows and their labels one is missing; '
                       'give both or none')
    if images is not None and labels is not None:
      where = f'{self.name}/validation'
      self.check_split(where, images, labels)
      if images.shape[1] != self.train_images.shape[1]:
        raise ValueError(f'{where}: windows have {images.shape[1]} symbols, training windows '
                         f'{self.train_images.shape[1]}; both must have as many')
      for field, array in (('validation_images', images), ('validation_labels', labels)):
        view = array.view()
        view.flags.writeable = False
        object.__setattr__(self, field, view)

  @functools.cached_property
  def hash(self) -> str:
    """As `Dataset.hash`; a validation part, if any, comes after the four arrays."""
    digest = hashlib.sha256()
    for field in (f'{split}_{kind}' for split in ('train', 'test', 'validation')
                  for kind in ('images', 'labels')):
      array = getattr(self, field)
      if array is not None:
        digest.update(f'{field} {array.dtype.name} {",".join(map(str, array.shape))}\n'.encode())
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder('<')).data)
    return digest.hexdigest()

  def check_names(self) -> None:
    check_symbols(self.name, self.classes, self.class_names)

  def check_split(self, where: str, images: np.ndarray, labels: np.ndarray) -> None:
    dtype = symbol_dtype(self.classes)
    if images.dtype != dtype or images.ndim != 2:
      raise ValueError(f'{where}: windows are {images.dtype} {images.shape}; need {dtype} (N, T)')
    if labels.dtype != np.int32 or labels.shape != images.shape:
      raise ValueError(f'{where}: labels are {labels.dtype} {labels.shape}; need int32 '
                       f'{images.shape}, one for each symbol')
    if images.size == 0:
      raise ValueError(f'{where}: no symbols; give at least one window')
    highest, lowest = max(images.max(), labels.max()), labels.min()
    if lowest < 0 or highest >= self.classes:
      raise ValueError(f'{where}: symbols run from {min(lowest, images.min())} to {highest}; need '
                       f'0 to {self.classes - 1}')

  def check_shapes(self) -> None:
    if self.train_images.shape[1] != self.test_images.shape[1]:
      raise ValueError(f'{self.name}: training windows have {self.train_images.shape[1]} symbols, '
                       f'test windows {self.test_images.shape[1]}; both must have as many')


def symbol_dtype(classes: int) -> np.dtype:
  """Returns the smallest of uint8 and uint16 that holds so many symbols."""
  return np.dtype(np.uint8 if classes <= 256 else np.uint16)


def check_symbols(name: str, classes: int, class_names: tuple[str, ...]) -> None:
  """Raises ValueError unless each of 1 to 65,536 symbols has one name."""
  if len(class_names) != classes or not 1 <= classes <= 2**16:
    raise ValueError(f'{name}: {len(class_names)} symbols named for {classes} classes; give one '
                     f'name a class, of 1 to {2**16}')


def load_tiny_shakespeare(data_dir: str | os.PathLike | None = None,
                          window: int = WINDOW) -> Text:
  """Returns tiny Shakespeare, 65 symbols: 15,685 training and 1,742 test windows of 64 symbols.

  Raises: as `fetch.fetch`.
  """
  text = fetch.fetch(TINY_SHAKESPEARE, data_dir).read_text(encoding='ascii')
  first = len(text) * 9 // 10
  return from_texts('tiny_shakespeare', text[:first], text[first:], window,
                    note=f'windows of {window} symbols, each from a zero state')


def load_embedded(data_dir: str | os.PathLike | None = None) -> Text:
  """Returns four verses in random order, over and over: nothing to fetch, seconds to train on.

  300 verses for training and 60 for testing, drawn alike: it shows that learning works, and no
  generalisation.
  """
  del data_dir                             # nothing to fetch
  text = verses(360)
  return from_texts('embedded_text', ''.join(text[:300]), ''.join(text[300:]), VERSES_WINDOW,
                    note='four verses over and over: the test text holds nothing new')


def verses(count: int) -> list[str]:
  """Returns `count` verses, drawn with a fixed seed; fewer are the first of more."""
  return [VERSES[i] for i in np.random.PCG64(0).random_raw(count) % len(VERSES)]


def from_texts(name: str, train: str, test: str, window: int, note: str = '',
               validation: str | None = None) -> Text:
  """Cuts texts into windows; symbols are those of all, in the order of their code points.

  What fills no whole window, and the label after it, is left out.

  Raises:
    ValueError: for a window below 1, a text shorter than one window, or more than 65,536 symbols.
  """
  if window < 1:
    raise ValueError(f'{name}: window={window} must be at least 1')
  parts = {'train': train, 'test': test} | ({} if validation is None else
                                            {'validation': validation})
  symbols = sorted(set().union(*parts.values()))
  index = {symbol: i for i, symbol in enumerate(symbols)}
  splits: dict[str, np.ndarray] = {}
  for split, text in parts.items():
    count = (len(text) - 1) // window
    if count < 1:
      raise ValueError(f'{name}/{split} has {len(text)} symbols, too few for a window of {window} '
                       'and the symbol after it')
    codes = np.array([index[symbol] for symbol in text[:count * window + 1]],
                     symbol_dtype(len(symbols)))
    splits[f'{split}_images'] = codes[:-1].reshape(count, window)
    splits[f'{split}_labels'] = codes[1:].reshape(count, window).astype(np.int32)
  return Text(name=name, classes=len(symbols), class_names=tuple(symbols), note=note,
              **splits)
