"""The LSTM with deep updates: its equations by hand, its start, packed kernels in the scan."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.compaction import compact
from sparsejax.models.deep_lstm import DeepLSTM, repeated_identity
from sparsejax.paths import flatten, unflatten

WIDTH, STEPS = 16, 2
MODEL = DeepLSTM(symbols=5, width=WIDTH, embedding=8, steps=STEPS)
TOKENS = np.random.default_rng(0).integers(0, 5, (3, 4)).astype(np.int32)
CELL = [f'cell/{name}/kernel' for name in ('h0', 'h1', 'i', 'f', 'o', 'u')]


@pytest.fixture(scope='module')
def params():
  """Random values at every leaf, so that no gain of 1 or bias of 0 hides a mistake."""
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(MODEL.init, jax.random.key(0), TOKENS)['params']
  return jax.tree.map(lambda leaf: 0.5 * rng.standard_normal(leaf.shape).astype(np.float32),
                      shapes)


def packed(params, density=0.4):
  """The params with BlockSparse kernels in the cell."""
  leaves = flatten(params)
  for path in CELL:
    leaves[path] = sparsejax.BlockSparse.from_dense(leaves[path], 4, density=density)
  return unflatten(leaves)


def by_hand(params, tokens):
  """Logits (T, symbols) of one sequence in float64, one symbol after the other."""
  p = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(params).items()}

  def layer(name, x):
    y = x @ p[f'{name}/kernel']
    y = (y - y.mean()) / np.sqrt(y.var() + 1e-6)           # flax's epsilon
    return y * p[f'{name}_norm/scale'] + p[f'{name}_norm/bias']

  def sigmoid(x):
    return 1 / (1 + np.exp(-x))
  c = h = np.zeros(WIDTH)
  logits = []
  for token in tokens:
    x = p['embed/embedding'][token]
    h = layer('cell/h0', h) * layer('multiply', x)
    h = np.maximum(layer('cell/h1', h) + layer('add', x), 0)
    i, f, o, u = (layer(f'cell/{gate}', h) for gate in 'ifou')
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(u)
    h = sigmoid(o) * np.tanh(c)
    logits.append(h @ p['head/kernel'] + p['head/bias'])
  return np.array(logits)


def test_the_equations(params):
  logits = MODEL.apply({'params': params}, TOKENS)
  assert logits.shape == (3, 4, 5)
  wanted = np.array([by_hand(params, tokens) for tokens in TOKENS])
  # Four steps of six normalised layers, each off by a few units of float32's last place.
  np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-4)


def test_a_symbol_does_not_see_those_after_it(params):
  changed = TOKENS.copy()
  changed[:, 2:] = (changed[:, 2:] + 1) % 5
  before, after = (MODEL.apply({'params': params}, tokens) for tokens in (TOKENS, changed))
  np.testing.assert_array_equal(before[:, :2], after[:, :2])
  assert np.all(before[:, 2] != after[:, 2])


def test_square_layers_start_as_the_identity_and_the_forget_gate_open():
  weights = flatten(MODEL.init(jax.random.key(0), TOKENS)['params'])
  for path in CELL:
    np.testing.assert_array_equal(weights[path], np.eye(WIDTH))
  for gate, bias in zip('ifou', (0, 1, 0, 0)):
    np.testing.assert_array_equal(weights[f'cell/{gate}_norm/bias'], np.full(WIDTH, bias))
  np.testing.assert_array_equal(repeated_identity(None, (2, 4)), [[1, 0, 1, 0], [0, 1, 0, 1]])
  np.testing.assert_array_equal(repeated_identity(None, (4, 2)), [[1, 0], [0, 1], [1, 0], [0, 1]])


@pytest.mark.slow
def test_blocks_train_as_the_dense_kernels_they_stand_for(params):
  regulariser = sparsejax.partition(cell=('cell/.*/kernel', sparsejax.block_sparse(
      4, layout='watts_strogatz', density=0.75, seed=0, rescale=False)))
  blocks, state = regulariser.init(jax.random.key(1), params)

  def loss(blocks, form):
    drawn = form(regulariser.weights(blocks, state, jax.random.key(2)))
    logits = sparsejax.apply(MODEL, {'params': drawn}, jnp.asarray(TOKENS))
    return jnp.square(logits).mean()
  value, grads = jax.jit(jax.value_and_grad(lambda b: loss(b, lambda drawn: drawn)))(blocks)
  wanted, wanted_grads = jax.jit(jax.value_and_grad(lambda b: loss(b, sparsejax.densify)))(blocks)
  np.testing.assert_allclose(value, wanted, rtol=1e-5)
  found, wanted = flatten(grads), flatten(wanted_grads)
  scale = max(float(np.abs(leaf).max()) for leaf in wanted.values())
  assert set(found) == set(wanted) and f'cell/{CELL[0]}' in found and scale > 0
  for path, leaf in wanted.items():
    np.testing.assert_allclose(found[path], leaf, rtol=0, atol=1e-5 * scale, err_msg=path)


def test_new_values_and_a_new_pattern_of_as_many_blocks_compile_nothing(params):
  sparse = packed(params)
  traced = []

  @jax.jit
  def run(params):
    traced.append(True)
    return sparsejax.apply(MODEL, {'params': params}, TOKENS)

  first = run(sparse)
  leaves = flatten(sparse)
  other = np.asarray(leaves['cell/h1/kernel'].mask())[::-1, ::-1]
  leaves['cell/h1/kernel'] = leaves['cell/h1/kernel'].with_layout(other)
  leaves['cell/i/kernel'] = leaves['cell/i/kernel'].replace(
      blocks=2 * leaves['cell/i/kernel'].blocks)
  assert np.abs(run(unflatten(leaves)) - first).max() > 1e-3
  assert len(traced) == 1


def test_compaction_leaves_it_as_it_is(params):
  result = compact(MODEL, {'params': params}, example_shape=(1, 4))
  assert result.model is MODEL
  for path, leaf in flatten(result.variables['params']).items():
    np.testing.assert_array_equal(leaf, flatten(params)[path])


@pytest.mark.parametrize('model, tokens, message', [
    (DeepLSTM(5, 8, steps=1), TOKENS, 'steps=1 must be at least 2'),
    (MODEL, TOKENS.astype(np.float32), r'tokens are float32 \(3, 4\); need integers'),
    (MODEL, TOKENS[0], r'tokens are int32 \(4,\); need integers'),
])
def test_refusals(model, tokens, message):
  with pytest.raises(ValueError, match=message):
    model.init(jax.random.key(0), tokens)
