"""k-means of numbers: the codebook of a layer's weights.

Lloyd's algorithm in one dimension, on the host, with the three initialisations of Han, Mao, Dally,
"Deep Compression", 2016, arXiv:1510.00149, section 3.1. The clusters are intervals, so an
assignment is a search among the midpoints of neighbouring centroids.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

INITIALISATIONS = ('linear', 'density', 'random')


class Clusters(NamedTuple):
  """Centroids and who belongs to them.

  Attributes:
    centroids: (k,) float64, ascending.
    codes: (n,) int64, the nearest centroid of each value; the lower one of two as near.
    wcss: within-cluster sum of squares after each assignment; it never increases.
  """

  centroids: np.ndarray
  codes: np.ndarray
  wcss: tuple[float, ...]


def kmeans(values: np.ndarray, clusters: int, initialisation: str = 'linear', *,
           rng: np.random.Generator | None = None, max_iterations: int = 300) -> Clusters:
  """Clusters `values` (n,) around `clusters` centroids, until no value changes its cluster.

  A cluster that loses all its values keeps its centroid.

  Args:
    initialisation: 'linear' (equally spaced between the extremes), 'density' (at equal steps of
      the distribution function) or 'random' (values drawn without replacement).
    rng: for 'random', and needed there.
    max_iterations: updates of the centroids at most.

  Raises:
    ValueError: without values, for values that are not finite, fewer than one cluster, or more
      clusters than values where they are drawn.
  """
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or not values.size or not np.isfinite(values).all():
    raise ValueError(f'k-means needs finite values (n,), at least one; got shape {values.shape} '
                     f'with {np.count_nonzero(~np.isfinite(values))} not finite')
  if clusters < 1:
    raise ValueError(f'clusters={clusters} must be at least 1')
  centroids = initial_centroids(values, clusters, initialisation, rng)
  codes = nearest(values, centroids)
  wcss = [_sum_of_squares(values, centroids, codes)]
  for _ in range(max_iterations):
    counts = np.bincount(codes, minlength=clusters)
    sums = np.bincount(codes, values, minlength=clusters)
    # Sorted, for a centroid that stands empty may be passed by the mean beside it.
    centroids = np.sort(np.where(counts, sums / np.maximum(counts, 1), centroids))
    before, codes = codes, nearest(values, centroids)
    wcss.append(_sum_of_squares(values, centroids, codes))
    if np.array_equal(codes, before):
      break
  return Clusters(centroids, codes, tuple(wcss))


def initial_centroids(values: np.ndarray, clusters: int, initialisation: str,
                      rng: np.random.Generator | None = None) -> np.ndarray:
  """Returns the centroids (clusters,) to start from, ascending; arguments as in `kmeans`."""
  if initialisation == 'linear':
    return np.linspace(values.min(), values.max(), clusters)
  if initialisation == 'density':
    return np.quantile(values, (np.arange(clusters) + 0.5) / clusters)
  if initialisation != 'random':
    raise ValueError(f'initialisation={initialisation!r} is not one of '
                     f'{", ".join(map(repr, INITIALISATIONS))}')
  if rng is None or clusters > values.size:
    raise ValueError(f'{clusters} of {values.size} values are to be drawn as centroids '
                     f'{"without rng" if rng is None else ""}; give rng, and fewer clusters than '
                     'values')
  return np.sort(rng.choice(values, clusters, replace=False))


def nearest(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
  """Returns the index of the nearest of the ascending `centroids` (k,) for each value, int64."""
  return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values, side='left')


def _sum_of_squares(values: np.ndarray, centroids: np.ndarray, codes: np.ndarray) -> float:
  return float(np.square(values - centroids[codes]).sum())
