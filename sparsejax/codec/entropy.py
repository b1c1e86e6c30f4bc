"""Description length: the bits that a tree of weights takes at best, before any file is made.

An array of few values is described by its codebook, the places of its non-zero entries and a code
for each of these: Shannon's bound for symbols drawn independently. Under a learned prior pi over
the values, zero among them, it is -sum log2 pi(z_i), which says the places too. Frequency tables
and headers are not counted.

The KL divergence from a posterior is no such length by itself, and from an improper prior (the
log-uniform) it is none at all.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from sparsejax.codec import frequencies, tree_paths, values


class Description(NamedTuple):
  """Bits: of the codes, of the codebook's values, and of the places of non-zero entries."""
  codes_bits: float
  codebook_bits: float
  positions_bits: float

  @property
  def total_bits(self) -> float:
    return sum(self)

  @property
  def total_bytes(self) -> float:
    return self.total_bits / 8


def description_length(array: np.ndarray, prior: tuple[Any, Any] | None = None) -> Description:
  """Returns the description length of one array, any shape and dtype.

  Args:
    array: with exact zeros; an entry whose bits are not all 0 (-0.0) counts as non-zero. If it has
      too many distinct values for a codebook, each byte of its entries is a symbol.
    prior: (values, probabilities), each (k,), to describe all entries by.

  Raises:
    ValueError: for an entry that is none of the prior's values.
  """
  array = np.ascontiguousarray(array)
  flat = array.reshape(-1).view(f'u{array.dtype.itemsize}')
  width = 8.0 * array.dtype.itemsize
  if prior is not None:
    book = values.codebook_of(array.dtype, *prior)
    found, counts = np.unique(flat, return_counts=True)
    place = np.searchsorted(book.entries, found)
    known = book.entries[np.minimum(place, len(book.entries) - 1)] == found
    if not known.all():
      raise ValueError(f'{int(counts[~known].sum())} entries are none of the prior\'s values; '
                       'collapse the weights first')
    assert book.probabilities is not None
    codes = float(-(counts * np.log2(book.probabilities[place])).sum())
    return Description(codes, width * len(book.entries), 0.0)
  stored = flat[flat != 0]
  positions = frequencies.entropy_bits(np.array([len(stored), len(flat) - len(stored)]))
  if values.distinct(stored) is None and len(stored):
    return Description(values.planes(stored, ('fixed',)).entropy_bits, 0.0, positions)
  _, counts = np.unique(stored, return_counts=True)
  return Description(frequencies.entropy_bits(counts), width * len(counts), positions)


def describe(weights: dict[str, Any], priors: Mapping[str, tuple[Any, Any]] | None = None
             ) -> dict[str, Description]:
  """Returns {path: description length} of a tree of arrays; `priors` by path.

  Raises:
    ValueError: naming the leaf, as `description_length` does.
  """
  found = {}
  for path, array in tree_paths.flatten(weights)[0].items():
    try:
      found[path] = description_length(array, (priors or {}).get(path))
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from error
  return found


def total(descriptions: Mapping[str, Description]) -> Description:
  """Returns the sum over leaves."""
  return Description(*(sum(column) for column in zip(*descriptions.values(), strict=True))
                     ) if descriptions else Description(0.0, 0.0, 0.0)
