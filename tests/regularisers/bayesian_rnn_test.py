"""The recipe names the right groups, and is a partition inside group variables and nothing else."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import sparsejax
from sparsejax.paths import flatten
from sparsejax.regularisers.bayesian_rnn import bayesian_rnn, rnn_groups
from sparsejax.regularisers.group_variables import group_variables
from sparsejax.structured import Gated, Gaussian, RowGaussian, Structured

KEY = jax.random.key(0)
TOKENS = jnp.array([[0, 3, 3], [2, 6, 0]])


class Net(nn.Module):
  """One or more layers on an embedding or on one-hot symbols; (B, T, 2)."""

  cell: type = nn.LSTMCell
  layers: int = 1
  embedding: bool = True

  @nn.compact
  def __call__(self, tokens):
    x = nn.Embed(7, 4, name='embed')(tokens) if self.embedding else jax.nn.one_hot(tokens, 7)
    for layer in range(self.layers):
      x = nn.RNN(self.cell(3, name=f'cell{layer}'), name=f'rnn{layer}')(x)
    return nn.Dense(2, name='head')(x)


def weights_of(net):
  shapes = jax.eval_shape(net.init, KEY, TOKENS)['params']
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


def members(groups, paths):
  """Returns {group: {(path, axis)}}."""
  return {name: {(path, axis) for pattern, axis in axes.items() for path in paths
                 if re.fullmatch(pattern, path)} for name, axes in groups.items()}


def test_groups_of_two_layers_by_hand():
  paths = list(flatten(weights_of(Net(nn.GRUCell, 2))))
  found = members(rnn_groups(paths), paths)

  def rows(*names):
    return {(f'{name}/kernel', -2) for name in names}

  wanted = {
      'words': {('embed/embedding', -2)},
      'inputs': rows('cell0/ir', 'cell0/iz', 'cell0/in'),
      'hidden_cell0': rows('cell0/hr', 'cell0/hz', 'cell0/hn', 'cell1/ir', 'cell1/iz', 'cell1/in'),
      'hidden_cell1': rows('cell1/hr', 'cell1/hz', 'cell1/hn', 'head'),
  }
  for cell in ('cell0', 'cell1'):
    for k in 'rzn':
      wanted[f'gate_{k}_{cell}'] = {(f'{cell}/i{k}/kernel', -1), (f'{cell}/h{k}/kernel', -1)}
  assert found == wanted
  assert members(rnn_groups(paths, ('hidden',), head=None), paths)['hidden_cell1'] == rows(
      'cell1/hr', 'cell1/hz', 'cell1/hn')


def test_without_an_embedding_words_are_the_inputs():
  paths = list(flatten(weights_of(Net(embedding=False))))
  rows = {(f'cell0/i{k}/kernel', -2) for k in 'ifgo'}
  for asked, name in ((('words',), 'words'), (('words', 'inputs'), 'inputs')):
    found = members(rnn_groups(paths, asked, embedding=None), paths)
    assert found == {name: rows}


def test_it_is_a_partition_inside_group_variables():
  weights = weights_of(Net())
  arguments = {'kl': 'exact', 'threshold': 2.0, 'clip': 6.0}
  short = bayesian_rnn(0.5, groups=['words', 'hidden'], init_log_sigma=-2.0, **arguments)

  def posterior(noise):
    return sparsejax.sparse_variational_dropout(0.5, noise=noise, init_log_sigma2=-4.0, **arguments)

  long = group_variables(
      sparsejax.partition(cells=('cell0/../kernel', posterior('weight')),
                          embedding=('embed/embedding', posterior('rows')),
                          head=('head/kernel', posterior('local_shared'))),
      {'words': {'embed/embedding': -2},
       'hidden_cell0': {'cell0/h./kernel': -2, 'head/kernel': -2}},
      strength=0.5, init_log_sigma=-2.0, **arguments)
  results = []
  for method in (short, long):
    params, state = jax.jit(method.init)(KEY, weights)
    results.append((params, state, *jax.jit(lambda p, s: (
        method.weights(p, s, KEY), method.weights(p, s), method.penalty(p, s)))(params, state)))
  paths = [jax.tree_util.tree_flatten_with_path(result)[0] for result in results]
  assert [p for p, _ in paths[0]] == [p for p, _ in paths[1]]
  for (_, a), (_, b) in zip(*paths):
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    np.testing.assert_array_equal(a, b)
  assert isinstance(results[0][2]['embed']['embedding'].value, RowGaussian)
  head = results[0][2]['head']['kernel']
  assert isinstance(head, Gated) and isinstance(head.value, Gaussian) and head.value.shared
  assert not isinstance(results[0][2]['head']['bias'], Structured)


def test_cells_and_output_layer_have_a_strength_of_their_own():
  weights = weights_of(Net())
  def parts(**arguments):
    method = bayesian_rnn(groups=['words', 'hidden'], **arguments)
    params, state = method.init(KEY, weights)
    return method.penalty(params, state), params, state
  whole, params, state = parts(strength=2.0, cells_strength=6.0)
  numbers = {name: float(part['strength']) for name, part in state['inner'].items()
             if 'strength' in part}
  assert numbers == {'embedding': 2.0, 'cells': 6.0, 'head': 6.0} and state['strength'] == 2.0
  # The penalty is linear in both.
  cells_only, all_but_cells = parts(strength=0.0, cells_strength=1.0)[0], parts(
      strength=1.0, cells_strength=0.0)[0]
  np.testing.assert_allclose(whole, 6 * cells_only + 2 * all_but_cells, rtol=1e-6)
  assert cells_only > 10 and all_but_cells > 10
  assert parts(strength=2.0)[0] == parts(strength=2.0, cells_strength=2.0)[0]


@pytest.mark.parametrize('cell', [nn.SimpleCell, nn.LSTMCell, nn.OptimizedLSTMCell, nn.GRUCell])
def test_stock_apply_takes_the_first_papers_draws(cell):
  net = Net(cell, embedding=False)
  method = bayesian_rnn(groups=(), embedding=None, head_noise='weight')
  params, state = method.init(KEY, weights_of(net))
  drawn = {'params': method.weights(params, state, KEY)}
  assert not any(isinstance(leaf, Structured) for leaf in flatten(drawn).values())
  ours, stock = jax.jit(lambda v: (sparsejax.apply(net, v, TOKENS), net.apply(v, TOKENS)))(drawn)
  np.testing.assert_array_equal(ours, stock)
  theta, w = params['cells']['theta']['cell0'], drawn['params']['cell0']
  assert all((flatten(theta)[path] != flatten(w)[path]).all() for path in flatten(theta))


@pytest.mark.slow
def test_a_training_step_reaches_every_parameter():
  net = Net(nn.GRUCell)
  method = bayesian_rnn()
  params, state = method.init(KEY, weights_of(net))

  def loss(params):
    drawn = {'params': method.weights(params, state, KEY)}
    outputs = sparsejax.apply(net, drawn, TOKENS, rngs={'noise': KEY})
    return (outputs**2).mean() + method.penalty(params, state, KEY) / 100

  grads = jax.jit(jax.grad(loss))(params)
  for path, leaf in flatten(grads).items():
    assert np.isfinite(leaf).all() and np.asarray(leaf).any(), path


def test_the_output_layer_has_one_draw_for_all_steps():
  class Same(nn.Module):
    """Hands the same state to the output layer at each of three steps."""

    @nn.compact
    def __call__(self, x):
      h = nn.RNN(nn.SimpleCell(3, name='cell0'), name='rnn')(x)[:, :1]
      return nn.Dense(5, name='head')(jnp.tile(h, (1, 3, 1)))

  net, x = Same(), jnp.ones((2, 1, 4))
  method = bayesian_rnn(embedding=None, groups=(), init_log_sigma=0.0)
  params, state = method.init(KEY, net.init(KEY, x)['params'])
  y = sparsejax.apply(net, {'params': method.weights(params, state, KEY)}, x, rngs={'noise': KEY})
  np.testing.assert_array_equal(y[:, 0], y[:, 2])
  assert (y[0] != y[1]).all()          # each sequence its own


@pytest.mark.parametrize('arguments, message', [
    ({'groups': ('words', 'neurons')}, "unknown 'neurons'; there are 'words'"),
    ({'cells': r'layer\d'}, "rule 'cells' .* matches no parameter"),
    ({'embedding': 'embeds/embedding'}, "rule 'embedding' .*did you mean 'embed/embedding'"),
    ({'head': 'heads/kernel'}, "rule 'head' .*did you mean 'head/kernel'"),
    ({'head_noise': 'local_'}, "noise='local_' is not one of 'local', 'local_shared'"),
])
def test_wrong_arguments_are_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    bayesian_rnn(**arguments).init(KEY, weights_of(Net()))


def test_a_cell_without_gates_or_without_a_name_is_named():
  with pytest.raises(ValueError, match="cell0 has no gates .*leave 'gates' out"):
    bayesian_rnn().init(KEY, weights_of(Net(nn.SimpleCell)))
  params, _ = bayesian_rnn(groups=('inputs', 'hidden')).init(KEY, weights_of(Net(nn.SimpleCell)))
  assert set(params['mean']) == {'inputs', 'hidden_cell0'}
  unnamed = nn.RNN(nn.LSTMCell(3)).init(KEY, jnp.ones((1, 2, 4)))['params']
  with pytest.raises(ValueError, match=r"matches no parameter; parameters are .*cell/hf/kernel"):
    bayesian_rnn(embedding=None, head=None).init(KEY, unnamed)
