"""Deep Compression: prune and retrain, share weights, retrain the codebook, code what is left.

Han, Mao, Dally, "Deep Compression", ICLR 2016, arXiv:1510.00149, after Han, Pool, Tran, Dally,
"Learning both weights and connections", 2015, arXiv:1506.02626. Here are the steps between
trainings, on the host; trainings are those of the ordinary trainer:

  1. prune and retrain, in rounds: `magnitude_pruning` with `iterative_sparsity`; the share that a
     threshold of the paper keeps is `kept_fraction`;
  2. `share`: k-means of the non-zero weights of each layer;
  3. retrain the codebooks: `shared_codebook(codes)`;
  4. the layers' bytes: `layer_codes.py`, and files by `codec.write`.

Of the 2^b codes of a layer, one is the zero of fillers, as in the authors' released files, so that
k-means has 2^b - 1 clusters.
"""
from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sparsejax.paths import Tree, flatten, unflatten
from sparsejax.post_training.kmeans import kmeans


class Shared(NamedTuple):
  """Weights in clusters.

  Attributes:
    codes: int32 leaves at the paths and of the shapes of the shared leaves: 0 is zero, k > 0 the
      k-th cluster with a member, ascending.
    weights: the whole tree, shared leaves with the mean of its cluster in place of each weight.
    wcss: {path: within-cluster sum of squares}.
  """

  codes: Tree
  weights: Tree
  wcss: dict[str, float]


def share(weights: Tree, bits: Mapping[str, int], initialisation: str = 'linear', *,
          rng: np.random.Generator | None = None) -> Shared:
  """Clusters the non-zero weights of each layer; zeros stay zeros.

  Args:
    weights: float leaves, dense with exact zeros.
    bits: {pattern of whole paths: width b of a code}, 1 to 16; 2^b - 1 clusters. Leaves of no
      pattern are left as they are.
    initialisation: of k-means, 'linear', 'density' or 'random' (which needs `rng`).

  Raises:
    ValueError: for a width out of range, a pattern that matches no leaf, two for one leaf, or a
      leaf that is not finite.
  """
  flat = {path: np.asarray(leaf) for path, leaf in flatten(weights).items()}
  widths = _widths(list(flat), bits)
  codes, shared, wcss = {}, dict(flat), {}
  for path, width in widths.items():
    leaf = flat[path]
    alive = leaf != 0
    code = np.zeros(leaf.shape, np.int32)
    wcss[path] = 0.0
    if alive.any():
      values = leaf[alive].astype(np.float64)
      clusters = (1 << width) - 1
      if initialisation == 'random':
        clusters = min(clusters, values.size)
      found = kmeans(values, clusters, initialisation, rng=rng)
      used, members = np.unique(found.codes, return_inverse=True)
      code[alive] = members + 1
      shared[path] = np.append(0.0, found.centroids[used])[code].astype(leaf.dtype)
      wcss[path] = found.wcss[-1]
    codes[path] = code
  return Shared(unflatten(codes), unflatten(shared), wcss)


def threshold_mask(weight: np.ndarray, quality: float) -> np.ndarray:
  """Returns what the paper's threshold keeps: |w| > quality * std(w), bool, of its shape.

  The deviation is that of the whole layer, zeros of former rounds among it.

  Raises:
    ValueError: for a quality that is negative.
  """
  if not quality >= 0:
    raise ValueError(f'quality={quality} must not be negative: it multiplies a standard deviation')
  weight = np.asarray(weight, np.float64)
  return np.abs(weight) > quality * weight.std()


def kept_fraction(weight: np.ndarray, quality: float) -> float:
  """Returns the share of weights that `threshold_mask` keeps, for `iterative_sparsity`."""
  return float(threshold_mask(weight, quality).mean())


def retraining_dropout(rate: float, connections: int, kept: int) -> float:
  """Returns the dropout rate for retraining, rate * sqrt(kept / connections) (2015, equation 2).

  Args:
    rate: of the dense network. connections: of the layer before pruning. kept: after it.

  Raises:
    ValueError: for a rate outside [0, 1), or more connections kept than there were.
  """
  if not 0 <= rate < 1 or not 0 <= kept <= connections or connections < 1:
    raise ValueError(f'rate={rate} must lie in [0, 1) and kept={kept} between 0 and '
                     f'connections={connections}, which is at least 1')
  return rate * math.sqrt(kept / connections)


def compression_rate(weights: int, clusters: int, bits: int = 32) -> float:
  """Returns n b / (n log2 k + k b): weights of b bits against codes and a codebook (equation 1)."""
  return weights * bits / (weights * math.log2(clusters) + clusters * bits)


def _widths(paths: list[str], bits: Mapping[str, int]) -> dict[str, int]:
  widths: dict[str, int] = {}
  for pattern, width in bits.items():
    if not 1 <= width <= 16:
      raise ValueError(f'bits[{pattern!r}]={width} must lie between 1 and 16')
    own = [path for path in paths if re.fullmatch(pattern, path)]
    if not own:
      raise ValueError(f'the pattern {pattern!r} matches no leaf; leaves are {", ".join(paths)}')
    for path in own:
      if path in widths:
        raise ValueError(f'{path} is matched by two patterns of {list(bits)}; narrow one')
      widths[path] = width
  return widths
