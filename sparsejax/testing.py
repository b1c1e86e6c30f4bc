"""The laws every regulariser obeys, as a check for our methods and for anybody's.

    from sparsejax.testing import check_regulariser
    check_regulariser(my_method(strength=0.1))

1. The paths, shapes and dtypes given to `init` come back; jit equals eager, vmap single runs.
2. Without a key the weights are deterministic, plain or packed, and equal, densified, to the
   densified `finalise`.
3. Gradients are finite, also at zero weights and at extreme parameters, drawn and deployed.
4. The penalty is one float32, finite, and equal to an independent oracle.
5. What a mask in the state removed stays exactly zero under momentum, decay and averaging.
6. `update` keeps structure, shapes and dtypes, and a run restored from arrays goes on bit for bit.

Each raises AssertionError naming the law and the leaf. The time goes to compilation, so there are
only three programs: `init`, `weights`, and one training step of a small population whose members
stand at the points where gradients are checked and whose first member is trained on.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax.paths import Tree, flatten
from sparsejax.regulariser import Regulariser, finalise
from sparsejax.structured import Stochastic, densify, is_structured

Array = jax.Array

JIT_TOLERANCE = 3e-7      # relative to the largest entry: one or two units in the last place
VMAP_TOLERANCE = 1e-5     # batched products sum in another order
EXTREME = 20.0            # of trained parameters, logarithms among them
STEPS = 10                # of training
MEMBERS = ('init', 'other numbers', 'zero weights', 'zero', f'+{EXTREME}', f'-{EXTREME}')


def example_weights(key: Array, dtype: Any = jnp.float32) -> Tree:
  """Returns a small tree: two dense kernels, a convolution, an all-zero input row and unit."""
  k1, k2, k3 = jax.random.split(key, 3)
  first = jax.random.normal(k1, (8, 6)).at[2].set(0.0).at[:, 1].set(0.0)
  return {
      'dense0': {'kernel': first.astype(dtype)},
      'conv': {'kernel': jax.random.normal(k2, (3, 3, 4, 6)).astype(dtype)},
      'head': {'kernel': jax.random.normal(k3, (8, 6)).astype(dtype)},
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
  weights = example_weights(jax.random.key(7)) if weights is None else weights
  keys = jax.random.split(jax.random.key(20), (STEPS, len(MEMBERS)))
  init = jax.jit(regulariser.init)
  params, state = init(keys[0, 0], weights)
  check_shapes(regulariser, weights, params, state, keys[0, 0])
  read = jax.jit(lambda *args: (regulariser.weights(*args[:2]), regulariser.weights(*args),
                                regulariser.penalty(*args)))
  check_deployed(regulariser, params, state)
  check_jit(regulariser, read, params, state, keys[0, 0])
  check_penalty(read(params, state, keys[0, 0])[2], params, state, oracle, oracle_tolerance)

  at_zero, _ = init(keys[0, 0], jax.tree.map(np.zeros_like, weights))
  population = _Population(regulariser, params, state, at_zero)
  check_update(population)
  runs, seen = population.run(population.start, keys, 0, STEPS)
  check_vmap(read, population, seen[0], keys[0])
  check_gradients(seen[0])
  check_masks(runs, seen)
  end = _member(runs[-1])
  check_deployed(regulariser, end.params, end.state)
  check_resume(population, runs, keys)


# --- one law each ---------------------------------------------------------------------------------


def check_shapes(regulariser: Regulariser, weights: Tree, params: Tree, state: Tree,
                 key: Array) -> None:
  """Law 1: the paths, shapes and dtypes given to `init` come back, drawn and deployed."""
  wanted = flatten(weights)
  for drawn in jax.eval_shape(lambda *args: (regulariser.weights(*args[:2]),
                                             regulariser.weights(*args)), params, state, key):
    got = flatten(drawn)
    assert got.keys() == wanted.keys(), (
        f'law 1: weights has the paths {sorted(got)}, init was given {sorted(wanted)}')
    for path, leaf in wanted.items():
      seen = (tuple(got[path].shape), got[path].dtype)
      assert seen == (leaf.shape, leaf.dtype), (
          f'law 1: {path} is {seen}, init was given {(leaf.shape, leaf.dtype)}')


def check_jit(regulariser: Regulariser, read: Callable, params: Tree, state: Tree,
              key: Array) -> None:
  """Law 1: the compiled weights, `read`, equal those of eager calls, drawn and deployed."""
  deployed, drawn, _ = read(params, state, key)
  for name, got, wanted in (('deployed', deployed, regulariser.weights(params, state)),
                            ('drawn', drawn, regulariser.weights(params, state, key))):
    _assert_close(got, wanted, JIT_TOLERANCE, f'law 1: jit against eager, {name}')


def check_vmap(read: Callable, population: _Population, seen: dict, keys: Array) -> None:
  """Law 1: vmap over keys, params and the numbers in the state equals single runs."""
  for i in range(2):
    start = _member(population.start, i)
    _, drawn, penalty = read(start.params, start.state, keys[i])
    law = f'law 1: vmap against a single run, member {MEMBERS[i]!r}'
    _assert_close(_member(seen['drawn'], i), drawn, VMAP_TOLERANCE, law)
    _assert_close(_member(seen['penalty'], i), penalty, VMAP_TOLERANCE, f'{law}, penalty')


def check_deployed(regulariser: Regulariser, params: Tree, state: Tree) -> None:
  """Law 2: without a key the weights are deterministic, and equal the densified `finalise`."""
  first = regulariser.weights(params, state)
  again = regulariser.weights(params, state, None)
  assert not any(isinstance(leaf, Stochastic)
                 for leaf in jax.tree.leaves(first, is_leaf=is_structured)), (
      'law 2: weights without a key must be plain arrays, or packed ones')
  _assert_close(first, again, 0.0, 'law 2: weights(params, state) is not deterministic')
  _assert_close(densify(finalise(regulariser, params, state)), densify(first), JIT_TOLERANCE,
                'law 2: finalise against weights(params, state)')


def check_gradients(seen: dict) -> None:
  """Law 3: gradients are finite at every member of the population, drawn and deployed."""
  for kind in ('drawn', 'deployed'):
    for path, leaf in flatten(seen[f'grad_{kind}']).items():
      for name, values in zip(MEMBERS, np.asarray(leaf, np.float32)):
        assert np.all(np.isfinite(values)), (
            f'law 3: the gradient at {path} ({kind}) is not finite with parameters at {name}')


def check_penalty(value: Array, params: Tree, state: Tree,
                  oracle: Callable[[Tree, Tree], float] | None, tolerance: float) -> None:
  """Law 4: the penalty is a real scalar in nats, equal to an independent oracle."""
  assert value.shape == () and value.dtype == jnp.float32, (
      f'law 4: the penalty is {value.dtype} of shape {value.shape}, not one float32')
  assert np.isfinite(value), f'law 4: the penalty is {value}'
  if oracle is not None:
    wanted = oracle(*jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, state)))
    np.testing.assert_allclose(value, wanted, rtol=tolerance, atol=tolerance,
                               err_msg='law 4: the penalty against its oracle')


def check_masks(runs: list[_Run], seen: list[dict]) -> None:
  """Law 5: what a mask removed stays exactly zero, in the params and in an average of them.

  A mask may grow back (RigL), but from zero: the params are read with the mask of the step before.
  """
  before: dict[str, Array] = {}
  for i, (run, values) in enumerate(zip(runs, seen)):
    now = _masks(_member(run.state))
    for source, tree, masks in (('momentum and decay', values['deployed'], before),
                                ('an average', values['averaged'], now)):
      for path, leaf in flatten(_member(tree)).items():
        if path in masks:
          removed = np.broadcast_to(np.logical_not(masks[path]), leaf.shape)
          assert not np.any(np.asarray(leaf)[removed]), (
              f'law 5: {source} revived pruned weights of {path} in step {i}')
    before = now


def check_update(population: _Population) -> None:
  """Law 6: `update` keeps the structure, shapes and dtypes of params and state."""
  before, after = _by_path(population.start), _by_path(population.traced.out_info[0])
  assert before.keys() == after.keys(), (
      f'law 6: update changes the structure of params or state: '
      f'{sorted(before.keys() ^ after.keys())} came or went')
  for path, old in before.items():
    new = after[path]
    assert (old.shape, old.dtype) == (new.shape, new.dtype), (
        f'law 6: update changes {path} from {old.dtype}{old.shape[1:]} to '
        f'{new.dtype}{new.shape[1:]}; a scan and a restored run need both to stay')


def check_resume(population: _Population, runs: list[_Run], keys: Array) -> None:
  """Law 6: saved as arrays and restored, the same program goes on bit for bit.

  A restart also traces anew: whatever `update` keeps outside params and state, a counter in Python
  for one, would give another program.
  """
  assert population.text == _text(population.trace()), (
      'law 6: traced again, the training step is another program; keep in the state whatever '
      'changes between steps')
  saved = jax.tree.map(np.asarray, runs[1])
  restored, _ = population.run(jax.tree.map(jnp.asarray, saved), keys, 2, 4)
  after = _by_path(restored[-1])
  for path, leaf in _by_path(runs[3]).items():
    assert np.array_equal(np.asarray(leaf), np.asarray(after[path]), equal_nan=True), (
        f'law 6: {path} differs after a restart')


# --- the population -------------------------------------------------------------------------------


class _Run(NamedTuple):
  """What changes in training; every leaf has the members of the population in front."""

  params: Tree
  state: Tree
  optimiser: Any
  average: Tree


class _Population:
  """MEMBERS as one vmapped training step: Adam with decay on a quadratic loss of the weights."""

  def __init__(self, regulariser: Regulariser, params: Tree, state: Tree, at_zero: Tree):
    def filled(value):
      return jax.tree.map(lambda leaf: np.full(leaf.shape, value, leaf.dtype), params)

    def other(leaf):
      number = leaf.ndim == 0 and jnp.issubdtype(leaf.dtype, jnp.floating)
      return np.asarray(leaf) * leaf.dtype.type(0.5) if number else leaf

    self.regulariser = regulariser
    self.rule = optax.adamw(0.1, weight_decay=1e-2)
    many = _stack(params, params, at_zero, filled(0.0), filled(EXTREME), filled(-EXTREME))
    # Adam starts from zeros: made by NumPy, they need no program.
    moments = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype),
                           jax.eval_shape(jax.vmap(self.rule.init), many))
    self.start = _Run(many, _stack(state, jax.tree.map(other, state), *[state] * 4), moments, many)
    self.traced = self.trace()
    self.text = _text(self.traced)

  def trace(self) -> Any:
    """Returns the step traced from its Python code."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), len(MEMBERS)))

    def step(*args):  # a new function each time, for jit remembers what it has traced
      return jax.vmap(self._step, (0, 0, None))(*args)
    return jax.jit(step).trace(self.start, keys, jnp.int32(0))

  @functools.cached_property
  def _compiled(self) -> Any:
    return self.traced.lower().compile()

  def run(self, start: _Run, keys: Array, first: int,
          last: int) -> tuple[list[_Run], list[dict]]:
    """Returns the run after each step in [first, last), and what was seen in that step."""
    runs, seen = [], []
    for i in range(first, last):
      start, values = self._compiled(start, keys[i], jnp.int32(i))
      runs.append(start)
      seen.append(values)
    return runs, seen

  def _step(self, run, key, step):
    params, state, optimiser, average = run
    method = self.regulariser

    def loss_of_weights(weights):
      floats = [leaf for leaf in jax.tree.leaves(weights)
                if jnp.issubdtype(leaf.dtype, jnp.floating)]
      return sum(jnp.square(leaf.astype(jnp.float32) - 0.3).mean() for leaf in floats)

    def loss(params, key):
      drawn, penalty = method.weights(params, state, key), method.penalty(params, state, key)
      return loss_of_weights(drawn) + penalty / 1000, (drawn, penalty)

    grad = jax.grad(loss, has_aux=True)
    grads, (drawn, penalty) = grad(params, key)
    seen = {'drawn': drawn, 'penalty': penalty, 'grad_drawn': grads,
            'grad_deployed': grad(params, None)[0]}
    # A packed weight has indices too.
    weight_grads = (jax.grad(loss_of_weights, allow_int=True)(drawn)
                    if method.needs_weight_grads else None)
    updates, optimiser = self.rule.update(grads, optimiser, params)
    params, state = method.update(
        optax.apply_updates(params, updates), state, step=step, weight_grads=weight_grads, key=key)
    average = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, average, params)
    seen['deployed'], seen['averaged'] = {}, {}
    if _masks(state):
      seen['deployed'] = method.weights(params, state)
      seen['averaged'] = method.weights(average, state)
    return _Run(params, state, optimiser, average), seen


