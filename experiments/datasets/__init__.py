"""Data sets by name.

To add one, write a file with `load(data_dir) -> Dataset` and give it a line in `_LOADERS`.
"""
import difflib
import os
from collections.abc import Callable

from experiments.datasets import digits, mnist, text
from experiments.datasets.dataset import Dataset, hold_out

__all__ = ['Dataset', 'hold_out', 'load', 'names']

_LOADERS: dict[str, Callable[..., Dataset]] = {
    'digits': digits.load,
    'embedded_text': text.load_embedded,
    'fashion_mnist': mnist.load_fashion_mnist,
    'mnist': mnist.load_mnist,
    'tiny_shakespeare': text.load_tiny_shakespeare,
}


def names() -> tuple[str, ...]:
  """Returns the names `load` knows, sorted."""
  return tuple(sorted(_LOADERS))


def load(name: str, data_dir: str | os.PathLike | None = None) -> Dataset:
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
