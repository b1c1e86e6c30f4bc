"""Training as pure functions: one step, and one jitted scan per epoch with the data on the device.

A `Recipe` holds what is fixed (model, method, optimiser, schedules), a `TrainState` everything that
changes. Every draw comes from `state.key` and the step or epoch number, so a restored state goes on
as if it had never stopped, and a vmapped state trains a population in one program.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import chex
import jax
import jax.numpy as jnp
import optax
from flax import core
from flax import linen as nn
from jax.sharding import Mesh

from sparsejax.apply import apply
from sparsejax.paths import Tree, fold
from sparsejax.regulariser import Regulariser
from sparsejax.training.sharding import pinned, split, whole

Array = jax.Array


def constant_one(step: Array | int) -> float:
  """The penalty weight of a recipe without warm-up."""
  del step
  return 1.0


def cross_entropy(logits: Array, labels: Array) -> Array:
  """Returns -log p(label) in nats of each example, (n,), for float32 logits (n, classes)."""
  chex.assert_rank(labels, 1)
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def token_cross_entropy(logits: Array, labels: Array) -> Array:
  """Returns -log p(label) in nats a token, the mean over each sequence's positions, (n,).

  Args:
    logits: float32, (n, T, symbols). labels: int32, (n, T): the next symbol at each position.
  """
  chex.assert_rank(labels, 2)
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(axis=1)


def as_tokens(tokens: Array) -> Array:
  """The preprocessing of text: symbols stored as uint8 become int32 indices."""
  return tokens.astype(jnp.int32)


class Preprocess(NamedTuple):
  """Turns raw images into the network's inputs: (images - mean) * scale, in float32.

  Attributes:
    scale: factor, 1/255 for uint8 images into [0, 1].
    mean: subtracted before scaling; a number or an array of the shape of one image.
  """

  scale: float = 1 / 255
  mean: Any = 0.0

  def __call__(self, images: Array) -> Array:
    mean = jnp.asarray(self.mean, jnp.float32)
    if mean.ndim:
      mean = mean[None]
    return (images.astype(jnp.float32) - mean) * self.scale


CARRY = 'carry'   # the collection in which a model keeps its recurrent state from window to window


class Recipe(NamedTuple):
  """What stays fixed in a run.

  Attributes:
    model: a Flax module, called as model(inputs, **train_kwargs) and returning logits.
    regulariser: the method, or a partition of methods.
    optimiser: an optax transformation of the regulariser's params.
    num_terms: terms the mean NLL averages over in one epoch (training examples; the tokens of a
      language model); the penalty, in nats for the data set, is divided by it.
    batch_size: examples per step.
    penalty_weight: step -> factor of the penalty, the KL warm-up of variational methods.
    ema_decay: decay of an average of the params used for evaluation (bias-corrected); 0 for none.
    preprocess: raw images -> inputs.
    train_kwargs, eval_kwargs: passed to the model, such as {'train': True}.
    loss: (logits in float32 or wider, targets of the batch) -> nats of each example. The targets
      are labels, or whatever arrays a loss wants beside each image: a teacher's logits, say.
    sequential: the examples are windows of `batch_size` texts read side by side, in the order of
      time: window step * batch_size + i is the step-th of text i. They are visited in that order,
      and a model that keeps its recurrent state in the collection 'carry' starts each epoch from
      zeros and hands the state on from window to window (truncated back-propagation).
    mesh: devices over whose axis 'data' each batch is split, or None for one device. State and
      data come placed on it; `batch_size` is that of all devices together.
  """

  model: nn.Module
  regulariser: Regulariser
  optimiser: optax.GradientTransformation
  num_terms: int
  batch_size: int
  penalty_weight: Callable[[Any], Any] = constant_one
  ema_decay: float = 0.0
  preprocess: Any = Preprocess()     # a callable; mypy takes no NamedTuple for one
  train_kwargs: Mapping[str, Any] = {}
  eval_kwargs: Mapping[str, Any] = {}
  loss: Callable[[Array, Any], Array] = cross_entropy
  sequential: bool = False
  mesh: Mesh | None = None


class TrainState(NamedTuple):
  """Everything that changes in a run, and the key all its noise comes from.

  Attributes:
    params, method_state: of the regulariser. collections: of the model, such as batch_stats.
    optimiser: its state. average: sum of the decayed params, or None without EMA.
    step: optimiser steps taken, int32. key: typed key of the run, constant.
  """

  params: Tree
  method_state: Tree
  collections: Tree
  optimiser: Any
  average: Tree | None
  step: Array
  key: Array


def start(recipe: Recipe, key: Array, images: Array) -> TrainState:
  """Returns the state before the first step; `images` (1 or more of them) give the shapes.

  Raises:
    ValueError: for a sequential recipe whose model keeps no recurrent state.
  """
  inputs = recipe.preprocess(images[:1])
  if recipe.sequential:                 # the recurrent state has a row for each text of the batch
    inputs = jnp.broadcast_to(inputs, (recipe.batch_size, *inputs.shape[1:]))
  streams = {name: cast(Array, fold(key, f'init/{name}'))
             for name in ('params', 'dropout', 'noise')}
  variables = core.unfreeze(recipe.model.init(streams, inputs, **recipe.eval_kwargs))
  weights = variables.pop('params')
  collections = {name: tree for name, tree in variables.items() if name != 'intermediates'}
  if recipe.sequential and CARRY not in collections:
    raise ValueError(f'{type(recipe.model).__name__} keeps no recurrent state in the collection '
                     f'{CARRY!r}, which a sequential recipe hands on from window to window; set '
                     'carried=True in the model, or let windows be shuffled')
  # Initialisation has run the model once, so that the state is no longer zero.
  collections = _restarted(collections) if recipe.sequential else deployed_collections(collections)
  params, method_state = recipe.regulariser.init(fold(key, 'regulariser'), weights)
  average = jax.tree.map(jnp.zeros_like, params) if recipe.ema_decay else None
  return TrainState(params, method_state, collections, recipe.optimiser.init(params), average,
                    jnp.zeros((), jnp.int32), key)


def train_step(recipe: Recipe, state: TrainState, images: Array,
               targets: Any) -> tuple[TrainState, Array]:
  """Takes one optimiser step on a batch; returns the new state and the mean NLL in nats.

  `targets` is what `recipe.loss` takes: the labels, or a tree of arrays with one entry per image.
  """
  chex.assert_equal_shape_prefix((images, *jax.tree.leaves(targets)), 1)
  images, targets = split(recipe.mesh, (images, targets))
  key = jax.random.fold_in(state.key, state.step)
  rngs = {'noise': fold(key, 'layers'), 'dropout': fold(key, 'dropout')}
  inputs = recipe.preprocess(images)

  def nll(weights):
    variables = {'params': weights, **state.collections}
    logits, collections = apply(recipe.model, variables, inputs, rngs=rngs,
                                mutable=list(state.collections), **recipe.train_kwargs)
    terms = recipe.loss(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), targets)
    return terms.mean(), core.unfreeze(collections)

  def penalty(params):
    nats = recipe.regulariser.penalty(params, state.method_state, key)
    return recipe.penalty_weight(state.step) / recipe.num_terms * nats

  def draw(params):
    return recipe.regulariser.weights(params, state.method_state, key)

  if recipe.regulariser.needs_weight_grads:
    weights, pull_back = jax.vjp(draw, state.params)
    # A packed weight has indices beside its values.
    (loss, collections), weight_grads = jax.value_and_grad(nll, has_aux=True,
                                                           allow_int=True)(weights)
    grads = jax.tree.map(jnp.add, pull_back(weight_grads)[0], jax.grad(penalty)(state.params))
  else:
    weight_grads = None

    def objective(params):
      loss, collections = nll(draw(params))
      # The loss is reported without the penalty, so that its value is dead code in training.
      return loss + penalty(params), (loss, collections)
    grads, (loss, collections) = jax.grad(objective, has_aux=True)(state.params)

  updates, optimiser = recipe.optimiser.update(grads, state.optimiser, state.params)
  params = optax.apply_updates(state.params, updates)
  params, method_state = recipe.regulariser.update(
      params, state.method_state, step=state.step, weight_grads=weight_grads, key=key)
  average = state.average
  if average is not None:
    decay = recipe.ema_decay
    average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
  after = TrainState(params, method_state, {**state.collections, **collections}, optimiser, average,
                     state.step + 1, state.key)
  return pinned(recipe.mesh, after, rows=(CARRY,)), loss


def epoch_order(recipe: Recipe, state: TrainState, examples: int) -> Array:
  """Returns the batches of the coming epoch, int32 (steps, batch_size), without replacement.

  The order comes from the run's key and the step, so an interrupted run repeats it. Examples that
  fill no whole batch are left out of this epoch. Sequential recipes have the order of time.
  """
  return _order(recipe, state, state.step, examples)


def _order(recipe: Recipe, state: TrainState, first_step: Array, examples: int) -> Array:
  """The batches of the epoch that begins at `first_step`."""
  steps = examples // recipe.batch_size
  if steps == 0:
    raise ValueError(f'batch_size={recipe.batch_size} exceeds the {examples} training examples; '
                     'lower config.batch_size')
  if recipe.sequential:
    order = jnp.arange(steps * recipe.batch_size, dtype=jnp.int32)
  else:
    key = jax.random.fold_in(cast(Array, fold(state.key, 'order')), first_step)
    # One sort of random bits; random.permutation sorts twice.
    order = jnp.argsort(jax.random.bits(key, (examples,)))
  return order[:steps * recipe.batch_size].reshape(steps, recipe.batch_size)


def train_epoch(recipe: Recipe, state: TrainState, images: Array, targets: Any,
                rows: Array | None = None) -> tuple[TrainState, Array]:
  """Runs one epoch as one scan; returns the state and the NLL of each step, (steps,).

  With `rows`, int32 (n,), the examples of this run are those rows of the arrays, in that order.
  """
  state = state._replace(collections=_restarted(state.collections))
  batches = epoch_order(recipe, state, len(images if rows is None else rows))
  return _scan(recipe, state, images, targets, batches if rows is None else rows[batches])


def train_steps(recipe: Recipe, state: TrainState, images: Array, targets: Any,
                count: int) -> tuple[TrainState, Array]:
  """Runs the next `count` steps of the epoch that `state` is in; returns as `train_epoch`.

  Steps 0 to k and k to n of an epoch give what the whole epoch gives, bit for bit, so a run may be
  interrupted inside an epoch. The caller does not ask for more steps than the epoch has left.
  """
  position = state.step % (images.shape[0] // recipe.batch_size)
  order = _order(recipe, state, state.step - position, images.shape[0])
  batches = jax.lax.dynamic_slice_in_dim(order, position, count)
  state = state._replace(collections=_restarted(state.collections, position == 0))
  return _scan(recipe, state, images, targets, batches)


def _scan(recipe, state, images, targets, batches):
  def step(carry, batch):
    return train_step(recipe, carry, images[batch], jax.tree.map(lambda t: t[batch], targets))
  # Else the order itself would be cut over the devices, and sent around.
  return jax.lax.scan(step, state, whole(recipe.mesh, batches))


def _restarted(collections: dict[str, Tree], restart: Any = True) -> dict[str, Tree]:
  """Returns the collections with zeros for the recurrent state, if there is one, on `restart`."""
  if CARRY not in collections:
    return collections
  carry = jax.tree.map(lambda leaf: jnp.where(restart, jnp.zeros_like(leaf), leaf),
                       collections[CARRY])
  return {**collections, CARRY: carry}


def deployed_collections(collections: Mapping[str, Tree]) -> dict[str, Tree]:
  """Returns the collections of the deployed network, which starts from no recurrent state."""
  return {name: tree for name, tree in collections.items() if name != CARRY}


def jit_epoch(recipe: Recipe) -> Callable[[TrainState, Array, Any], tuple[TrainState, Array]]:
  """Returns the compiled (state, images, targets) -> (state, NLL per step)."""
  return jax.jit(functools.partial(train_epoch, recipe))


def evaluation_params(recipe: Recipe, state: TrainState) -> Tree:
  """Returns the params to deploy: the bias-corrected average, or the raw ones without EMA."""
  if state.average is None:
    return state.params
  correction = 1 - jnp.float32(recipe.ema_decay) ** state.step
  return jax.tree.map(lambda a: (a / correction).astype(a.dtype), state.average)
