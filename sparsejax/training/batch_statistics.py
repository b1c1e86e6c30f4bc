"""Batch-norm statistics of a finished network, measured anew.

Pruning, folding in gates or averaging weights changes what reaches every batch-norm; the running
statistics of the training then describe another network. Re-estimating them over training images
needs no labels and no gradient (Izmailov et al., 2018, arXiv:1803.05407, section 3.2, do so for
averaged weights).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import core
from flax import linen as nn

from sparsejax.apply import apply
from sparsejax.paths import flatten, unflatten

Array = jax.Array
COLLECTION = 'batch_stats'


def re_estimate(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: Array | np.ndarray,
    preprocess: Callable[[Array], Array],
    batch_size: int,
    train_kwargs: Mapping[str, Any],
) -> dict[str, Any]:
  """Returns `variables` with the batch-norm statistics of these images.

  The network runs in training mode, so that every nn.BatchNorm normalises by the statistics of its
  batch, and those of all batches are put together: the mean of the means, and the mean of the
  variances plus the variance of the means. For a layer's own inputs these are the exact mean and
  variance over all images. What a deeper layer is handed still depends, as in training, on the
  batches that the layers before it normalised by; batch_size=len(images) is exact for all of them.

  Args:
    model: any Flax module whose stock nn.BatchNorm each run once in a forward pass.
    variables: {'params': ..., 'batch_stats': ...}; weights may be structured if not random.
    images: raw, (n, ...), of the host or the device.
    preprocess: raw images -> inputs. batch_size: images of a forward pass; divides n.
    train_kwargs: passed to the model to run it in training mode, such as {'train': True}.

  Raises:
    ValueError: for variables without 'batch_stats', statistics of another kind of layer, a layer
      that does not use the batch's statistics or runs twice, or a batch size that does not divide.
  """
  if not variables.get(COLLECTION):
    raise ValueError(f'the variables of {type(model).__name__} have no {COLLECTION!r} to estimate; '
                     f'they have {", ".join(sorted(variables))}')
  if batch_size < 1 or len(images) == 0 or len(images) % batch_size:
    raise ValueError(f'batch_size={batch_size} does not divide the {len(images)} images; leave out '
                     'the last few, or choose a divisor')
  momenta: dict[str, float] = {}

  def interceptor(next_fun, args, kwargs, context):
    if isinstance(context.module, nn.BatchNorm):
      momenta['/'.join(context.module.path)] = context.module.momentum
    return next_fun(*args, **kwargs)

  @jax.jit
  def run(others, statistics, batch):
    with nn.intercept_methods(interceptor):
      _, changed = apply(model, {**others, COLLECTION: statistics}, preprocess(batch),
                         mutable=[COLLECTION], **train_kwargs)
    return core.unfreeze(changed[COLLECTION])

  old = core.unfreeze(variables[COLLECTION])
  others = {name: tree for name, tree in variables.items() if name != COLLECTION}

  def advanced(start, batch):
    """What running statistics that are all `start` become: m start + (1 - m) the batch's own."""
    statistics = jax.tree.map(lambda leaf: jnp.full_like(leaf, start), old)
    return flatten(jax.device_get(run(others, statistics, jnp.asarray(batch))))

  batches = [images[i:i + batch_size] for i in range(0, len(images), batch_size)]
  first, from_ones = advanced(0, batches[0]), advanced(1, batches[0])
  factors = {path: _new_share(path, momenta, from_ones[path] - first[path]) for path in first}
  rest = [advanced(0, batch) for batch in batches[1:]]
  seen = {path: np.stack([step[path].astype(np.float64) for step in (first, *rest)]) / factors[path]
          for path in first}
  estimated = {path: values.mean(0) for path, values in seen.items()}
  for path in seen:
    place, _, name = path.rpartition('/')
    if name == 'var':
      estimated[path] += seen[f'{place}/mean'].var(0)
  kinds = {path: leaf.dtype for path, leaf in flatten(old).items()}
  return {**variables, COLLECTION: unflatten(
      {path: jnp.asarray(value, kinds[path]) for path, value in estimated.items()})}


def _new_share(path: str, momenta: Mapping[str, float], old_share: np.ndarray) -> float:
  """Returns 1 - m, after checking that statistics `old` became m old + (1 - m) new just once.

  Args:
    path: of the leaf. momenta: {path of the layer: m}.
    old_share: what `old` was multiplied by, measured: m to the number of times the layer ran.
  """
  place, _, name = path.rpartition('/')
  if place not in momenta or name not in ('mean', 'var'):
    raise ValueError(f'{COLLECTION}/{path} is no statistic of an nn.BatchNorm that the model ran; '
                     f'those are {", ".join(sorted(momenta)) or "none"}')
  m = momenta[place]
  share = float(np.median(old_share))
  if m == 1 or abs(share - 1) < abs(share - m):
    raise ValueError(f'{place} kept its running statistics; pass train_kwargs that put the model '
                     'into training mode, such as train=True, and give it a momentum below 1')
  if abs(share - m**2) < abs(share - m):
    raise ValueError(f'{place} runs more than once in a forward pass, so that its statistics are '
                     'of several inputs; give each of them a norm of its own')
  return 1 - m
