"""Bits of a weight from how uncertain it is: no finer grid than its posterior can tell apart.

Louizos, Ullrich, Welling, "Bayesian compression for deep learning", 2017, arXiv:1705.08665,
section 2.3 of its method: t significand bits have the unit round-off u(t) = 2^-t, and a weight
deserves the smallest t whose round-off is below the standard deviation of its posterior. A group of
weights gets the mean of their t, rounded up, and is stored in fixed point: a sign and t bits below
the power of two above its largest magnitude.

Where we differ from the authors' code: it compares u(t) with twice the variance; and with u(t) as
it is, which is the round-off of weights between 1 and 2. Here both sides are in units of the
weights: a group whose largest magnitude lies in [2^e, 2^(e + 1)) errs by at most 2^e u(t).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.codec import leaf as leaf_codec
from sparsejax.paths import Tree, flatten, unflatten
from sparsejax.packed.quantised import Quantised
from sparsejax.structured import densify

MEAN, LOG_VARIANCE = 'theta', 'log_sigma2'
MAX_BITS = 15          # a sign and 15 bits fill int16


class Rounded(NamedTuple):
  """Attributes:
    weights: the tree; leaves with a posterior are `Quantised`.
    bits: {path: t of each group, () or (n,), the sign apart; 0 for a group without weights}.
    bytes: of those leaves' codes and scales, as a container codes them, its header aside.
  """

  weights: Tree
  bits: dict[str, np.ndarray]
  bytes: int


def unit_round_off(bits: int | np.ndarray) -> np.ndarray:
  """Returns the largest relative error of rounding to so many significand bits, 0.5 2^(1 - t)."""
  return np.asarray(0.5 * 2.0**(1.0 - np.asarray(bits, np.float64)))


def significand_bits(spread: np.ndarray, magnitude: np.ndarray | float = 1.0) -> np.ndarray:
  """Returns the smallest t in [1, 15] with magnitude u(t) below the standard deviation `spread`.

  Args:
    spread: positive. magnitude: a power of two, of the weights' leading digit.
  """
  ratio = np.asarray(spread, np.float64) / magnitude
  if not np.all(ratio > 0):
    raise ValueError('a standard deviation of 0 asks for infinitely many bits')
  # 2^-t < ratio: t > -log2 ratio. frexp gives the exponent exactly: ratio in [2^(e-1), 2^e).
  mantissa, exponent = np.frexp(ratio)
  above = 1 - exponent + (mantissa == 0.5)       # a power of two itself is not below
  return np.clip(above, 1, MAX_BITS).astype(np.int64)


def gaussian_posteriors(params: Tree) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Returns {path of the weight: (means, standard deviations)} for every pair in a method's params.

  A pair is a leaf below `theta` and one at the same place below `log_sigma2`, whichever rules of a
  partition they stand under.

  Raises:
    ValueError: if there is none.
  """
  flat = flatten(params)
  found = {}
  for path, mean in flat.items():
    parts = path.split('/')
    if MEAN not in parts:
      continue
    place = parts.index(MEAN)
    other = '/'.join([*parts[:place], LOG_VARIANCE, *parts[place + 1:]])
    if other in flat:
      found['/'.join(parts[place + 1:])] = (
          np.asarray(mean, np.float64), np.exp(0.5 * np.asarray(flat[other], np.float64)))
  if not found:
    raise ValueError(f'no Gaussian posterior in the params: no {MEAN!r} beside a {LOG_VARIANCE!r}; '
                     'train with sparse_variational_dropout, for example')
  return found


def round_to_posterior(weights: Tree, params: Tree, *, axis: int | None = None) -> Rounded:
  """Rounds each group of weights to as many bits as its posterior is worth, on the host.

  Args:
    weights: deployed weights, of which those that are 0 stay 0 and do not count.
    params: of the method that trained them.
    axis: negative; groups are the indices of that axis of a leaf. None: a leaf is one group.

  Raises:
    ValueError: if `params` hold no posterior, or one of a weight that is not there.
  """
  leaves = flatten(densify(weights))
  bits: dict[str, np.ndarray] = {}
  size = 0
  for path, (_, spread) in gaussian_posteriors(params).items():
    if path not in leaves:
      raise ValueError(f'the params have a posterior of {path}, which the weights have not; they '
                       f'are {", ".join(leaves)}')
    leaf = np.asarray(leaves[path])
    packed, bits[path] = _round(leaf, np.broadcast_to(spread, leaf.shape), axis)
    leaves[path] = packed
    size += sum(len(leaf_codec.encode(np.asarray(part)).data)
                for part in packed.to_tensors()[0].values())
  return Rounded(unflatten(leaves), bits, size)


def _round(leaf: np.ndarray, spread: np.ndarray,
           axis: int | None) -> tuple[Quantised, np.ndarray]:
  """Returns the packed leaf and the bits of its groups."""
  groups = leaf.astype(np.float64)[None] if axis is None else np.moveaxis(
      leaf.astype(np.float64), axis, 0)
  rows = groups.reshape(len(groups), -1)
  spreads = (spread[None] if axis is None else np.moveaxis(spread, axis, 0)).reshape(rows.shape)
  bits, scales, codes = np.zeros(len(rows), np.int64), np.ones(len(rows)), np.zeros_like(rows)
  for i, (row, deviation) in enumerate(zip(rows, spreads)):
    kept = row != 0
    if not kept.any():
      continue
    exponent = np.frexp(np.abs(row).max())[1]           # largest magnitude below 2^exponent
    each = significand_bits(deviation[kept], 2.0**(exponent - 1))
    bits[i] = int(np.ceil(each.mean()))
    scales[i] = 2.0**(exponent - bits[i])
    most = 2**bits[i] - 1
    codes[i] = np.clip(np.rint(row / scales[i]), -most, most)
  whole = codes.reshape(groups.shape)[0] if axis is None else np.moveaxis(
      codes.reshape(groups.shape), 0, axis)
  kind = np.int8 if bits.max() < 8 else np.int16
  packed = Quantised(jnp.asarray(whole.astype(kind)),
                     jnp.asarray(scales.astype(np.float32).reshape(() if axis is None else (-1,))),
                     None, axis, leaf.dtype)
  return jax.device_get(packed), bits.reshape(() if axis is None else (-1,))
