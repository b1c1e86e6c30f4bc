"""The rotation keeps the network, has the marginals of rotated noise, and gathers directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import sparsejax
from sparsejax.paths import flatten
from sparsejax.regularisers.bayesian_rnn import bayesian_rnn
from sparsejax.regularisers.principal_axes import principal_axes, rotated

KEY = jax.random.key(0)
TOKENS = jnp.array([[0, 3, 3], [2, 6, 0]])


class Net(nn.Module):
  """An LSTM on an embedding; (B, T, 2)."""

  @nn.compact
  def __call__(self, tokens):
    x = nn.Embed(9, 4, name='embed')(tokens)
    return nn.Dense(2, name='head')(nn.RNN(nn.LSTMCell(3, name='cell0'), name='rnn0')(x))


def test_axes_are_those_of_the_singular_value_decomposition():
  embedding = np.random.default_rng(0).normal(size=(9, 4)) * [1, 3, 0.1, 2]
  axes = np.asarray(principal_axes(jnp.asarray(embedding, jnp.float32)))
  vectors = np.linalg.svd(embedding)[2].T
  np.testing.assert_allclose(np.abs(vectors.T @ axes), np.eye(4), atol=1e-4)  # up to their signs
  assert (axes[np.abs(axes).argmax(0), range(4)] > 0).all()


def test_a_learnt_direction_becomes_one_column():
  rng = np.random.default_rng(1)
  scores, direction = rng.normal(size=(50, 1)), rng.choice([-1.0, 1.0], size=(1, 16)) / 4
  embedding = jnp.asarray(scores * direction, jnp.float32)
  turned = np.asarray(embedding @ principal_axes(embedding))
  np.testing.assert_allclose(np.abs(turned[:, 0]), np.abs(scores[:, 0]), atol=1e-5)
  np.testing.assert_allclose(turned[:, 1:], 0, atol=1e-5)


def test_variances_are_those_of_rotated_draws():
  rng = np.random.default_rng(2)
  axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
  theta, sigma = rng.normal(size=(2, 3)), np.exp(rng.normal(size=(2, 3)))
  mean, log_variance = rotated(*(jnp.asarray(a, jnp.float32)
                                 for a in (axes, theta, 2 * np.log(sigma))))
  count = 100_000
  draws = (theta + sigma * rng.normal(size=(count, 2, 3))) @ axes
  deviation = draws.std(0)
  np.testing.assert_array_less(np.abs(draws.mean(0) - mean), 5 * deviation / np.sqrt(count))
  np.testing.assert_allclose(np.exp(log_variance), deviation ** 2, rtol=5 * np.sqrt(2 / count))


@pytest.mark.parametrize('groups', [(), ('words', 'inputs')])
def test_behind_its_step_the_network_computes_what_it_did(groups):
  net = Net()
  shapes = jax.eval_shape(net.init, KEY, TOKENS)['params']
  rng = np.random.default_rng(3)
  weights = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)
  method = bayesian_rnn(groups=groups, principal_axes_at=3, threshold=np.inf)
  params, state = method.init(KEY, weights)
  if groups:                                   # means as after some training
    params['mean'] = jax.tree.map(
        lambda m: jnp.asarray(rng.uniform(-0.5, 2, m.shape), jnp.float32), params['mean'])

  @jax.jit
  def after(params, step):
    new, _ = method.update(params, state, step=step)
    deployed = method.weights(new, state)
    return new, deployed, net.apply({'params': deployed}, TOKENS)

  same, before, logits = after(params, 1)      # the second step: nothing happens
  for path, leaf in flatten(same).items():
    np.testing.assert_array_equal(leaf, flatten(params)[path])
  new, turned, turned_logits = after(params, 2)
  np.testing.assert_allclose(turned_logits, logits, rtol=1e-4, atol=1e-5)
  assert np.abs(turned['embed']['embedding'] - before['embed']['embedding']).max() > 0.1
  columns = np.asarray(turned['embed']['embedding'])
  if groups:                                   # the rotation is of the embedding without its words
    columns = columns / np.asarray(new['mean']['words']['embed']['embedding'])
    np.testing.assert_array_equal(new['mean']['inputs']['cell0']['if']['kernel'], 1)
  gram = columns.T @ columns
  np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-4 * gram.max())
  assert (np.diff(np.diag(gram)) < 0).all()


@pytest.mark.parametrize('arguments', [{'principal_axes_at': 0},
                                       {'principal_axes_at': 5, 'embedding': None}])
def test_no_step_and_no_embedding_are_refused(arguments):
  with pytest.raises(ValueError, match='a number of steps, 1 or more, for a network with an embed'):
    sparsejax.bayesian_rnn(**arguments)
