"""Relative indices of a fixed number of bits, with filler zeros.

Han, Mao, Dally, "Deep Compression", ICLR 2016, arXiv:1510.00149, figure 2: each stored entry has
the distance to the stored entry before. A distance that does not fit is bridged by fillers: stored
zeros, each at the largest distance, each costing one distance and one value. Here a distance d is
written as d - 1, so that `bits` bits reach 2**bits entries far.
"""
from __future__ import annotations

import numpy as np


def with_fillers(positions: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns (steps, is_filler), both (k + fillers,): steps are distances less 1, below 2**width.

  Args:
    positions: (k,) ascending places of the non-zero entries.
    width: bits of a step, 1 to 16.
  """
  reach = 1 << width
  distance = np.diff(positions, prepend=-1)
  fillers = (distance - 1) // reach
  last = np.cumsum(fillers + 1) - 1                 # where the entry itself stands
  is_filler = np.ones(int(fillers.sum()) + len(positions), bool)
  is_filler[last] = False
  steps = np.full(len(is_filler), reach - 1, np.int64)
  steps[last] = distance - 1 - fillers * reach
  return steps, is_filler


def places(steps: np.ndarray) -> np.ndarray:
  """Returns the places (k,) that the steps lead to, fillers among them."""
  places = np.cumsum(steps, dtype=np.int64)
  places += np.arange(len(places))
  return places


def count_fillers(positions: np.ndarray, width: int) -> int:
  """Returns how many fillers `with_fillers` puts in."""
  return int(((np.diff(positions, prepend=-1) - 1) >> width).sum())
