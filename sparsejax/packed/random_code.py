"""A weight as indices into shared random candidates: minimal random code learning's file.

Havasi, Peharz, Hernandez-Lobato, "Minimal random code learning: getting bits back from compressed
model parameters", 2019, arXiv:1810.00440. Sender and receiver draw the same candidates from a seed;
a block of d weights is one of 2^bits candidates times the prior's scale, so it costs `bits` bits.

Whoever decodes must get the same numbers, on any machine and with any version of any library. So
candidates come from integers alone: Philox's raw stream (which NumPy guarantees, NEP 19), cut into
16-bit words, each of which stands for a quantile of the standard normal distribution rounded to a
multiple of 2^-12. Rounding makes the table safe: no quantile lies so near to the middle between two
multiples that the last bits of anyone's inverse error function matter.

Entry i of a weight's n entries (C order) belongs to block i modulo the number of blocks, so that
rows which need few bits share blocks with rows that need many. What is missing to whole blocks is
never read.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import numpy as np
from flax import struct
from scipy import special

from sparsejax.structured import Packed

WORDS = 2 ** 16
STEPS = 2 ** 12                      # a normal number is a whole number of 1 / STEPS
BITS = range(1, 21)
MAX_LENGTH = 1024                    # so that no file makes a reader hold more than 4 GiB


@functools.cache
def normal_table() -> np.ndarray:
  """Returns the normal number of each 16-bit word, (65536,) float32, exact multiples of 2^-12."""
  quantiles = special.ndtri((np.arange(WORDS) + 0.5) / WORDS)
  return (np.rint(quantiles * STEPS) / STEPS).astype(np.float32)


@functools.lru_cache(maxsize=4)
def candidates(seed: int, bits: int, length: int) -> np.ndarray:
  """Returns the candidates for a block, (2^bits, length) float32, about standard normal.

  Args:
    seed: from 0 to 2^64 - 1. bits: 1 to 20. length: weights of a block.
  """
  count = 2 ** bits * length
  raw = np.random.Philox(key=seed).random_raw(-(-count // 4))
  words = np.stack([raw >> shift & (WORDS - 1) for shift in (0, 16, 32, 48)], axis=1)
  return normal_table()[words.reshape(-1)[:count]].reshape(2 ** bits, length)


def blocks_of(entries: int, length: int) -> int:
  """Returns how many blocks of `length` a weight of so many entries has."""
  return -(-entries // length)


@struct.dataclass
class RandomCode(Packed):
  """The weight that these indices stand for. There is no product with it but the dense one.

  Attributes:
    indices: (blocks,) uint32, which candidate each block is.
    scale: the prior's standard deviation, float32 ().
    shape: of the weight. bits, length, seed: of the candidates.
  """

  indices: jax.Array | np.ndarray
  scale: jax.Array | np.floating
  shape: tuple[int, ...] = struct.field(pytree_node=False)
  bits: int = struct.field(pytree_node=False)
  length: int = struct.field(pytree_node=False)
  seed: int = struct.field(pytree_node=False)

  ndim = property(lambda self: len(self.shape))
  dtype = property(lambda self: self.scale.dtype)

  def to_dense(self) -> jax.Array:
    """Returns the weight, float32, the same bits everywhere. On the host."""
    return jax.numpy.asarray(decode(np.asarray(self.indices), np.float32(self.scale), self.shape,
                                    self.bits, self.length, self.seed))

  def entries(self) -> int:
    return math.prod(self.shape)

  def to_tensors(self) -> tuple[dict[str, Any], dict[str, Any]]:
    """The indices as one string of bits, the most significant first, and the scale."""
    indices = np.asarray(self.indices)
    spread = indices[:, None] >> np.arange(self.bits - 1, -1, -1, dtype=np.uint32) & 1
    return ({'code': np.packbits(spread.astype(np.uint8)), 'scale': np.asarray(self.scale)},
            {'shape': list(self.shape), 'bits': self.bits, 'length': self.length,
             'seed': self.seed})

  @classmethod
  def from_tensors(cls, tensors: dict[str, Any], facts: dict[str, Any]) -> RandomCode:
    """The inverse of `to_tensors`.

    Raises:
      ValueError: for facts that are out of range, or a code of another length.
    """
    shape: Any = facts.get('shape')
    bits, length, seed = (facts.get(name) for name in ('bits', 'length', 'seed'))
    whole = isinstance(shape, list) and all(type(side) is int and side > 0 for side in shape)
    if not (whole and type(bits) is int and bits in BITS and type(length) is int
            and 0 < length <= MAX_LENGTH and type(seed) is int and 0 <= seed < 2 ** 64):
      raise ValueError(f'a random code of shape {shape} with bits={bits}, length={length}, '
                       f'seed={seed} cannot be: sides must be positive, bits 1 to {BITS[-1]}, the '
                       f'length 1 to {MAX_LENGTH}')
    count = blocks_of(math.prod(shape), length)
    code = np.asarray(tensors['code'])
    if code.dtype != np.uint8 or code.shape != (-(-count * bits // 8),):
      raise ValueError(f'a random code of {count} blocks of {bits} bits takes '
                       f'{-(-count * bits // 8)} bytes, found {code.dtype} {code.shape}')
    spread = np.unpackbits(code, count=count * bits).reshape(count, bits).astype(np.uint32)
    indices = (spread << np.arange(bits - 1, -1, -1, dtype=np.uint32)).sum(1, dtype=np.uint32)
    return cls(indices, np.float32(tensors['scale']), tuple(shape), bits, length, seed)


def decode(indices: np.ndarray, scale: np.float32, shape: tuple[int, ...], bits: int, length: int,
           seed: int) -> np.ndarray:
  """Returns the weight of a code, float32: one product of two float32 an entry, nothing else."""
  chosen = candidates(seed, bits, length)[indices]                  # (blocks, length)
  return (chosen.T.reshape(-1)[:math.prod(shape)] * np.float32(scale)).reshape(shape)
