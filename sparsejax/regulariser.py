"""The contract every method fulfils, and the three ways to combine methods.

A regulariser says how a network's weights are drawn, what they cost, how they change and what is
left of them; everything else in the library consumes weights. It is to weights what an optax
`GradientTransformation` is to gradients: a NamedTuple of pure functions, without hidden state.

* `partition(name=(regex, regulariser), ...)`: different methods for different leaves.
* `chain(a, b)`: `b` regularises the parameters of `a`.
* `stacked(a)`: the same method for each layer of a scanned stack.

Over several devices: under `jit` with a sharded batch nothing changes, the draws are those of one
device bit for bit. Under `shard_map` every device runs the same program with the key it is given,
so one key would give the examples of all shards the same noise. Fold the device in where noise is
drawn for examples, and nowhere else, for params and state must stay alike on all devices:

    own = jax.random.fold_in(key, jax.lax.axis_index('data'))
    weights = regulariser.weights(params, state, own)              # and rngs={'noise': own}
    params, state = regulariser.update(params, state, step=step, key=key)
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import core
from flax.core import meta

from sparsejax.paths import Tree, flatten, fold, map_leaves, unflatten
from sparsejax.structured import is_structured

Array = jax.Array
Number = Any  # a float, an array (perhaps traced) or an optax schedule: step -> float


def no_penalty(params: Tree, state: Tree, key: Array | None = None) -> Array:
  """The penalty of a method that has none: 0 nats."""
  del params, state, key
  return jnp.zeros(())


def no_update(params: Tree, state: Tree, *, step, weight_grads=None, key=None) -> tuple[Tree, Tree]:
  """The update of a method that changes nothing between optimiser steps."""
  del step, weight_grads, key
  return params, state


class Regulariser(NamedTuple):
  """A method, as pure functions of its trained `params` and its untrained `state`.

  Attributes:
    init: (key, weights) -> (params, state). `weights` is the nested dict of the leaves it owns.
      Whatever belongs to one weight sits in `params` under that weight's path, with its rank and
      broadcastable to it. `state` holds masks and every strength and temperature as an array.
    weights: (params, state, key=None) -> weights, at the paths, shapes and dtypes given to `init`.
      A key draws them for training; None is the deployed value, without noise.
    penalty: (params, state, key=None) -> true nats for the whole data set, a real scalar. The key
      is the one `weights` got, so a Monte Carlo penalty sees the very draw.
    update: (params, state, *, step, weight_grads=None, key=None) -> (params, state), called after
      each optimiser step. `step` counts from 0.
    finalise: (params, state) -> deployed weights, on the host; leaves may be packed. None stands
      for weights(params, state).
    needs_weight_grads: the trainer passes gradients with respect to the drawn weights to `update`.
  """

  init: Callable[..., tuple[Tree, Tree]]
  weights: Callable[..., Tree]
  penalty: Callable[..., Array] = no_penalty
  update: Callable[..., tuple[Tree, Tree]] = no_update
  finalise: Callable[[Tree, Tree], Tree] | None = None
  needs_weight_grads: bool = False


def finalise(regulariser: Regulariser, params: Tree, state: Tree) -> Tree:
  """Returns the deployed weights as host arrays, with exact zeros; leaves may be packed."""
  if regulariser.finalise is not None:
    return regulariser.finalise(params, state)
  return jax.device_get(regulariser.weights(params, state))


# --- numbers that live in `state` -----------------------------------------------------------------


def initial_numbers(**numbers: Number) -> dict[str, Array]:
  """Returns the numbers as float32 arrays; a schedule gives its value at step 0."""
  return {
      name: jnp.asarray(number(0) if callable(number) else number, jnp.float32)
      for name, number in numbers.items()
  }


def advance_numbers(state: Tree, step: Array | int, **numbers: Number) -> Tree:
  """Returns `state` with each schedule at step + 1.

  Numbers that are no schedule are left as they are in `state`: a population has them vmapped
  there, and a controller writes them there.
  """
  moving = {name: number for name, number in numbers.items() if callable(number)}
  if not moving:
    return state
  values = {name: jnp.asarray(number(step + 1), jnp.float32) for name, number in moving.items()}
  return {**state, **values}


def require_nonnegative(**numbers: Number) -> None:
  """Raises ValueError for a negative or non-finite number, where it is concrete."""
  for name, number in numbers.items():
    if callable(number) or isinstance(number, jax.core.Tracer):
      continue
    value = np.asarray(number)
    if not np.all(np.isfinite(value)) or np.any(value < 0):
      raise ValueError(f'{name}={number} must be finite and not negative; to switch a term off, '
                       f'set {name}=0.0')


def require_fraction(**numbers: Number) -> None:
  """Raises ValueError for a number outside [0, 1), where it is concrete."""
  for name, number in numbers.items():
    if callable(number) or isinstance(number, jax.core.Tracer):
      continue
    value = np.asarray(number)
    if not np.all((value >= 0) & (value < 1)):
      raise ValueError(f'{name}={number} must lie in [0, 1)')


# --- combinations ---------------------------------------------------------------------------------

FREE = 'free'


def owners(paths: list[str], rules: Mapping[str, str]) -> dict[str, str]:
  """Returns {path: rule name, or 'free'} for rules {name: regular expression}, full matches only.

  Raises:
    ValueError: if a rule matches no path, or two rules match the same one.
  """
  owner = {}
  for path in paths:
    claims = [name for name, pattern in rules.items() if re.fullmatch(pattern, path)]
    if len(claims) > 1:
      raise ValueError(f'{path} is claimed by the rules {" and ".join(map(repr, sorted(claims)))}; '
                       'narrow one of their patterns')
    owner[path] = claims[0] if claims else FREE
  for name, pattern in rules.items():
    if name not in owner.values():
      near = difflib.get_close_matches(pattern, paths, n=1)
      hint = f'; did you mean {near[0]!r}?' if near else ''
      raise ValueError(f'rule {name!r} ({pattern!r}) matches no parameter; '
                       f'parameters are {", ".join(paths)}{hint}')
  return owner


def partition(**rules: tuple[str, Regulariser]) -> Regulariser:
  """Different methods for different leaves: `partition(head=('head/kernel', l1(0.1)))`.

  Args:
    **rules: name=(regular expression, regulariser). The expression must match the whole
      '/'-joined path of a leaf. Leaves of no rule are plain trained weights, under `free`.

  Raises:
    ValueError: for a rule named 'free', and from `init` for a rule that matches nothing or a leaf
      that two rules match. The order of the rules never matters.
  """
  if FREE in rules:
    raise ValueError(f'the rule name {FREE!r} is reserved for the leaves of no rule; rename it')
  patterns = {name: pattern for name, (pattern, _) in rules.items()}
  methods = {name: method for name, (_, method) in rules.items()}

  def split(tree):
    flat = flatten(tree)
    owner = owners(list(flat), patterns)
    return {
        name: unflatten({path: leaf for path, leaf in flat.items() if owner[path] == name})
        for name in (FREE, *methods)
    }

  def join(parts):
    return unflatten({path: leaf for part in parts for path, leaf in flatten(part).items()})

  def init(key, weights):
    # Boxes of Flax's own (nn.Partitioned) carry names of axes, which no method needs.
    # Flax's own boxes, such as nn.Partitioned, are opened; packed weights are weights.
    parts = split(map_leaves(lambda path, leaf: leaf if is_structured(leaf) else meta.unbox(leaf),
                             core.unfreeze(weights)))
    params = {FREE: parts[FREE]} if parts[FREE] else {}
    state = {}
    for name, method in methods.items():
      params[name], state[name] = method.init(fold(key, name), parts[name])
    return params, state

  def weights(params, state, key=None):
    return join([params.get(FREE, {})] + [
        method.weights(params[name], state[name], fold(key, name))
        for name, method in methods.items()
    ])

  def penalty(params, state, key=None):
    terms = [method.penalty(params[name], state[name], fold(key, name))
             for name, method in methods.items()]
    return sum(terms, jnp.zeros(()))

  def update(params, state, *, step, weight_grads=None, key=None):
    grads = {} if weight_grads is None else split(weight_grads)
    params, state = dict(params), dict(state)
    for name, method in methods.items():
      params[name], state[name] = method.update(
          params[name], state[name], step=step, weight_grads=grads.get(name), key=fold(key, name))
    return params, state

  def finalise_all(params, state):
    return join([jax.device_get(params.get(FREE, {}))] + [
        finalise(method, params[name], state[name]) for name, method in methods.items()
    ])

  return Regulariser(init, weights, penalty, update, finalise_all,
                     any(method.needs_weight_grads for method in methods.values()))


def chain(a: Regulariser, b: Regulariser) -> Regulariser:
  """`b` regularises the parameters of `a`: group lasso on low-rank factors, say.

  `a` sees what `b` draws, also in its penalty: with `b`'s thresholded value, pruned entries would
  get no gradient. `a.update` may change its parameters only where `b` passes them through as they
  are; elsewhere there is no way back through `b`.

  Raises:
    ValueError: if `b` draws structured weights (noise='local', per='example'), which `a` cannot
      compute with, or if `a.update` changes a parameter that `b` transforms.
  """

  def inner(params, state, key):
    drawn = b.weights(params, state['b'], fold(key, 'b'))
    for path, leaf in flatten(drawn).items():
      if is_structured(leaf):
        raise ValueError(f'in chain(a, b), b draws a {type(leaf).__name__} at {path}, which a '
                         "cannot compute with; use noise='weight' or per='batch' in b")
    return drawn

  def init(key, weights):
    params_a, state_a = a.init(fold(key, 'a'), weights)
    params_b, state_b = b.init(fold(key, 'b'), params_a)
    return params_b, {'a': state_a, 'b': state_b}

  def weights(params, state, key=None):
    return a.weights(inner(params, state, key), state['a'], fold(key, 'a'))

  def penalty(params, state, key=None):
    own = b.penalty(params, state['b'], fold(key, 'b'))
    return own + a.penalty(inner(params, state, key), state['a'], fold(key, 'a'))

  def update(params, state, *, step, weight_grads=None, key=None):
    middle = inner(params, state, key)
    middle_grads = None
    if weight_grads is not None:
      _, pull_back = jax.vjp(lambda m: a.weights(m, state['a'], fold(key, 'a')), middle)
      middle_grads, = pull_back(weight_grads)
    new, state_b = b.update(params, state['b'], step=step, weight_grads=middle_grads,
                            key=fold(key, 'b'))
    wanted, state_a = a.update(middle, state['a'], step=step, weight_grads=weight_grads,
                               key=fold(key, 'a'))
    return _write_back(params, new, middle, wanted), {'a': state_a, 'b': state_b}

  def finalise_chain(params, state):
    return finalise(a, inner(params, state, None), state['a'])

  return Regulariser(init, weights, penalty, update, finalise_chain,
                     a.needs_weight_grads or b.needs_weight_grads)


def _write_back(before: Tree, after: Tree, middle: Tree, wanted: Tree) -> Tree:
  """Carries what `a.update` changed in `middle` into `b`'s parameters; raises where it cannot."""
  flat_before, flat_after, flat_middle = flatten(before), flatten(after), flatten(middle)
  for path, leaf in flatten(wanted).items():
    if leaf is flat_middle[path]:
      continue
    passed_through = flat_before.get(path) is flat_middle[path]
    if not passed_through or flat_after[path] is not flat_before[path]:
      raise ValueError(f'in chain(a, b), a.update changes {path}, which b transforms, so the '
                       'change cannot be kept; swap them, chain(b, a), or choose an a without '
                       'such an update (l0_hard_concrete(clamp=None), say)')
    flat_after[path] = leaf
  return unflatten(flat_after)


