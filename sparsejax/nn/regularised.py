"""`Regularised(model, regulariser)`: any method as an ordinary linen module.

What a Flax user already does goes on working: `init`, `apply`, dropout and batch-norm. Three things
are added, in collections of Flax's own kind:

* `params`: the regulariser's trained parameters, in the layout of `Regulariser.init`;
* `regulariser`: masks, strengths and temperatures; carry it as one carries `batch_stats`;
* `losses`: the penalty in nats for the whole data set, sown when `losses` is mutable.

A training step in existing code takes two more lines, marked here:

  logits, changed = model.apply(v, x, rngs={'noise': key}, mutable=['batch_stats', 'losses'])
  loss = nll(logits) + sum(jax.tree.leaves(changed['losses'])) / num_terms                  # here
  ... the optimiser changes v['params'] ...
  _, new = model.apply(v, step=i, method='update', mutable=['params', 'regulariser'])       # here

Within a larger model, `sparsejax.nn.update` runs the update of every regularised module at once.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import linen as nn
from flax.core import meta
from flax.core.scope import subtract_filters

from sparsejax.apply import apply
from sparsejax.paths import Tree
from sparsejax.regulariser import Regulariser

Array = jax.Array

STATE = 'regulariser'   # collection of masks and numbers
LOSSES = 'losses'       # collection of penalties
NOISE = 'noise'         # RNG stream


class RegularisedModule(nn.Module, kw_only=True):
  """A module whose weights a regulariser draws; subclasses say which model and which regulariser.

  Attributes:
    deterministic: compute with the deployed weights; the call's own argument overrides it.
  """

  deterministic: bool = False

  @nn.nowrap
  def parts(self) -> tuple[nn.Module, Regulariser]:
    """Returns (the model that is wrapped, unbound; the regulariser of its weights)."""
    raise TypeError(f'{type(self).__name__} defines no parts')

  def __call__(self, *args: Any, deterministic: bool | None = None,
               model_method: str | None = None, **kwargs: Any) -> Any:
    """Returns what the wrapped model computes with drawn (or deployed) weights.

    One draw serves one `apply`: called again within it, the module has the same weights, while
    noise inside its layers (local reparameterisation, dropout) is fresh. At the top of a model
    the key of the draw is rngs['noise'] itself, deeper down it is folded with the module's path.

    Args:
      *args, **kwargs: for the wrapped model.
      deterministic: True computes with the deployed weights and needs no noise. If given, it is
        handed on to a wrapped model that has an argument of this name.
      model_method: method of the wrapped model to run instead of `__call__`.

    RNG: stream 'noise' unless deterministic, also for methods without noise, whose training
    weights may differ from their deployed ones; every stream goes on to the wrapped model.

    Raises:
      ValueError: without the stream 'noise', without the collection 'regulariser', for a method
        that needs gradients of the drawn weights, or for a wrapped model that is regularised.
    """
    assert self.scope is not None   # Flax itself refuses to call an unbound module
    model, regulariser = self._checked_parts()
    if deterministic is None:
      deterministic = self.deterministic
    elif _accepts(model, model_method, 'deterministic'):
      kwargs['deterministic'] = deterministic
    initialising = self.is_initializing()
    if initialising and not self.variables.get('params'):
      self._initialise(model, regulariser, args, {**kwargs, 'method': model_method})

    params, state, passed_on = self._split_variables()
    key = None if deterministic or initialising else self._draw_key()
    with self._named_missing_state(state):
      weights = regulariser.weights(params, state, key)
      if not initialising and self.is_mutable_collection(LOSSES):
        penalty = regulariser.penalty(params, state, key)
        self.sow(LOSSES, STATE, penalty, init_fn=lambda: None, reduce_fn=lambda _, new: new)
    # At init a batch-norm may write its statistics, but what it writes is not kept, as in Flax.
    mutable = True if initialising else subtract_filters(self.scope.mutable, ('params', STATE))
    outputs, changed = apply(
        model, {'params': weights, **passed_on}, *args, method=model_method, mutable=mutable,
        rngs={name: self.make_rng(name) for name in self.scope.rngs}, **kwargs)
    if not initialising:
      for collection, tree in changed.items():
        if collection not in ('params', STATE):
          self._store(collection, tree)
    return outputs

  def update(self, *, step: Array | int) -> None:
    """Runs `Regulariser.update`; call it after the optimiser's step.

      _, new = model.apply(v, step=i, method='update', mutable=['params', 'regulariser'])

    Args:
      step: of the training, counted from 0; may be traced.

    RNG: stream 'noise', only if given; give it the key of the step's forward pass.
    """
    _, regulariser = self._checked_parts()
    params, state, _ = self._split_variables()
    key = self._draw_key() if self.has_rng(NOISE) else None
    with self._named_missing_state(state):
      params, state = regulariser.update(params, state, step=step, key=key)
    self._store('params', params)
    self._store(STATE, state)

  def _checked_parts(self) -> tuple[nn.Module, Regulariser]:
    model, regulariser = self.parts()
    if regulariser.needs_weight_grads:
      raise ValueError(f'the regulariser of {self._place()} needs gradients with respect to the '
                       'drawn weights (needs_weight_grads), which a Flax module never sees; use '
                       'regulariser.weights, sparsejax.apply and regulariser.update')
    return model, regulariser

  def _initialise(self, model: nn.Module, regulariser: Regulariser, args: tuple[Any, ...],
                  kwargs: dict[str, Any]) -> None:
    assert self.scope is not None
    # `self.param` would call its init function again at every apply, to compare shapes, and would
    # refuse names of this module's own fields; hence put_variable.
    initial = dict(model.init({name: self.make_rng(name) for name in self.scope.rngs}, *args,
                              **kwargs))
    if STATE in initial:
      raise ValueError(f'the model in {self._place()} holds a regularised module of its own; use '
                       'one Regularised with partition(...) or chain(...)')
    # Boxes of Flax's own (nn.Partitioned) carry names of axes, which no method needs.
    weights = meta.unbox(initial.pop('params', {}))
    params, state = regulariser.init(self.make_rng('params'), weights)
    for collection, tree in {**initial, 'params': params, STATE: state}.items():
      self._store(collection, tree)

  def _split_variables(self) -> tuple[Tree, Tree, dict[str, Any]]:
    """Returns the regulariser's params and state, and the wrapped model's other collections."""
    variables: dict[str, Any] = dict(self.variables)
    params, state = variables.pop('params', {}), variables.pop(STATE, {})
    if not params:
      raise ValueError(f'{self._place()} has no parameters; create them by init')
    return params, state, variables

  def _draw_key(self) -> Array:
    if not self.has_rng(NOISE):
      raise ValueError(f'the weights of {self._place()} are drawn in training, but there is no RNG '
                       "stream 'noise'; pass rngs={'noise': key}, or deterministic=True for the "
                       'deployed weights')
    # Not make_rng, which counts its calls: weights, penalty and update must see one draw.
    assert self.scope is not None
    return self.scope.rngs[NOISE].as_jax_rng()

  def _store(self, collection: str, tree: Mapping[str, Any]) -> None:
    for name, value in tree.items():
      self.put_variable(collection, name, value)

  @contextlib.contextmanager
  def _named_missing_state(self, state: Tree) -> Iterator[None]:
    try:
      yield
    except KeyError as error:
      if state:
        raise
      raise ValueError(f"the collection '{STATE}' of {self._place()} is missing; carry it beside "
                       "params, as one carries 'batch_stats'") from error

  @nn.nowrap
  def _place(self) -> str:
    return '/'.join(self.path) or type(self).__name__


class Regularised(RegularisedModule):
  """`model` with weights that `regulariser` draws.

  `variables['params']` and `variables['regulariser']` are the (params, state) of the functional
  form, so `regulariser.weights`, `finalise` and `sparsejax.apply` take them as they are. The other
  collections are the wrapped model's own, under their own names.

  A recurrent network is wrapped as a whole, not its cell: then its weights are drawn once per
  batch. Flax's `capture_intermediates` sees the outputs of this module, and what the model sows.

  Attributes:
    model: any linen module. Its tree is named as if it had been made outside of any module:
      modules that it was given as arguments by its fields, nn.RNN(cell) has 'cell/...'.
    regulariser: a method or a combination (`partition`, `chain`), over the model's params tree.
    deterministic: compute with the deployed weights; the call's own argument overrides it.
  """

  model: nn.Module
  regulariser: Regulariser

  @nn.nowrap
  def parts(self) -> tuple[nn.Module, Regulariser]:
    return self.model.copy(parent=None, name=None), self.regulariser


def _accepts(model: nn.Module, method: str | None, name: str) -> bool:
  """True if the method of the model names this argument in its signature."""
  parameters = inspect.signature(getattr(type(model), method or '__call__')).parameters
  return name in parameters
