"""An embedding turned into its principal axes: the same network, written in fewer numbers.

A posterior per weight can remove entries of an embedding, but not directions in it. What training
has learnt about a word lies in a few directions of the embedding's space (in one, when reviews are
told good from bad), and in all of its dimensions, since Adam moves all of them alike. With V the
eigenvectors of E^T E, the largest first, and W the kernels that read the embedding,

  E W = (E V) (V^T W),

and E V holds the few directions in its first columns. The mean network computes what it did. The
noise of a factorised posterior is not invariant: entry j of a rotated row has the variance
sum_d V_dj^2 sigma_d^2, its covariances are dropped.

This is no part of the papers' recipes, whose embeddings start from word2vec and take hundreds of
epochs to gather; Ashkboos et al., "SliceGPT", 2024, arXiv:2401.15024, rotate trained networks so.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from sparsejax.cell_paths import cell_kernels
from sparsejax.paths import Tree, flatten, unflatten
from sparsejax.regulariser import Regulariser

Array = jax.Array


def principal_axes(embedding: Array) -> Array:
  """Returns V (n, n), whose columns are the eigenvectors of E^T E, the largest eigenvalue first.

  Args:
    embedding: E (tokens, n). Of each column of V the entry of largest magnitude is positive.
  """
  vectors = jnp.linalg.eigh(embedding.T @ embedding)[1][:, ::-1]
  largest = jnp.argmax(jnp.abs(vectors), axis=0)
  return vectors * jnp.sign(jnp.take_along_axis(vectors, largest[None], axis=0))


def rotated(axes: Array, theta: Array, log_sigma2: Array) -> tuple[Array, Array]:
  """Returns mean and log variance of the entries of w V for w ~ N(theta, sigma^2), (m, n) each.

  Args:
    axes: V (n, n), orthogonal. theta, log_sigma2: (m, n).
  """
  return theta @ axes, jnp.log(jnp.exp(log_sigma2) @ jnp.square(axes))


def in_principal_axes(embedding: Tree, readers: Tree, kernels: Sequence[str],
                      scales: Array | float = 1.0) -> tuple[Tree, Tree]:
  """Returns the parameters of both posteriors after the rotation.

  Args:
    embedding: {'theta', 'log_sigma2'} of `sparse_variational_dropout`, of one leaf (tokens, n).
    readers: likewise, of kernels, `kernels` (paths, each (n, units)) among them: all that read it.
    scales: (1, n) factors between the embedding and the kernels, which the embedding takes over.
  """
  (path, theta), = flatten(embedding['theta']).items()
  log_sigma2 = flatten(embedding['log_sigma2'])[path]
  axes = principal_axes(theta * scales)
  theta, log_sigma2 = rotated(axes, theta * scales, log_sigma2 + jnp.log(jnp.square(scales)))
  means, variances = flatten(readers['theta']), flatten(readers['log_sigma2'])
  for kernel in kernels:
    mean, variance = rotated(axes, means[kernel].T, variances[kernel].T)
    means[kernel], variances[kernel] = mean.T, variance.T
  return ({'theta': unflatten({path: theta}), 'log_sigma2': unflatten({path: log_sigma2})},
          {'theta': unflatten(means), 'log_sigma2': unflatten(variances)})


def turning(method: Regulariser, at: int | None, cells: str) -> Regulariser:
  """Returns `method`, that of `bayesian_rnn`, which turns its embedding behind step `at`.

  The means of the group 'inputs', where there is one, pass into the embedding and are 1 again.

  Args:
    at: steps, 1 or more; None: never. cells: pattern of the paths of the cells.
  """
  if at is None:
    return method

  def turned(params):
    grouped = 'inner' in params
    inner = params['inner'] if grouped else params
    readers = inner['cells']
    first, *_ = cell_kernels(flatten(readers['theta']), cells).values()
    inputs = params['mean'].get('inputs') if grouped else None
    scales = 1.0 if inputs is None else jax.tree.leaves(inputs)[0].reshape(1, -1)
    new, readers = in_principal_axes(inner['embedding'], readers, list(first['i'].values()), scales)
    inner = {**inner, 'embedding': new, 'cells': readers}
    if not grouped:
      return inner
    mean = params['mean'] if inputs is None else {
        **params['mean'], 'inputs': jax.tree.map(jnp.ones_like, inputs)}
    return {**params, 'inner': inner, 'mean': mean}

  def update(params, state, *, step, weight_grads=None, key=None):
    params, state = method.update(params, state, step=step, weight_grads=weight_grads, key=key)
    return jax.lax.cond(step + 1 == at, turned, lambda params: params, params), state

  return method._replace(update=update)
