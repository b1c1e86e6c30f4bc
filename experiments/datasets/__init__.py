"""Data sets by name.

To add one, write a file with `load(data_dir) -> Dataset` and give it a line in `_LOADERS`. A text
that is read on with the state of the step before is a `ContinuousText`; its method `windows` cuts
it into what is trained on.
"""
import difflib
import os
from collections.abc import Callable

from experiments.datasets import digits, imdb, mnist, ptb, reviews, streams, text
from experiments.datasets.continuous_text import ContinuousText
from experiments.datasets.dataset import Dataset, held_out, hold_out

__all__ = ['ContinuousText', 'Dataset', 'held_out', 'hold_out', 'load', 'names']

_LOADERS: dict[str, Callable[..., Dataset | ContinuousText]] = {
    'digits': digits.load,
    'embedded_reviews': reviews.load_embedded,
    'embedded_text': text.load_embedded,
    'embedded_text_stream': streams.load_embedded,
    'embedded_words': streams.load_embedded_words,
    'fashion_mnist': mnist.load_fashion_mnist,
    'imdb': imdb.load,
    'mnist': mnist.load_mnist,
    'ptb_char': ptb.load_characters,
    'ptb_char_windows': ptb.load_character_windows,
    'ptb_word': ptb.load_words,
    'ptb_word_2000': ptb.load_frequent_words,
    'tiny_shakespeare': text.load_tiny_shakespeare,
    'tiny_shakespeare_stream': streams.load_tiny_shakespeare,
}


def names() -> tuple[str, ...]:
  """Returns the names `load` knows, sorted."""
  return tuple(sorted(_LOADERS))


def load(name: str, data_dir: str | os.PathLike | None = None) -> Dataset | ContinuousText:
  """Returns the data set called `name`, fetched into the data folder if it is not there yet.

  Args:
    name: one of `names()`.
    data_dir: the data folder; None is SPARSEJAX_DATA_DIR if set, else the user's cache.
  Raises: ValueError for a name not known or a damaged file; FileNotFoundError if no mirror gave a
    missing file; OSError if the folder cannot be written.
  """
  if name not in _LOADERS:
    near = difflib.get_close_matches(name.lower().replace('-', '_'), names(), n=1, cutoff=0.5)
    hint = f'; did you mean {near[0]!r}?' if near else ''
    raise ValueError(f'unknown data set {name!r}; known are {", ".join(names())}{hint}')
  return _LOADERS[name](data_dir)
