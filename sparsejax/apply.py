"""Stock Flax models on drawn weights.

`apply` mirrors `model.apply`. Structured weights in the `params` collection meet the linear rule of
their kind at each stock layer (`linear_rules.py`); everything else in the model runs as it is.
Nothing is densified in silence: a structured weight that no rule consumes raises, naming its path.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import core, struct
from flax import linen as nn

from sparsejax.linear_rules import (LINEAR_LAYERS, Layer, add_bias, convolves_by_patches, has_rule,
                                    linear_rule)
from sparsejax.paths import flatten, map_leaves
from sparsejax.structured import Gated, Gaussian, Packed, Stochastic, Structured

Array = jax.Array


# How many applies run around this one. Flax calls the interceptors of all of them at each layer.
_depth = contextvars.ContextVar('depth of nested sparsejax.apply', default=0)


@struct.dataclass
class _Located(Structured):
  """A structured weight that knows its path, so that a misplaced read names it.

  `depth` says which of several nested applies it belongs to.
  """

  weight: Structured
  path: str = struct.field(pytree_node=False)
  allow_dense: bool = struct.field(pytree_node=False)
  depth: int = struct.field(pytree_node=False)

  shape = property(lambda self: self.weight.shape)
  dtype = property(lambda self: self.weight.dtype)

  def unbox(self) -> Array:
    if isinstance(self.weight, Packed) and self.allow_dense:
      return self.weight.to_dense()
    kind = type(self.weight).__name__
    repair = "use noise='weight' or per='batch' there"
    if isinstance(self.weight, Gated):
      repair = ('gates per example need stock layers around each product: in a recurrent network '
                "nn.LSTMCell, nn.GRUCell or nn.SimpleCell, for nn.OptimizedLSTMCell reads the "
                "kernels themselves; or use per='batch' if the method has it")
    if isinstance(self.weight, Packed):
      repair = 'pass allow_dense=True to compute with its dense array (a simulation: no saving)'
    raise ValueError(f'the {kind} weight at {self.path} is read by a module that has no linear '
                     f'rule for it; {repair}')


def apply(
    model: nn.Module,
    variables: Mapping[str, Any],
    *args: Any,
    rngs: dict[str, Array] | Array | None = None,
    mutable: Any = False,
    method: Callable[..., Any] | str | None = None,
    allow_dense: bool = False,
    **kwargs: Any,
) -> Any:
  """Returns model.apply(variables, ...) for weights that may be structured.

  Args:
    model: a Flax linen module.
    variables: its collections; leaves of `params` may be arrays or structured weights.
    *args, rngs, mutable, method, **kwargs: as for `model.apply`. Weights with local noise draw
      from the stream 'noise'.
    allow_dense: let layers without a rule for a packed weight compute with its dense array. Such
      a network saves nothing there; report it as simulated.

  Raises:
    ValueError: for a structured weight read where no rule consumes it, a stochastic one in a
      recurrent cell (it would be redrawn at each step), or one that no layer ever used.
  """
  weights = core.unfreeze(variables['params']) if 'params' in variables else {}
  structured = {path for path, leaf in flatten(weights).items() if isinstance(leaf, Structured)}
  depth = _depth.get()
  if structured:
    weights = map_leaves(
        lambda path, leaf: (_Located(leaf, path, allow_dense, depth) if path in structured
                            else leaf), weights)
  unused = set(structured)
  calls = 0

  def own_weight(leaf):
    """Returns the weight itself, if it is of this apply, and notes that its layer was called."""
    if not isinstance(leaf, _Located) or leaf.depth != depth:
      return leaf
    unused.discard(leaf.path)
    return leaf.weight

  def interceptor(next_fun, call_args, call_kwargs, context):
    nonlocal calls
    calls += 1
    module = context.module
    if type(module) not in LINEAR_LAYERS or module.scope is None:
      calls_before = calls
      outputs = next_fun(*call_args, **call_kwargs)
      if calls == calls_before and module.scope is not None:
        # Nothing was called inside: perhaps nn.jit ran what it had compiled in an earlier apply.
        inside = '/'.join((*module.path, ''))
        unused.difference_update([path for path in unused if path.startswith(inside)])
      return outputs
    layer = Layer(module, context.method_name)
    own = module.variables.get('params', {})
    kernel = own_weight(own.get(layer.name))
    if context.method_name == 'setup' and isinstance(kernel, Structured) and has_rule(kernel):
      module.embedding = None  # nn.Embed reads its table here; the rule reads it later
      return None
    inputs = (*call_args, *call_kwargs.values())
    if context.method_name not in ('__call__', 'attend') or len(inputs) != 1:
      return next_fun(*call_args, **call_kwargs)
    bias = own_weight(own.get('bias')) if getattr(module, 'use_bias', False) else None
    if isinstance(kernel, _Located) or isinstance(bias, _Located):   # of another apply
      return next_fun(*call_args, **call_kwargs)
    if isinstance(kernel, Structured) and has_rule(kernel):
      _refuse_redrawing(kernel, layer)
      outputs = linear_rule(kernel, layer, *inputs)
      return outputs if bias is None else add_bias(outputs, bias, layer)
    if isinstance(bias, (Gaussian, Gated, Packed)) and kernel is not None and not isinstance(
        kernel, Structured):
      _refuse_redrawing(bias, layer)
      return add_bias(layer(kernel, *inputs), bias, layer)
    if kernel is not None and not isinstance(kernel, Structured) and convolves_by_patches(module):
      return layer.with_bias(kernel, bias, *inputs)
    return next_fun(*call_args, **call_kwargs)

  entered = _depth.set(depth + 1)
  try:
    with nn.intercept_methods(interceptor):
      outputs = model.apply({**variables, 'params': weights} if weights else variables, *args,
                            rngs=rngs, mutable=mutable, method=method, **kwargs)
  finally:
    _depth.reset(entered)
  stochastic = {path for path in unused if isinstance(flatten(weights)[path].weight, Stochastic)}
  if stochastic and method is None:
    raise ValueError(f'structured weights that no layer used: {", ".join(sorted(stochastic))}; '
                     'call the layers they belong to, or draw plain weights there')
  if mutable is not False and structured and 'params' in outputs[1]:
    given = map_leaves(lambda path, leaf: leaf.weight if isinstance(leaf, _Located) else leaf,
                       core.unfreeze(outputs[1]['params']))
    return outputs[0], core.copy(outputs[1], {'params': given})
  return outputs


def _refuse_redrawing(weight: Structured, layer: Layer) -> None:
  """Raises for local noise under a recurrent cell, whose layers run once per time step."""
  while isinstance(weight, Gated):
    weight = weight.value   # gates carry their key: one draw per sequence, which a cell needs
  if not isinstance(weight, Gaussian):
    return
  ancestor = layer.module.parent
  while isinstance(ancestor, nn.Module):
    if isinstance(ancestor, nn.RNNCellBase):
      raise ValueError(f'Gaussian weight in recurrent cell {layer.path} would be redrawn at each '
                       "step; use noise='weight'")
    ancestor = ancestor.parent
