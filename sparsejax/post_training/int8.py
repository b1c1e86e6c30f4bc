"""Weights as int8 with a scale per output channel, and their bytes under Zstandard.

The honest baseline of every compression claim: no pruning, no training, symmetric rounding to the
nearest of 255 levels (Jacob et al., 2018, arXiv:1712.05877, with the zero point at 0), then a
general-purpose compressor.
"""

from __future__ import annotations

import numpy as np
import safetensors.numpy
import zstandard

from sparsejax.paths import Tree, flatten, unflatten

LEVELS = 127
ZSTD_LEVEL = 19
QUANTISED, SCALE = '//int8', '//scale'


def quantise(weights: Tree) -> dict[str, np.ndarray]:
  """Returns {path//int8, path//scale} of every kernel and {path} of everything else.

  A leaf with two or more axes is rounded to int8, its scale (one per entry of the last axis,
  float32) such that the largest magnitude becomes 127. Other leaves stay float32.

  Raises:
    ValueError: for a leaf that is not finite.
  """
  tensors = {}
  for path, leaf in flatten(weights).items():
    values = np.asarray(leaf, np.float32)
    if not np.all(np.isfinite(values)):
      raise ValueError(f'{path} holds values that are not finite, which no int8 stands for')
    if values.ndim < 2:
      tensors[path] = values
      continue
    largest = np.abs(values).max(tuple(range(values.ndim - 1)))
    scale = (np.where(largest > 0, largest, 1) / LEVELS).astype(np.float32)
    tensors[path + QUANTISED] = np.clip(np.rint(values / scale), -LEVELS, LEVELS).astype(np.int8)
    tensors[path + SCALE] = scale
  return tensors


def dequantise(tensors: dict[str, np.ndarray]) -> Tree:
  """Returns the float32 weights that `quantise`d tensors stand for."""
  leaves = {}
  for name, array in tensors.items():
    if name.endswith(QUANTISED):
      path = name.removesuffix(QUANTISED)
      leaves[path] = array.astype(np.float32) * tensors[path + SCALE]
    elif not name.endswith(SCALE):
      leaves[name] = array
  return unflatten(leaves)


def compress(tensors: dict[str, np.ndarray]) -> bytes:
  """Returns a safetensors file of the tensors, compressed by Zstandard at level 19."""
  return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(safetensors.numpy.save(tensors))


def decompress(data: bytes) -> dict[str, np.ndarray]:
  """Returns the tensors that `compress` was given.

  Raises:
    ValueError: for bytes that are damaged.
  """
  try:
    return safetensors.numpy.load(zstandard.ZstdDecompressor().decompress(data))
  except (zstandard.ZstdError, ValueError, safetensors.SafetensorError) as error:
    raise ValueError(f'these {len(data)} bytes are no compressed weights: {error}') from error
