"""Deep Compression of a finished run: prune and retrain, share, retrain the codebooks, code.

Han, Mao, Dally, 2016, arXiv:1510.00149; sparsejax/post_training/deep_compression.py has the steps.
A run of experiments/configs/HaMD15 has been pruned in training, and is shared as it is. A dense run
is pruned here: give `kept` or `quality`.
"""

from __future__ import annotations

import re
from typing import Any

import jax.numpy as jnp
import numpy as np
from rich.console import Console

import sparsejax
from experiments.compression.recipes import Compressed
from experiments.compression.retrain import falling, retrain, steps_per_epoch
from experiments.compression.subject import Subject
from experiments.scores import validation_error_percent
from sparsejax.paths import Tree, flatten, map_leaves
from sparsejax.post_training.deep_compression import kept_fraction, share
from sparsejax.post_training.layer_codes import layer_table
from sparsejax.regulariser import Regulariser
from sparsejax.regularisers.shared_codebook import shared_codebook

OPTIONS: dict[str, Any] = {
    'kept': '',               # shares of weights, '0.08' or 'dense0=0.08,dense1=0.09,head=0.26'
    'quality': 0.0,           # or a threshold in standard deviations of each layer, above 0
    'rounds': 4,
    'round_epochs': 8,
    'last_epochs': 20,        # of the last round
    'prune_rate': 0.05,       # learning rate at the start of each round
    'decay': 2e-4,            # L2 while retraining, per example: nats are this times their number
    'bits': 5,                # of a code; 2^bits - 1 clusters and zero
    'convolution_bits': 8,    # of convolutions
    'initialisation': 'linear',
    'tune_epochs': 8,
    'tune_rate': 1e-4,        # learning rate of codebooks at the start; gradients are sums
    'coding': 'smallest',     # 'deep_compression' gives the file the paper's own form
}


def compress(subject: Subject, options: dict[str, Any], console: Console) -> Compressed:
  """Returns the compact network with a trained codebook in each kernel.

  Raises:
    ValueError: for a dense run without `kept` and `quality`, or a share that is none.
  """
  stages = []

  def note(stage, model, variables, **more):
    error = None
    if subject.data.watched == 'validation':
      error = validation_error_percent(subject.recipe._replace(model=model), variables,
                                       subject.data.watched_images, subject.data.watched_labels)
      console.print(f'{stage}: validation error {error:.2f} %')
    stages.append({'stage': stage, 'validation_error_percent': error,
                   'weights_kept': _kept(variables['params']), **more})

  variables = subject.variables
  shares = final_shares(variables['params'], options)
  if shares:
    variables = prune(subject, shares, options, console)
    note('pruned and retrained', subject.recipe.model, variables, shares=shares)
  model, small = subject.compacted(variables)
  bits = {re.escape(path): options['bits' if leaf.ndim == 2 else 'convolution_bits']
          for path, leaf in flatten(small['params']).items() if re.fullmatch('.*kernel', path)}
  shared = share(small['params'], bits, options['initialisation'],
                 rng=np.random.default_rng(subject.config.seed))
  small = {**small, 'params': shared.weights}
  note('shared', model, small, wcss=shared.wcss)
  if options['tune_epochs']:
    method = sparsejax.partition(kernels=('.*kernel', shared_codebook(shared.codes)))
    steps = options['tune_epochs'] * steps_per_epoch(subject)
    small, _ = retrain(subject, model, small, method, name='codebooks', console=console,
                       learning_rate=falling(options['tune_rate'], steps),
                       epochs=options['tune_epochs'])
    note('codebooks retrained', model, small)
  dense = {path: leaf.size for path, leaf in flatten(subject.variables['params']).items()}
  rows = layer_table(small['params'], dense)
  return Compressed(model, small, options['coding'], tuple(stages),
                    tuple(row.row() for row in rows))


def prune(subject: Subject, shares: dict[str, float], options: dict[str, Any],
          console: Console) -> dict[str, Any]:
  """Prunes in rounds, with training after each; returns the deployed variables.

  Args:
    shares: {path of a kernel: share of its weights that the last round leaves}.
  """
  rounds, steps = options['rounds'], steps_per_epoch(subject)
  every = options['round_epochs'] * steps
  last = options['last_epochs'] * steps
  decay = options['decay'] * len(subject.data.images)
  rules = {f'kernel{i}': (re.escape(path), sparsejax.chain(
      sparsejax.magnitude_pruning(sparsejax.iterative_sparsity(1 - kept, rounds, 1, every),
                                  every=every), sparsejax.weight_decay(decay)))
           for i, (path, kept) in enumerate(shares.items())}
  rate = options['prune_rate']

  def learning_rate(step):
    number = jnp.minimum(step // every, rounds - 1)
    length = jnp.where(number == rounds - 1, last, every)
    return rate * (1 - (step - number * every) / length)
  variables, _ = retrain(subject, subject.recipe.model, subject.variables,
                         keeping_zeros(sparsejax.partition(**rules)), name='pruning',
                         console=console, learning_rate=learning_rate,
                         epochs=options['round_epochs'] * (rounds - 1) + options['last_epochs'])
  return variables


def keeping_zeros(method: Regulariser) -> Regulariser:
  """Returns a partition of chains on `magnitude_pruning` that starts from the mask of its weights.

  Its own masks start with every weight alive, zeros of a pruned network too.
  """
  def init(key, weights):
    params, state = method.init(key, weights)
    alive = {name: map_leaves(lambda path, leaf: leaf != 0, params[name]) for name in state}
    return params, {name: {**own, 'a': {**own['a'], 'mask': alive[name]}}
                    for name, own in state.items()}
  return method._replace(init=init)


def final_shares(weights: Tree, options: dict[str, Any]) -> dict[str, float]:
  """Returns {path of a kernel: share of weights to keep}; {} where the run is pruned already.

  Raises:
    ValueError: for a dense run without `kept` and `quality`, both of them, a layer that is not
      there or left out, or a share outside (0, 1].
  """
  kernels = {path: np.asarray(leaf) for path, leaf in flatten(weights).items()
             if re.fullmatch('.*kernel', path)}
  kept, quality = options['kept'], options['quality']
  if kept and quality:
    raise ValueError(f'kept={kept!r} and quality={quality:g} both say how much stays; give one')
  if quality:
    shares = {path: kept_fraction(leaf, quality) for path, leaf in kernels.items()}
  elif '=' in kept:
    named = dict(part.split('=', 1) for part in kept.split(','))
    layers = {path.removesuffix('/kernel'): path for path in kernels}
    if set(named) != set(layers):
      raise ValueError(f'kept={kept!r} names {", ".join(sorted(named))}; layers are '
                       f'{", ".join(sorted(layers))}, and each needs its share')
    shares = {layers[layer]: _number(value) for layer, value in named.items()}
  elif kept:
    shares = dict.fromkeys(kernels, _number(kept))
  elif not any((leaf == 0).any() for leaf in kernels.values()):
    raise ValueError('the run holds no pruned weights: say what to keep, --set=kept=0.08 or '
                     '--set=quality=1.5, or train it by experiments/configs/HaMD15')
  else:
    return {}
  for path, share_kept in shares.items():
    if not 0 < share_kept <= 1:
      raise ValueError(f'a share of {share_kept:g} of {path} is to be kept; it must lie in (0, 1]')
  return shares


def _number(text: str) -> float:
  try:
    return float(text)
  except ValueError as error:
    raise ValueError(f'kept={text!r} is no number') from error


def _kept(weights: Tree) -> int:
  return sum(int(np.count_nonzero(leaf)) for leaf in flatten(weights).values() if leaf.ndim >= 2)
