"""Texts with one label each, as padded rows of word numbers; and a small set of such, made here."""
import collections
import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from experiments.datasets.dataset import Dataset
from experiments.datasets.text import symbol_dtype

# Ids 0 to 2 as in the IMDB set of Keras: padding, start of a text, unknown word.
MARKS = ('<pad>', '<start>', '<unknown>')
PAD, START, UNKNOWN = range(len(MARKS))


@dataclasses.dataclass(frozen=True, eq=False)
class Reviews(Dataset):
  """Texts as rows of word numbers with a class each, split into training and test.

  Attributes:
    name: the name it is loaded by.
    classes: number of classes; labels lie in [0, classes).
    train_images, test_images: (N, T), word numbers below len(vocabulary): uint8 if these are at
      most 256, else uint16. Short texts end with `PAD`.
    train_labels, test_labels: int32, (N,).
    class_names: one name a class.
    note: what a reader of a result must know, or ''.
    vocabulary: one word for each number; the first three are `MARKS`.
  Raises: ValueError if an array has another shape or dtype, or a number is out of range.
  """
  vocabulary: tuple[str, ...] = ()

  def check_split(self, where: str, images: np.ndarray, labels: np.ndarray) -> None:
    size = len(self.vocabulary)
    if self.vocabulary[:len(MARKS)] != MARKS or not size <= 2**16:
      raise ValueError(f'{where}: a vocabulary of {size} words that begins with '
                       f'{self.vocabulary[:len(MARKS)]}; need {MARKS}, then words, {2**16} in all')
    if images.dtype != symbol_dtype(size) or images.ndim != 2:
      raise ValueError(f'{where}: texts are {images.dtype} {images.shape}; need '
                       f'{symbol_dtype(size)} (N, T)')
    if images.size == 0 or images.max() >= size:
      raise ValueError(f'{where}: {images.size} words, the highest number '
                       f'{images.max(initial=0)}; need at least one, and 0 to {size - 1}')
    pixels = np.broadcast_to(np.uint8(0), (len(images), 1, 1, 1))
    super().check_split(where, pixels, labels)      # counts and labels, as of images


def vocabulary_of(texts: Iterable[Sequence[str]], words: int) -> tuple[str, ...]:
  """Returns `MARKS` and the `words` most frequent words, equal ones in the order of code points."""
  if not 1 <= words <= 2**16 - len(MARKS):
    raise ValueError(f'words={words} of the vocabulary; give 1 to {2**16 - len(MARKS)}')
  counts = collections.Counter(itertools.chain.from_iterable(texts))
  ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
  return (*MARKS, *(word for word, _ in ordered[:words]))


def encode(texts: Sequence[Sequence[str]], vocabulary: Sequence[str], length: int,
           keep: str = 'first') -> np.ndarray:
  """Returns (N, length) word numbers: `START`, the words, then `PAD` up to the length.

  Args:
    keep: of what is longer (with its `START`), the 'first' or the 'last' `length` numbers.
  Raises: ValueError for another `keep`, or a length below 1.
  """
  if keep not in ('first', 'last'):
    raise ValueError(f"keep={keep!r} is not 'first' or 'last'")
  if length < 1:
    raise ValueError(f'length={length} of a text must be at least 1')
  number = {word: i for i, word in enumerate(vocabulary)}
  rows = np.full((len(texts), length), PAD, symbol_dtype(len(vocabulary)))
  for row, words in zip(rows, texts, strict=True):
    found = [START, *(number.get(word, UNKNOWN) for word in
                      (words[:length - 1] if keep == 'first' else words[-length:]))]
    kept = found[:length] if keep == 'first' or len(words) < length else found[-length:]
    row[:len(kept)] = kept
  return rows


_GOOD, _BAD = ('lovely', 'moving', 'superb'), ('dull', 'awful', 'clumsy')
_REST = ('the', 'film', 'was', 'a', 'story', 'of', 'two', 'brothers', 'in', 'rome', 'and', 'i',
         'saw', 'it', 'twice')


def load_embedded(data_dir: object = None) -> Reviews:
  """Returns 800 reviews of 6 to 11 words for training, 200 for testing: nothing to fetch.

  Words without meaning, one of which is replaced by one of three words of praise or of blame, which
  alone decides the label. So it is known which words a sparse network may keep.
  """
  del data_dir
  draws = np.random.PCG64(1).random_raw(1000 * 16).reshape(1000, 16)
  texts, labels = [], []
  for row in draws:
    words = [_REST[i] for i in row[4:4 + 6 + int(row[0] % 6)] % len(_REST)]
    label = int(row[1] % 2)
    words[int(row[2] % len(words))] = (_BAD, _GOOD)[label][int(row[3] % 3)]
    texts.append(words)
    labels.append(label)
  vocabulary = vocabulary_of(texts[:800], 100)
  tokens, classes = encode(texts, vocabulary, 12), np.array(labels, np.int32)
  return Reviews(
      name='embedded_reviews', classes=2, class_names=('negative', 'positive'),
      train_images=tokens[:800], train_labels=classes[:800], test_images=tokens[800:],
      test_labels=classes[800:], vocabulary=vocabulary,
      note='made-up reviews: one word of six decides, the others mean nothing')