def stacked(regulariser: Regulariser, axes: int = 1) -> Regulariser:
  """The same method for each layer of a scanned stack, whose leaves are (layers, ...).

  Params and state get the same leading axes; each layer has its own draw, penalties are summed.

  Args:
    regulariser: the method for one layer.
    axes: number of leading axes to run over.
  """
  if axes < 1:
    raise ValueError(f'stacked(axes={axes}) has no axis to run over; use axes >= 1')
  one = regulariser if axes == 1 else stacked(regulariser, axes - 1)

  def size(tree):
    return jax.tree.leaves(tree)[0].shape[0]

  def keys(key, tree):
    return None if key is None else jax.random.split(key, size(tree))

  def init(key, weights):
    return jax.vmap(one.init)(keys(key, weights), weights)

  def weights(params, state, key=None):
    return jax.vmap(one.weights)(params, state, keys(key, params))

  def penalty(params, state, key=None):
    return jax.vmap(one.penalty)(params, state, keys(key, params)).sum()

  def update(params, state, *, step, weight_grads=None, key=None):
    def layer(params, state, grads, key):
      return one.update(params, state, step=step, weight_grads=grads, key=key)
    return jax.vmap(layer)(params, state, weight_grads, keys(key, params))

  def finalise_stack(params, state):
    layers = [
        finalise(one, *jax.tree.map(lambda leaf: leaf[i], (params, state)))  # noqa: B023
        for i in range(size(params))
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *layers)

  return Regulariser(init, weights, penalty, update, finalise_stack, one.needs_weight_grads)
