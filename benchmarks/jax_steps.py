"""The training steps of this library, several in one jitted scan, as `train_epoch` runs them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax

import sparsejax
from benchmarks import cases
from sparsejax.models.lenet import LeNet5Caffe, LeNet300100
from sparsejax.training.fit import Preprocess, Recipe, start, train_step


def regulariser(network: str, method: str) -> sparsejax.Regulariser:
  """Returns the method on the kernels of the network; biases are free."""
  if method == 'dense':
    return sparsejax.partition()
  if method == 'vd':
    return sparsejax.partition(weights=('.*kernel', sparsejax.sparse_variational_dropout(
        cases.VD_STRENGTH, noise='local', clip=cases.VD_CLIP,
        init_log_sigma2=cases.VD_INIT_LOG_SIGMA2)))
  numbers = {'drop_rate': cases.L0_DROP_RATE, 'per': 'batch'}
  rules = {'units': ('(dense.*|head)/kernel',
                     sparsejax.l0_hard_concrete(cases.L0_STRENGTH, axis=-2, **numbers))}
  if network == 'lenet_5_caffe':
    rules['filters'] = ('conv./kernel',
                        sparsejax.l0_hard_concrete(cases.L0_STRENGTH, axis=-1, **numbers))
  return sparsejax.partition(**rules)


def recipe(network: str, method: str, batch_size: int,
           optimiser: optax.GradientTransformation | None = None) -> Recipe:
  """Returns the recipe of one timed step: Adam unless another optimiser is given."""
  model = LeNet300100() if network == 'lenet_300_100' else LeNet5Caffe()
  return Recipe(
      model=model,
      regulariser=regulariser(network, method),
      optimiser=optimiser or optax.adam(cases.LEARNING_RATE),
      num_terms=cases.EXAMPLES,
      batch_size=batch_size,
      preprocess=Preprocess(cases.SCALE),
  )


class JaxSteps:
  """A call takes `steps` training steps, waits for them and carries the state on.

  Attributes:
    state: after the last call. losses: NLL in nats of each step of the last call, (steps,).
  """

  def __init__(self, network: str, method: str, data: cases.Data, batch_size: int, steps: int,
               seed: int = 0):
    made = recipe(network, method, batch_size)
    self.state: Any = start(made, jax.random.key(seed), jax.numpy.asarray(data.images[:1]))
    self.losses: Any = None
    self._images, self._labels = jax.device_put(data.images), jax.device_put(data.labels)
    orders = cases.batches(len(data.images), batch_size, steps)
    self._orders = [jax.device_put(order) for order in orders]
    self._calls = 0

    def run(state, images, labels, order):
      def step(carry, batch):
        return train_step(made, carry, images[batch], labels[batch])
      return jax.lax.scan(step, state, order)
    self._run = jax.jit(run)

  def __call__(self) -> None:
    order = self._orders[self._calls % len(self._orders)]
    self._calls += 1
    self.state, self.losses = jax.block_until_ready(
        self._run(self.state, self._images, self._labels, order))


def initial_weights(network: str, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
  """Returns {layer: {'kernel', 'bias'}} in Flax's layout, the weights every framework starts at."""
  made = recipe(network, 'dense', 1)
  images = jax.numpy.zeros((1, *cases.IMAGE_SHAPE), jax.numpy.uint8)
  return jax.device_get(start(made, jax.random.key(seed), images).params['free'])
