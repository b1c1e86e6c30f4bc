"""Sizes, operations, bytes and milliseconds: a dense network and its compact form from a file."""
from __future__ import annotations

import functools
import hashlib
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sparsejax import codec
from sparsejax.apply import apply
from sparsejax.codec import weights_file
from sparsejax.ledger import count, schema
from sparsejax.ledger.timing import interleaved_milliseconds
from sparsejax.paths import flatten
from sparsejax.structured import Packed, densify, is_structured

BATCH_SIZES = (1, 128)


def measure(model: nn.Module, variables: dict[str, Any], compact_model: nn.Module,
            compact_variables: dict[str, Any], example_images: Any,
            file_path: str | os.PathLike[str], *,
            apply_kwargs: Mapping[str, Any] | None = None,
            file_provenance: Mapping[str, str | int | float] | None = None, repeats: int = 30,
            warmup: int = 3) -> dict[str, Any]:
  """Returns the size, flops, bytes, ms and difference keys of the ledger, and `layers`.

  `compact_variables` are written to `file_path`, and all that is said of the compact network is
  said of what was read back from there. Both sides are timed alike: jitted, weights as
  arguments. The dense side is the deployed network with its zeros in place.

  Args:
    model, variables: the deployed dense network; {'params': ..., 'batch_stats': ...}.
    compact_model, compact_variables: the same function in a smaller network, whose weights may be
      packed.
    example_images: (n, ...) float32, or int32 for a network that reads the tokens of a text; all of
      them are compared, and repeated to fill a batch of 128.
    file_path: the file to write; its folder must exist.
    apply_kwargs: further arguments of both `apply`, such as {'train': False}.
    file_provenance: written into the file.
    repeats, warmup: of `interleaved_milliseconds`.
  Raises: ValueError if no weight is left, or outputs are not finite or differ in shape.
  """
  images = np.asarray(example_images)
  if images.dtype not in (np.float32, np.int32) or images.ndim < 2 or not len(images):
    raise ValueError(f'example_images is {images.dtype} of shape {images.shape}; pass a float32 '
                     'batch (n, ...) with n at least 1, or one of int32 tokens')
  apply_kwargs = dict(apply_kwargs or {})
  bytes_file = weights_file.write(file_path, compact_variables, **(file_provenance or {}))
  stored = codec.read(file_path)
  rows = count.count_layers(model, variables, images[:1], apply_kwargs=apply_kwargs)
  compact_rows = count.count_layers(compact_model, densify(stored), images[:1],
                                    apply_kwargs=apply_kwargs)
  dense = _Network(model, variables, apply_kwargs)
  compact = _Network(compact_model, stored, apply_kwargs)
  sums = count.totals(rows)
  sizes = {
      'weights_total': sums['weights_total'],
      'weights_kept': sums['weights_kept'],
      'architecture_kept': count.architecture_kept(rows),
      'parameters_dense': count.parameters(variables['params']),
      'parameters_compact': _entries(stored['params']),
      'exact_zeros': count.exact_zeros(variables['params']),
      'flops_dense': sums['flops'],
      'flops_compact': _flops(compact_rows, stored['params']),
      'bytes_float32': codec.float32_bytes(variables),
      'bytes_file': bytes_file,
      'file_sha256': hashlib.sha256(pathlib.Path(file_path).read_bytes()).hexdigest(),
  }
  return (sizes | _ratios(sizes) | _milliseconds(dense, compact, images, repeats, warmup) | {
      'compact_relative_difference': relative_difference(dense(images), compact(images)),
      'layers': rows,
  })


def relative_difference(dense: Any, compact: Any) -> float:
  """max|compact - dense| / max|dense| over two arrays of logits of one shape.

  Raises: ValueError if shapes differ, a logit is not finite, or all dense logits are 0.
  """
  dense, compact = (np.asarray(logits, np.float64) for logits in (dense, compact))
  if dense.shape != compact.shape:
    raise ValueError(f'dense logits have shape {dense.shape}, compact logits {compact.shape}; the '
                     'compact network must have the same outputs')
  for name, logits in (('dense', dense), ('compact', compact)):
    if not np.isfinite(logits).all():
      raise ValueError(f'{name} logits are not finite; the network has diverged or is damaged')
  largest = np.abs(dense).max()
  if largest == 0:
    raise ValueError('all dense logits are 0, so no relative difference exists; compare on inputs '
                     'the network answers to')
  return float(np.abs(compact - dense).max() / largest)


class _Network:
  """A jitted model with its variables on the device, called on a batch of images."""

  def __init__(self, model, variables, apply_kwargs):
    self._variables = jax.tree.map(jnp.asarray, variables)
    packed = any(map(is_structured, jax.tree.leaves(variables, is_leaf=is_structured)))
    run = functools.partial(apply, model) if packed else model.apply
    self._apply = jax.jit(lambda v, x: run(v, x, **apply_kwargs))

  def __call__(self, images):
    return self._apply(self._variables, images)


def _entries(params):
  """Numbers stored for all parameters, index arrays of packed weights apart."""
  return sum(leaf.entries() if isinstance(leaf, Packed) else leaf.size
             for leaf in flatten(params).values())


def _flops(rows, params):
  """Operations of one example; a packed kernel multiplies by what it stores."""
  packed = {path: leaf for path, leaf in flatten(params).items() if isinstance(leaf, Packed)}
  total = 0
  for row in rows:
    own = [leaf for path, leaf in packed.items() if path.rpartition('/')[0] == row['layer']]
    whole = math.prod(own[0].shape) if own else 1
    total += row['flops'] * (own[0].entries() if own else 1) // whole
  return total


def _ratios(sizes: Mapping[str, Any]) -> dict[str, Any]:
  if not sizes['weights_kept'] or not sizes['parameters_compact']:
    raise ValueError(f'weights_kept is {sizes["weights_kept"]} and parameters_compact '
                     f'{sizes["parameters_compact"]}: the network is pruned away and has no ratio; '
                     'lower the strength of the regulariser')
  return {
      'compression_weights': sizes['weights_total'] / sizes['weights_kept'],
      'compression_weights_denominator': schema.KERNEL_DENOMINATOR,
      'compression_parameters': sizes['parameters_dense'] / sizes['parameters_compact'],
      'compression_parameters_denominator': schema.PARAMETER_DENOMINATOR,
      'compression_bytes': sizes['bytes_float32'] / sizes['bytes_file'],
      'compression_bytes_denominator': schema.BYTES_DENOMINATOR,
  }


def _milliseconds(dense, compact, images, repeats, warmup):
  result: dict[str, Any] = {'ms_repeats': repeats}
  for size in BATCH_SIZES:
    batch = jnp.asarray(np.resize(images, (size, *images.shape[1:])))     # repeats in order
    times = interleaved_milliseconds(
        {'dense': lambda batch=batch: dense(batch), 'compact': lambda batch=batch: compact(batch)},
        repeats=repeats, warmup=warmup)
    for network, summary in times.items():
      key = f'ms_{network}_batch{size}'
      result[key] = summary['median']
      result[f'{key}_lower_quartile'] = summary['lower_quartile']
      result[f'{key}_upper_quartile'] = summary['upper_quartile']
  return result
