"""A text as one long row of symbols, and its windows in time order for a state that is carried on.

The text is cut into as many streams as a batch has rows; each stream is read from its start to its
end, a window a step, so that what a network remembers at the end of a window is what stands before
the next one.
"""
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.datasets.text import Text, check_symbols, symbol_dtype

SPLITS = ('train', 'validation', 'test')


@dataclasses.dataclass(frozen=True, eq=False)
class ContinuousText:
  """A text in three parts, each in reading order.

  Attributes:
    name: the name it is loaded by.
    classes: number of symbols, the vocabulary.
    train, validation, test: (symbols,), uint8 up to 256 classes, else uint16.
    class_names: one symbol a class: a character or a word.
    note: what a reader of a result must know, or ''.
  Raises: ValueError if an array has another shape or dtype, or a symbol is out of range.
  """
  name: str
  classes: int
  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray
  class_names: tuple[str, ...]
  note: str = ''

  def __post_init__(self):
    check_symbols(self.name, self.classes, self.class_names)
    for split in SPLITS:
      symbols, dtype = getattr(self, split), symbol_dtype(self.classes)
      if symbols.dtype != dtype or symbols.ndim != 1 or not symbols.size:
        raise ValueError(f'{self.name}/{split}: symbols are {symbols.dtype} {symbols.shape}; need '
                         f'{dtype} (symbols,), at least one')
      if symbols.max() >= self.classes:
        raise ValueError(f'{self.name}/{split}: the highest symbol is {symbols.max()}; need 0 to '
                         f'{self.classes - 1}')

  def windows(self, batch: int, length: int) -> Text:
    """Cuts each part into `batch` streams of windows of `length` symbols, in time order.

    Window step * batch + stream is the step-th of its stream: reshaped to (steps, batch, length),
    the windows [:, stream] are one stretch of the text, and stream after stream follow each other
    in it. What fills no whole step is left out, at the end of each part; the note says how much.

    Args:
      batch: streams, the batch size of training and evaluation. length: symbols in a window.
    Raises:
      ValueError: for numbers below 1, or a part too short for one step.
    """
    if batch < 1 or length < 1:
      raise ValueError(f'{self.name}: batch={batch} and length={length} must be at least 1')
    cut = {split: _streams(getattr(self, split), batch, length, f'{self.name}/{split}')
           for split in SPLITS}
    left = ', '.join(f'{len(getattr(self, split)) - 1 - cut[split][0].size:,} {split}'
                     for split in SPLITS)
    note = (f'{batch} streams read on with their state, {length} symbols a step; left out at the '
            f'ends: {left} symbols')
    return Text(
        name=self.name, classes=self.classes, class_names=self.class_names,
        note='; '.join(filter(None, (self.note, note))),
        train_images=cut['train'][0], train_labels=cut['train'][1],
        test_images=cut['test'][0], test_labels=cut['test'][1],
        validation_images=cut['validation'][0], validation_labels=cut['validation'][1])


def _streams(symbols: np.ndarray, batch: int, length: int,
             where: str) -> tuple[np.ndarray, np.ndarray]:
  steps = (len(symbols) - 1) // (batch * length)
  if steps < 1:
    raise ValueError(f'{where} has {len(symbols):,} symbols, too few for one step of {batch} '
                     f'windows of {length} and the symbol after them; lower batch or length')
  count = steps * batch * length

  def in_time_order(part):
    by_stream = part.reshape(batch, steps, length)
    return np.ascontiguousarray(by_stream.swapaxes(0, 1)).reshape(steps * batch, length)
  return (in_time_order(symbols[:count]),
          in_time_order(symbols[1:count + 1].astype(np.int32)))


def encode(name: str, texts: Mapping[str, Sequence[str]], vocabulary: Sequence[str],
           note: str = '') -> ContinuousText:
  """Returns texts of symbols (characters of a string, or words of a list) as a `ContinuousText`.

  Args:
    texts: {'train': symbols, 'validation': ..., 'test': ...}. vocabulary: symbol of each class.
  Raises: ValueError for a symbol that the vocabulary lacks.
  """
  index = {symbol: i for i, symbol in enumerate(vocabulary)}
  parts = {}
  for split in SPLITS:
    found = [index.get(symbol, -1) for symbol in texts[split]]
    if -1 in found:
      place = found.index(-1)
      raise ValueError(f'{name}/{split}: symbol {place:,} is {texts[split][place]!r}, which is '
                       f'none of the {len(index):,} of the vocabulary; the files do not belong '
                       'together')
    parts[split] = np.array(found, symbol_dtype(len(index)))
  return ContinuousText(name=name, classes=len(vocabulary), class_names=tuple(vocabulary),
                        note=note, **parts)
