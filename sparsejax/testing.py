"""The laws every regulariser obeys, as a check for our methods and for anybody's.

    from sparsejax.testing import check_regulariser
    check_regulariser(my_method(strength=0.1))

Each law is a function of its own and raises AssertionError naming the law and the leaf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax.paths import Tree, flatten
from sparsejax.regulariser import Regulariser, finalise
from sparsejax.structured import densify, is_structured

Array = jax.Array

JIT_TOLERANCE = 3e-7      # relative to the largest entry: one or two units in the last place
VMAP_TOLERANCE = 1e-5     # batched products sum in another order
EXTREME = 20.0            # of trained parameters, logarithms among them


def example_weights(key: Array, dtype: Any = jnp.float32) -> Tree:
  """Returns a small tree: two dense kernels, a convolution and an all-zero input row."""
  k1, k2, k3 = jax.random.split(key, 3)
  first = jax.random.normal(k1, (8, 6)).at[2].set(0.0)
  return {
      'dense0': {'kernel': first.astype(dtype)},
      'conv': {'kernel': jax.random.normal(k2, (3, 3, 4, 6)).astype(dtype)},
      'head': {'kernel': jax.random.normal(k3, (8, 4)).astype(dtype)},
  }


def check_regulariser(regulariser: Regulariser, weights: Tree | None = None, *,
                      oracle: Callable[[Tree, Tree], float] | None = None,
                      oracle_tolerance: float = 1e-5) -> None:
  """Checks the laws that can be checked without a network.

  Args:
    regulariser: the method.
    weights: the leaves it owns; `example_weights` by default.
    oracle: (params, state) as NumPy trees -> penalty in nats, computed independently.
    oracle_tolerance: relative; derive it from the sample size for a Monte Carlo oracle.

  Raises:
    AssertionError: at the first law that does not hold.
  """
  key = jax.random.key(20)
  weights = example_weights(jax.random.key(7)) if weights is None else weights
  params, state = jax.jit(regulariser.init)(key, weights)
  check_shapes(regulariser, weights, params, state, key)
  check_jit_and_vmap(regulariser, params, state, key)
  check_deployed(regulariser, params, state)
  check_gradients(regulariser, params, state, key)
  check_penalty(regulariser, params, state, key, oracle, oracle_tolerance)
  check_updates(regulariser, params, state, key)
  check_resume(regulariser, params, state, key)


def check_shapes(regulariser, weights, params, state, key) -> None:
  """Law 1: the paths, shapes and dtypes given to `init` come back, drawn and deployed."""
  wanted = flatten(weights)
  for draw in (None, key):
    got = flatten(regulariser.weights(params, state, draw))
    assert got.keys() == wanted.keys(), (
        f'law 1: weights has the paths {sorted(got)}, init was given {sorted(wanted)}')
    for path, leaf in wanted.items():
      seen = (tuple(got[path].shape), got[path].dtype)
      assert seen == (leaf.shape, leaf.dtype), (
          f'law 1: {path} is {seen}, init was given {(leaf.shape, leaf.dtype)}')


def check_jit_and_vmap(regulariser, params, state, key) -> None:
  """Law 1: jit equals eager; vmap over keys and over the numbers in state equals single runs."""
  _assert_close(jax.jit(regulariser.weights)(params, state, key),
                regulariser.weights(params, state, key), JIT_TOLERANCE, 'law 1: jit against eager')
  keys = jax.random.split(key, 2)
  many = jax.jit(jax.vmap(regulariser.weights, (None, None, 0)))(params, state, keys)
  for i in range(2):
    _assert_close(jax.tree.map(lambda leaf: leaf[i], many), regulariser.weights(  # noqa: B023
        params, state, keys[i]), VMAP_TOLERANCE, 'law 1: vmap over keys')
  states = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
  if jax.tree.leaves(states):
    penalties = jax.jit(jax.vmap(regulariser.penalty, (None, 0, None)))(params, states, key)
    _assert_close(penalties[1], regulariser.penalty(params, state, key), VMAP_TOLERANCE,
                  'law 1: vmap over the numbers in state')


def check_deployed(regulariser, params, state) -> None:
  """Law 2: without a key the weights are deterministic, and equal the densified `finalise`."""
  first = regulariser.weights(params, state)
  again = regulariser.weights(params, state, None)
  assert not any(map(is_structured, jax.tree.leaves(first, is_leaf=is_structured))), (
      'law 2: weights without a key must be plain arrays')
  _assert_close(first, again, 0.0, 'law 2: weights(params, state) is not deterministic')
  _assert_close(densify(finalise(regulariser, params, state)), first, JIT_TOLERANCE,
                'law 2: finalise against weights(params, state)')


def check_gradients(regulariser, params, state, key) -> None:
  """Law 3: gradients are finite, also at zero and at extreme parameters, drawn and deployed."""
  def loss(params, draw):
    drawn = regulariser.weights(params, state, draw)
    floats = [leaf for leaf in jax.tree.leaves(drawn) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return sum(jnp.sum(leaf.astype(jnp.float32)) for leaf in floats) + regulariser.penalty(
        params, state, draw)

  def filled(value):
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, value), params)

  grad = jax.jit(jax.grad(loss))
  for name, point in (('init', params), ('zero', filled(0.0)), (f'+{EXTREME}', filled(EXTREME)),
                      (f'-{EXTREME}', filled(-EXTREME))):
    for draw in (None, key):
      for path, leaf in flatten(grad(point, draw)).items():
        assert np.all(np.isfinite(np.asarray(leaf, np.float32))), (
            f'law 3: the gradient at {path} is not finite with parameters at {name}')


def check_penalty(regulariser, params, state, key, oracle, tolerance) -> None:
  """Law 4: the penalty is a real scalar in nats, equal to an independent oracle."""
  value = regulariser.penalty(params, state, key)
  assert value.shape == () and value.dtype == jnp.float32, (
      f'law 4: the penalty is {value.dtype} of shape {value.shape}, not one float32')
  assert np.isfinite(value), f'law 4: the penalty is {value}'
  if oracle is not None:
    wanted = oracle(*jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, state)))
    np.testing.assert_allclose(value, wanted, rtol=tolerance, atol=tolerance,
                               err_msg='law 4: the penalty against its oracle')


def check_updates(regulariser, params, state, key) -> None:
  """Law 5 and the shapes of `update`: what a mask removed stays exactly zero.

  Ten steps of momentum with decay, and an average of the params as evaluation uses it.
  """
  step = _TrainingStep(regulariser, optax.chain(optax.add_decayed_weights(1e-2),
                                                 optax.sgd(0.1, momentum=0.9)))
  optimiser = step.optimiser.init(params)
  average = params
  removed: dict[str, np.ndarray] = {}
  for i in range(10):
    new = step(params, state, optimiser, jnp.int32(i), key)
    for before, after in zip(jax.tree.leaves((params, state)), jax.tree.leaves(new[:2])):
      assert (before.shape, before.dtype) == (after.shape, after.dtype), (
          f'update changes {before.dtype}{before.shape} to {after.dtype}{after.shape}; a scan needs '
          'both to stay')
    assert jax.tree.structure((params, state)) == jax.tree.structure(new[:2]), (
        'update changes the structure of params or state')
    params, state, optimiser = new
    average = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, average, params)
    for source, tree in (('momentum and decay', params), ('an average', average)):
      for path, leaf in flatten(regulariser.weights(tree, state)).items():
        if path in removed:
          assert not np.any(np.asarray(leaf)[removed[path]]), (
              f'law 5: {source} revived pruned weights of {path} in step {i}')
    for path, mask in _masks(state).items():
      removed[path] = np.logical_not(mask)


def check_resume(regulariser, params, state, key) -> None:
  """Law 6: saved as arrays and restored, the same program goes on bit for bit."""
  step = _TrainingStep(regulariser, optax.adam(1e-2))

  def run(carry, first, last):
    for i in range(first, last):
      carry = step(*carry, jnp.int32(i), key)
    return carry

  start = (params, state, step.optimiser.init(params))
  through = run(start, 0, 4)
  saved = jax.tree.map(np.asarray, run(start, 0, 2))
  restored = run(jax.tree.map(jnp.asarray, saved), 2, 4)
  for (path, a), b in zip(jax.tree_util.tree_flatten_with_path(through)[0],
                          jax.tree.leaves(restored)):
    assert np.array_equal(np.asarray(a), np.asarray(b)), (
        f'law 6: {jax.tree_util.keystr(path)} differs after a restart')


class _TrainingStep:
  """One optimiser step on a quadratic loss of the drawn weights, compiled."""

  def __init__(self, regulariser: Regulariser, optimiser: optax.GradientTransformation):
    self.regulariser, self.optimiser = regulariser, optimiser
    self._step = jax.jit(self._take)

  def __call__(self, params, state, optimiser, step, key):
    return self._step(params, state, optimiser, step, key)

  def _take(self, params, state, optimiser, step, key):
    key = jax.random.fold_in(key, step)

    def loss_of_weights(weights):
      floats = [leaf for leaf in jax.tree.leaves(weights)
                if jnp.issubdtype(leaf.dtype, jnp.floating)]
      return sum(jnp.square(leaf.astype(jnp.float32) - 0.3).mean() for leaf in floats)

    def loss(params):
      drawn = self.regulariser.weights(params, state, key)
      return loss_of_weights(drawn) + self.regulariser.penalty(params, state, key) / 1000

    weight_grads = None
    if self.regulariser.needs_weight_grads:
      weight_grads = jax.grad(loss_of_weights)(self.regulariser.weights(params, state, key))
    updates, optimiser = self.optimiser.update(jax.grad(loss)(params), optimiser, params)
    params, state = self.regulariser.update(
        optax.apply_updates(params, updates), state, step=step, weight_grads=weight_grads, key=key)
    return params, state, optimiser


def _masks(state: Tree) -> dict[str, np.ndarray]:
  """Returns {path of the weight: mask} for every tree named `mask` in the state."""
  found = {}
  for path, leaf in flatten(state).items():
    parts = path.split('/')
    if 'mask' in parts:
      found['/'.join(parts[parts.index('mask') + 1:])] = np.asarray(leaf)
  return found


def _assert_close(got: Any, wanted: Any, tolerance: float, law: str) -> None:
  """Compares the floating leaves, relative to the largest entry of each."""
  pairs = zip(jax.tree_util.tree_flatten_with_path(got)[0], jax.tree.leaves(wanted))
  for (path, a), b in pairs:
    if not jnp.issubdtype(jnp.asarray(a).dtype, jnp.floating):
      continue
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    scale = np.max(np.abs(b), initial=0.0)
    worst = np.max(np.abs(a - b), initial=0.0)
    assert worst <= tolerance * max(scale, 1e-30), (
        f'{law}, at {jax.tree_util.keystr(path)}: differs by {worst:.3g} of {scale:.3g}')
