"""After an optimiser step: the updates of all regularised modules in a model, at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import core
from flax import linen as nn

from sparsejax.nn.gates import HardConcreteGate
from sparsejax.nn.regularised import NOISE, STATE, RegularisedModule
from sparsejax.paths import flatten, unflatten

Array = jax.Array

_DONE = 'updated in this pass'   # a variable of this name marks a module that had its update


def update(model: nn.Module, variables: Mapping[str, Any], *args: Any, step: Array | int,
           key: Array | None = None, **kwargs: Any) -> dict[str, Any]:
  """Returns `variables` after the `update` of every regularised module found inside `model`.

  The modules are found by one forward pass, whose outputs are discarded; under `jit` nothing of it
  is left in the compiled program. A module that the pass calls twice is updated once.

  Args:
    model: any linen module, which holds modules of `sparsejax.nn` or is one.
    variables: as for `model.apply`, after the optimiser's step.
    *args, **kwargs: any inputs the model takes.
    step: of the training, counted from 0; may be traced.
    key: the step's key, rngs['noise'] of the forward pass, for methods that update at random.

  Raises:
    ValueError: if the pass meets no regularised module.
  """
  found = []

  def interceptor(next_fun, call_args, call_kwargs, context):
    module = context.module
    if (not isinstance(module, (RegularisedModule, HardConcreteGate))
        or context.method_name != '__call__'):
      return next_fun(*call_args, **call_kwargs)
    outputs = next_fun(*call_args, **{**call_kwargs, 'deterministic': True})
    found.append(module.path)
    # The mark is a variable, for Flax's transformations may trace one call several times over, or
    # take it from a cache.
    if not module.has_variable(STATE, _DONE):
      module.update(step=step)
      if isinstance(module, RegularisedModule) or module.is_mutable_collection(STATE):
        module.put_variable(STATE, _DONE, jnp.ones((), bool))
    return outputs

  # Without streams of its own, the discarded pass draws from 'params', Flax's default stream.
  rngs = {'params': jax.random.key(0)} | ({} if key is None else {NOISE: key})
  # Like mutable=True, but told apart by the cache of nn.jit, which knows of no interceptors.
  mutable = core.DenyList('no such collection: sparsejax.nn.update')
  with nn.intercept_methods(interceptor):
    _, changed = model.apply(variables, *args, rngs=rngs, mutable=mutable, **kwargs)
  state = flatten(changed.get(STATE, {}))
  marks = {path for path in state if path.split('/')[-1] == _DONE}
  if not found and not marks:
    raise ValueError(f'{type(model).__name__} called no regularised module; pass inputs that reach '
                     'one, or leave this update out')
  new = {'params': changed['params']}
  if STATE in variables:
    new[STATE] = unflatten({path: leaf for path, leaf in state.items() if path not in marks})
  return {**variables, **new}
