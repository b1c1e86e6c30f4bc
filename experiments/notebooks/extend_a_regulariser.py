# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A regulariser of your own, in twenty lines
#
# We write a new method, check it against the laws every regulariser obeys, train it on a model
# defined right here, and end with a network that is really smaller.
#
# The method: a concave penalty on groups, `strength * sum_g log(1 + ||w_g|| / epsilon)`. Unlike the
# group lasso it presses hard on small groups and hardly on large ones. A group whose root mean
# square weight ends below `threshold` is removed.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import sparsejax
from sparsejax import compaction, testing
from sparsejax.regulariser import advance_numbers, initial_numbers


# %%
def log_group(strength, epsilon=0.1, threshold=0.01):
  """strength * sum over input units of log(1 + norm / epsilon), in nats for the data set."""
  def norms(w):
    return jnp.sqrt(jnp.sum(jnp.square(w), tuple(i for i in range(w.ndim) if i != w.ndim - 2),
                            keepdims=True) + 1e-12)

  def init(key, weights):
    return weights, initial_numbers(strength=strength)     # numbers live in the state

  def weights(params, state, key=None):
    if key is not None:
      return params

    def kept(w):
      return jnp.where(norms(w) * np.sqrt(w.shape[-2] / w.size) >= threshold, w, 0.0)
    return jax.tree.map(kept, params)

  def penalty(params, state, key=None):
    return state['strength'] * sum(jnp.log1p(norms(w) / epsilon).sum()
                                   for w in jax.tree.leaves(params))

  def update(params, state, *, step, weight_grads=None, key=None):
    return params, advance_numbers(state, step, strength=strength)

  return sparsejax.Regulariser(init, weights, penalty, update)


# %% [markdown]
# Shapes, gradients at zero and at extremes, determinism without a key, restart bit for bit:

# %%
testing.check_regulariser(log_group(0.3))


# %% [markdown]
# ## A model that can shrink
#
# Any Flax model can be trained. To be *compacted* it says which axes die together (its couplings),
# and what it looks like with fewer units.

# %%
class Net(nn.Module):
  hidden: int = 200
  pixels: tuple[int, ...] | None = None                    # which pixels it reads; None reads all

  @nn.compact
  def __call__(self, x):
    x = x if self.pixels is None else x[:, np.array(self.pixels)]
    x = nn.relu(nn.Dense(self.hidden, name='first')(x))
    return nn.Dense(10, name='last')(x)

  def couplings(self, variables=None, example_shape=None):
    relu = compaction.couplings.relu_of('first/bias')
    return (
        compaction.Coupling('pixels', (), (compaction.Read('first/kernel', -2),)),
        compaction.Coupling('hidden', compaction.couplings.layer_writes('first'), (
            compaction.Read('last/kernel', -2, emits=relu, into='last/bias'),)),
    )

  def compacted(self, alive, params):
    return self.clone(hidden=int(alive['hidden'].sum()),
                      pixels=tuple(map(int, np.flatnonzero(alive['pixels']))))


# %% [markdown]
# ## Training

# %%
images, labels = load_digits(return_X_y=True)
images, labels = jnp.float32(images) / 16, jnp.asarray(labels)
train, test = slice(0, 1437), slice(1437, None)
model, key = Net(), jax.random.key(0)
regulariser = sparsejax.partition(groups=('.*kernel', log_group(0.4)))
optimiser = optax.adam(3e-3)


def nll(weights, x, y):
  logits = sparsejax.apply(model, {'params': weights}, x)
  return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def step(carry, i):
  params, state, moments = carry
  draw = jax.random.fold_in(key, i)

  def loss(params):
    weights = regulariser.weights(params, state, draw)
    return (nll(weights, images[train], labels[train])
            + regulariser.penalty(params, state, draw) / 1437)
  updates, moments = optimiser.update(jax.grad(loss)(params), moments)
  params = optax.apply_updates(params, updates)
  kernel = regulariser.weights(params, state)['last']['kernel']
  return (*regulariser.update(params, state, step=i, key=draw), moments), (kernel != 0).any(1).sum()


params, state = regulariser.init(key, model.init(key, images[:1])['params'])
(params, state, _), units = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(1500)))(
    (params, state, optimiser.init(params)))

# %% [markdown]
# ## The smaller network

# %%
weights = sparsejax.finalise(regulariser, params, state)
small = compaction.compact(model, {'params': weights})
before = jnp.asarray(model.apply({'params': weights}, images[test]))
after = jnp.asarray(small.model.apply(small.variables, images[test]))
error = 100 * float((after.argmax(1) != labels[test]).mean())
difference = float(abs(after - before).max() / abs(before).max())
print(f'{small.model.hidden} of {model.hidden} hidden units, {len(small.model.pixels)} of 64 '
      f'pixels, test error {error:.1f} %, largest difference {difference:.1e} of max|logit|')

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
left.plot(np.asarray(units))
left.set(xlabel='step', ylabel='hidden units kept', ylim=(0, model.hidden))
read = np.abs(weights['first']['kernel']).sum(1).reshape(8, 8)
picture = right.imshow(read, cmap='magma')
right.set(title='weight on each pixel', xticks=[], yticks=[])
figure.colorbar(picture, ax=right)
plt.show()