def _text(traced: Any) -> str:
  """Returns a traced program and its constants as text, without the addresses of objects."""
  constants = ' '.join(str(np.asarray(const).tolist()) for const in traced.jaxpr.consts)
  return re.sub('0x[0-9a-f]+', '', f'{traced.jaxpr} {constants}')


def _stack(*trees: Any) -> Any:
  return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def _member(tree: Any, i: int = 0) -> Any:
  """Returns one member of a population; keys of structured weights stay as they are."""
  return jax.tree.map(
      lambda leaf: leaf[i] if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
      else jnp.asarray(np.asarray(leaf)[i]), tree)


def _by_path(tree: Any) -> dict[str, Any]:
  """Returns {path as text: leaf}, with the insides of structured weights and of tuples."""
  return {jax.tree_util.keystr(path): leaf
          for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _masks(state: Tree) -> dict[str, Array]:
  """Returns {path of the weight: mask} for every tree named `mask` in the state.

  A mask inside `blockwise` has the form of the blocks that its method sees; checking that method by
  itself is what shows that it holds.
  """
  found = {}
  for path, leaf in flatten(state).items():
    parts = path.split('/')
    if 'mask' in parts and 'blockwise' not in parts[:parts.index('mask')]:
      found['/'.join(parts[parts.index('mask') + 1:])] = leaf
  return found


def _assert_close(got: Any, wanted: Any, tolerance: float, law: str) -> None:
  """Compares the floating leaves, relative to the largest entry of each."""
  by_path = _by_path(wanted)
  for path, a in _by_path(got).items():
    b = by_path[path]
    if not jnp.issubdtype(a.dtype, jnp.floating):
      continue
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    scale = np.max(np.abs(b), initial=0.0)
    worst = np.max(np.abs(a - b), initial=0.0)
    assert worst <= tolerance * max(scale, 1e-30), (
        f'{law}, at {path}: differs by {worst:.3g} of {scale:.3g}')
