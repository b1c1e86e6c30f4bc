"""Group variables against explicit loops with the very z drawn, and against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import special

import sparsejax
from sparsejax.compaction import Kept, slice_like
from sparsejax.paths import flatten
from sparsejax.regularisers.group_variables import group_log_alphas, group_variables
from sparsejax.structured import Gated

KEY = jax.random.key(0)
B, T, IN, UNITS, WORDS = 3, 4, 2, 3, 7
LETTERS = {nn.LSTMCell: 'ifgo', nn.GRUCell: 'rzn', nn.SimpleCell: ('',)}


class Net(nn.Module):
  """Embedding, one cell, a layer that reads its states; returns (logits, states)."""

  cell: type = nn.LSTMCell
  param_dtype: type = jnp.float32

  @nn.compact
  def __call__(self, tokens, seq_lengths=None):
    x = nn.Embed(WORDS, IN, name='embed')(tokens)
    cell = self.cell(UNITS, param_dtype=self.param_dtype, name='cell0')
    states = nn.RNN(cell, name='rnn')(x, seq_lengths=seq_lengths)
    return nn.Dense(2, name='head')(states), states


TOKENS = jnp.array([[0, 3, 3, 1], [3, 6, 0, 3], [2, 2, 5, 4]])


def random_weights(cell):
  """Returns normal weights; only shapes are traced, nothing is compiled."""
  shapes = jax.eval_shape(Net(cell).init, KEY, TOKENS)['params']
  rng = np.random.default_rng(5)
  return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


def groups_of(cell):
  groups = {'words': {'embed/embedding': -2}, 'inputs': {'cell0/i.?/kernel': -2},
            'hidden': {'cell0/h.?/kernel': -2, 'head/kernel': -2}}
  return groups | {f'gate_{k}': {f'cell0/[ih]{k}/kernel': -1} for k in LETTERS[cell]}


def method_for(cell, **arguments):
  inner = sparsejax.partition(r=('cell0/.*/kernel', sparsejax.sparse_variational_dropout(
      noise='weight', init_log_sigma2=-2.0)))
  return group_variables(inner, groups_of(cell), **arguments)


def opened(leaf):
  """Returns (the plain weight, {axis: gates (B, n)}) of nested Gated boxes."""
  gates = {}
  while isinstance(leaf, Gated):
    gates[leaf.axis] = leaf.draw(B)
    leaf = leaf.value
  return leaf, gates


def loop(cell, w, tokens):
  """The network in NumPy, with one z per sequence and each gate before its bias.

  `w` is {path: opened leaf}; biases have no gates.
  """
  w = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), w)
  table, z = w['embed/embedding']
  x = table[tokens] * np.take_along_axis(z[-2], np.asarray(tokens), 1)[..., None]
  head, head_z = w['head/kernel']

  def product(name, inputs):
    kernel, z = w[f'cell0/{name}/kernel']
    return ((inputs * z[-2]) @ kernel) * z[-1]

  def bias(name):
    return w[f'cell0/{name}/bias'][0]

  h, c, states = np.zeros((B, UNITS)), np.zeros((B, UNITS)), []
  for t in range(tokens.shape[1]):
    if cell is nn.LSTMCell:
      i, f, g, o = (product(f'i{k}', x[:, t]) + product(f'h{k}', h) + bias(f'h{k}') for k in 'ifgo')
      c = special.expit(f) * c + special.expit(i) * np.tanh(g)
      h = special.expit(o) * np.tanh(c)
    elif cell is nn.GRUCell:
      r, z = (special.expit(product(f'i{k}', x[:, t]) + bias(f'i{k}') + product(f'h{k}', h))
              for k in 'rz')
      n = np.tanh(product('in', x[:, t]) + bias('in') + r * (product('hn', h) + bias('hn')))
      h = (1 - z) * n + z * h
    else:
      h = np.tanh(product('i', x[:, t]) + bias('i') + product('h', h))
    states.append(h)
  states = np.stack(states, 1)
  logits = (states * head_z[-2][:, None]) @ head + w['head/bias'][0]
  return logits, states


@pytest.mark.parametrize('cell', LETTERS)
def test_network_equals_an_explicit_loop_with_the_very_draw(cell):
  method = method_for(cell, init_log_sigma=-1.0)
  params, state = jax.jit(method.init)(KEY, random_weights(cell))

  @jax.jit
  def run(key):
    drawn = method.weights(params, state, key)
    outputs = sparsejax.apply(Net(cell), {'params': drawn}, TOKENS)
    return outputs, {path: opened(leaf) for path, leaf in flatten(drawn).items()}

  got, w = run(jax.random.key(1))
  for a, b in zip(got, loop(cell, w, TOKENS)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  _, z = w[f'cell0/h{LETTERS[cell][0]}/kernel']
  of_head = w['head/kernel'][1][-2]
  np.testing.assert_array_equal(z[-2], of_head)              # tied
  for gates in z.values():
    assert len(np.unique(gates)) == gates.size               # each sequence its own
  _, other = run(jax.random.key(2))
  assert (other['head/kernel'][1][-2] != of_head).all()


@pytest.mark.parametrize('cell', [nn.LSTMCell, nn.GRUCell])
def test_without_noise_and_with_means_of_one_it_is_the_plain_network(cell):
  inner = sparsejax.partition(r=('cell0/.*/kernel', sparsejax.sparse_variational_dropout(
      noise='weight', init_log_sigma2=-60.0)))
  method, weights = group_variables(inner, groups_of(cell), init_log_sigma=-30.0), random_weights(
      cell)

  @jax.jit
  def run():
    params, state = method.init(KEY, weights)
    return [sparsejax.apply(Net(cell), {'params': w}, TOKENS)[0] for w in (
        weights, method.weights(params, state, KEY), method.weights(params, state))]

  wanted, drawn, deployed = run()
  np.testing.assert_allclose(drawn, wanted, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(deployed, wanted, rtol=1e-5, atol=1e-6)


def test_a_gate_whose_variable_is_zero_is_a_function_of_its_bias():
  method, weights = method_for(nn.LSTMCell, init_log_sigma=-30.0), random_weights(nn.LSTMCell)
  params, state = method.init(KEY, weights)
  zero = jax.tree.map(jnp.zeros_like, params['mean']['gate_o'])
  params['mean'] = {**params['mean'], 'gate_o': zero}
  cell = nn.LSTMCell(UNITS)
  constant = jax.nn.sigmoid(weights['cell0']['ho']['bias'])

  @jax.jit
  def step(own, carry, x):
    return sparsejax.apply(cell, {'params': own}, carry, x)

  for key in (KEY, None):
    own = jax.jit(method.weights)(params, state, key)['cell0']
    carry = (jnp.zeros((B, UNITS)),) * 2
    for t in range(T):
      carry, h = step(own, carry, jax.random.normal(jax.random.key(t), (B, IN)))
      np.testing.assert_allclose(h, constant[None] * jnp.tanh(carry[0]), rtol=1e-5, atol=1e-6)
  assert not method.weights(params, state)['cell0']['io']['kernel'].any()


def test_deployed_weights_have_the_kept_means_folded_in():
  method = group_variables(sparsejax.partition(), groups_of(nn.LSTMCell), threshold=3.0)
  weights = random_weights(nn.LSTMCell)
  params, state = method.init(KEY, weights)
  place = ('hidden', 'cell0', 'hf', 'kernel')
  mean = np.array([2.0, -0.1, 0.5])
  # log alpha = 2 log sigma - log mu^2: -7.4, 3.2 (removed), 2.8 (kept)
  log_sigma = np.array([-3.0, 1.6 + np.log(0.1), 1.4 + np.log(0.5)])
  params['mean'][place[0]][place[1]][place[2]][place[3]] = jnp.asarray(mean, jnp.float32)[:, None]
  params['log_sigma'][place[0]][place[1]][place[2]][place[3]] = jnp.asarray(
      log_sigma, jnp.float32)[:, None]
  np.testing.assert_allclose(group_log_alphas(params)['hidden'], [-6 - np.log(4), 3.2, 2.8],
                             rtol=1e-5)
  deployed = sparsejax.finalise(method, params, state)
  wanted = np.array([2.0, 0.0, 0.5])[:, None]
  for path in ('hf', 'ho'):
    np.testing.assert_allclose(deployed['cell0'][path]['kernel'],
                               weights['cell0'][path]['kernel'] * wanted, rtol=1e-6)
  np.testing.assert_allclose(deployed['head']['kernel'], weights['head']['kernel'] * wanted,
                             rtol=1e-6)
  np.testing.assert_array_equal(deployed['cell0']['io']['kernel'], weights['cell0']['io']['kernel'])


@pytest.mark.slow
def test_gradient_of_log_sigma_is_the_sum_over_time():
  with jax.enable_x64(True):
    weights = jax.tree.map(lambda w: w.astype(jnp.float64), random_weights(nn.SimpleCell))
    method = group_variables(sparsejax.partition(
        r=('cell0/h/kernel', sparsejax.sparse_variational_dropout(noise='weight',
                                                                  init_log_sigma2=-2.0))),
        {'hidden': {'cell0/h/kernel': -2}})
    params, state = method.init(KEY, weights)
    x = weights['embed']['embedding'][TOKENS]

    @jax.jit
    def loss(log_sigma2, log_sigma):
      trained = {**params, 'log_sigma': {'hidden': {'cell0': {'h': {'kernel': log_sigma}}}}}
      trained['inner'] = {**params['inner'], 'r': {**params['inner']['r'], 'log_sigma2': {
          'cell0': {'h': {'kernel': log_sigma2}}}}}
      drawn = method.weights(trained, state, KEY)
      _, states = sparsejax.apply(Net(nn.SimpleCell, jnp.float64), {'params': drawn}, TOKENS)
      return (states[:, -1]**2).sum()

    def unrolled(kernels, gates):
      """The same with a kernel and gates of its own for each step."""
      own, h = weights['cell0'], jnp.zeros((B, UNITS))
      for t in range(T):
        h = jnp.tanh(x[:, t] @ own['i']['kernel'] + own['i']['bias'][None]
                     + (h * gates[t]) @ kernels[t])
      return (h**2).sum()

    at = (params['inner']['r']['log_sigma2']['cell0']['h']['kernel'].astype(jnp.float64),
          params['log_sigma']['hidden']['cell0']['h']['kernel'].astype(jnp.float64))
    slopes = jax.jit(jax.grad(loss, (0, 1)))(*at)
    box = method.weights(params, state, KEY)['cell0']['h']['kernel']
    kernel, z = box.value, box.draw(B)
    by_step = jax.grad(unrolled, (0, 1))([kernel] * T, [z] * T)
    assert sum(float(jnp.abs(g).max()) > 1e-6 for g in by_step[0]) == T - 1    # h = 0 at the start
    theta = weights['cell0']['h']['kernel']
    # dw / dlog sigma^2 = sigma e / 2 = (w - theta) / 2; dz / dlog sigma = z - 1.
    np.testing.assert_allclose(slopes[0], 0.5 * sum(by_step[0]) * (kernel - theta), rtol=1e-5,
                               atol=1e-9)
    np.testing.assert_allclose(slopes[1][:, 0], (sum(by_step[1]) * (z - 1)).sum(0), rtol=1e-5,
                               atol=1e-9)
    h = 1e-5
    for i in range(2):
      turn = jnp.ones_like(at[i])
      ends = [loss(*(a + s * h * turn if j == i else a for j, a in enumerate(at))) for s in (1, -1)]
      # In float64 differences are exact to h^2 = 1e-10 of the third derivative.
      np.testing.assert_allclose(slopes[i].sum(), (ends[0] - ends[1]) / (2 * h), rtol=1e-6,
                                 atol=1e-8)


def test_a_word_has_one_variable_in_a_sequence_and_another_in_the_next():
  method = group_variables(sparsejax.partition(), {'words': {'embed/embedding': -2}},
                           init_log_sigma=0.0)
  weights = {'embed': {'embedding': jnp.ones((WORDS, IN))}}
  params, state = method.init(KEY, weights)
  drawn = method.weights(params, state, KEY)['embed']

  def look_up(tokens):
    return sparsejax.apply(nn.Embed(WORDS, IN), {'params': drawn}, tokens)[..., 0]

  z = look_up(TOKENS)
  assert z[0, 1] == z[0, 2] and z[1, 0] == z[1, 3]       # word 3, word 3
  assert z[0, 1] != z[1, 0] and z[0, 0] != z[1, 2]
  # With as many steps as words all variables are drawn: the same ones.
  np.testing.assert_allclose(look_up(jnp.tile(TOKENS, (1, 2))), jnp.tile(z, (1, 2)), rtol=1e-6)
  np.testing.assert_allclose(np.take_along_axis(drawn['embedding'].draw(B), TOKENS, 1), z,
                             rtol=1e-6)


def test_penalty_counts_each_variable_once_whatever_the_length():
  method = method_for(nn.LSTMCell, strength=0.5, kl='first', clip=None)
  params, state = method.init(KEY, random_weights(nn.LSTMCell))
  inner = sparsejax.partition(r=('cell0/.*/kernel', sparsejax.sparse_variational_dropout(
      noise='weight', init_log_sigma2=-2.0)))
  own = inner.penalty(params['inner'], state['inner'])
  # log alpha = -6 for each of words, inputs, hidden units and four gates per unit
  each = 0.5 * np.log1p(np.exp(6.0)) + 0.64 - 0.64 / (1 + np.exp(-1.5 * (-6 + 1.3)))
  count = WORDS + IN + UNITS + 4 * UNITS
  np.testing.assert_allclose(method.penalty(params, state, KEY) - own, 0.5 * count * each,
                             rtol=1e-4)


@pytest.mark.slow
def test_padding_that_is_masked_changes_nothing():
  method = method_for(nn.LSTMCell)
  params, state = jax.jit(method.init)(KEY, random_weights(nn.LSTMCell))
  lengths = jnp.array([4, 2, 3])

  @jax.jit
  def run(tokens):
    drawn = {'params': method.weights(params, state, KEY)}
    return sparsejax.apply(Net(), drawn, tokens, seq_lengths=lengths)[0]

  short, long = run(TOKENS), run(jnp.concatenate([TOKENS, jnp.full((B, 3), 6)], 1))
  for e, n in enumerate(lengths):
    np.testing.assert_allclose(short[e, :n], long[e, :n], rtol=1e-5, atol=1e-6)


def test_parameters_are_cut_with_their_weights():
  method = group_variables(sparsejax.partition(), {
      'hidden': {'cell0/h/kernel': -2, 'head/kernel': -2}, 'gate': {'cell0/h/kernel': -1}})
  weights = {'cell0': {'h': {'kernel': jnp.ones((3, 3))}}, 'head': {'kernel': jnp.ones((3, 2))}}
  params, _ = method.init(KEY, weights)
  params['mean']['hidden']['cell0']['h']['kernel'] = jnp.arange(3.0)[:, None]
  live, all_of = np.array([0, 2]), np.arange(2)
  kept = Kept(axes={'cell0/h/kernel': (live, live), 'head/kernel': (live, all_of)},
              shapes={'cell0/h/kernel': (3, 3), 'head/kernel': (3, 2)}, units={}, added={},
              created=(), notes=())
  cut = slice_like(params, kept)
  np.testing.assert_array_equal(cut['mean']['hidden']['cell0']['h']['kernel'], [[0.0], [2.0]])
  assert cut['log_sigma']['gate']['cell0']['h']['kernel'].shape == (1, 2)


@pytest.mark.parametrize('groups, message', [
    ({'a': {'cel0/h/kernel': -2}}, "'cel0/h/kernel' of the group 'a' matches no.*mean 'cell0/h/ke"),
    ({'a': {'cell0/h/kernel': -3}}, 'gate axis -3 does not exist on cell0/h/kernel'),
    ({'a': {'cell0/h/bias': -2}}, 'gate axis -2 does not exist on cell0/h/bias'),
    ({'a': {'cell0/./kernel': -2}}, 'tied gates need one length'),
    ({'a/b': {'cell0/h/kernel': -2}}, "group 'a/b' has a /"),
])
def test_wrong_groups_are_named(groups, message):
  weights = {'cell0': {'h': {'kernel': jnp.ones((3, 3)), 'bias': jnp.ones(3)},
                       'i': {'kernel': jnp.ones((2, 3))}}}
  with pytest.raises(ValueError, match=message):
    group_variables(sparsejax.partition(), groups).init(KEY, weights)


def test_an_axis_that_is_no_gate_axis_is_named():
  layer, x = nn.Conv(3, (2,)), jnp.ones((2, 4, 3))
  method = group_variables(sparsejax.partition(), {'a': {'kernel': -3}})
  params, state = method.init(KEY, layer.init(KEY, x)['params'])
  with pytest.raises(ValueError, match='axis -3 of kernel belong to no input or output'):
    sparsejax.apply(layer, {'params': method.weights(params, state, KEY)}, x)


def test_a_cell_that_reads_its_kernels_itself_is_named():
  method = group_variables(sparsejax.partition(), {'a': {'cell0/h./kernel': -2}})
  params, state = method.init(KEY, random_weights(nn.OptimizedLSTMCell))
  with pytest.raises(ValueError, match='Gated weight at cell0/h./kernel is read .*nn.LSTMCell'):
    sparsejax.apply(Net(nn.OptimizedLSTMCell), {'params': method.weights(params, state, KEY)},
                    TOKENS)
  # Without noise it serves as well as its twin.
  deployed = {'params': method.weights(params, state)}
  np.testing.assert_allclose(Net(nn.OptimizedLSTMCell).apply(deployed, TOKENS)[0],
                             Net(nn.LSTMCell).apply(deployed, TOKENS)[0], rtol=1e-5, atol=1e-6)


def test_local_noise_under_a_group_in_a_cell_is_named():
  inner = sparsejax.partition(r=('cell0/h./kernel', sparsejax.sparse_variational_dropout()))
  method = group_variables(inner, {'a': {'cell0/h./kernel': -2}})
  params, state = method.init(KEY, random_weights(nn.LSTMCell))
  with pytest.raises(ValueError, match="recurrent cell cell0/h./kernel would be redrawn.*'weight'"):
    sparsejax.apply(Net(), {'params': method.weights(params, state, KEY)}, TOKENS,
                    rngs={'noise': KEY})


def test_methods_that_it_cannot_hold_are_named():
  with pytest.raises(ValueError, match='needs gradients with respect to the weights'):
    group_variables(sparsejax.rigl(0.3, every=3, end=9), {'a': {'w': -2}})
  with pytest.raises(ValueError, match="kl='other'"):
    group_variables(sparsejax.partition(), {}, kl='other')
  with pytest.raises(ValueError, match='strength=-1'):
    group_variables(sparsejax.partition(), {}, strength=-1)
  low_rank = sparsejax.Regulariser(lambda key, w: (w, {}), lambda params, state, key=None: {
      'w': sparsejax.LowRank(params['w'], params['w'])})
  packed = group_variables(low_rank, {'a': {'w': -2}})
  params, state = packed.init(KEY, {'w': jnp.ones((4, 4))})
  with pytest.raises(ValueError, match="at w is a LowRank, which the group 'a' cannot multiply"):
    packed.weights(params, state)
