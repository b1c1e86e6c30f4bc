"""Recurrent models: the cells' equations by hand, padding, carried state, what is refused."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.ledger.count import count_layers, totals
from sparsejax.models.recurrent import CELLS, RecurrentClassifier, RecurrentLanguageModel
from sparsejax.paths import flatten, map_leaves

VOCABULARY = 7
TOKENS = np.random.default_rng(0).integers(1, VOCABULARY, (2, 4)).astype(np.uint8)
STEPS = np.random.default_rng(1).standard_normal((2, 3, 2, 2)).astype(np.float32)


def randomised(model, inputs, scale=0.7):
  """Random values at every leaf, so that no bias of 0 hides a mistake."""
  rng = np.random.default_rng(2)
  shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)
  return {'params': jax.tree.map(
      lambda leaf: scale * rng.standard_normal(leaf.shape).astype(np.float32), shapes['params'])}


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def hard(x):
  return np.clip(0.2 * x + 0.5, 0, 1)


def layer_by_hand(p, kind, x, gate):
  """States (T, width) of one sequence (T, n) in float64."""
  width = next(leaf.shape[-1] for path, leaf in p.items() if path.endswith('kernel'))
  c = h = np.zeros(width)
  states = []

  def affine(name, values):
    return values @ p[f'{name}/kernel'] + p.get(f'{name}/bias', 0)
  for entry in x:
    if kind == 'simple':
      h = np.tanh(affine('i', entry) + affine('h', h))
    elif kind == 'gru':
      r, z = (gate(affine(f'i{k}', entry) + affine(f'h{k}', h)) for k in 'rz')
      h = (1 - z) * np.tanh(affine('in', entry) + r * affine('hn', h)) + z * h
    else:
      i, f, g, o = (affine(f'i{k}', entry) + affine(f'h{k}', h) for k in 'ifgo')
      c = gate(f) * c + gate(i) * np.tanh(g)
      h = gate(o) * np.tanh(c)
    states.append(h)
  return np.array(states)


def by_hand(variables, kind, x, layers, gate=sigmoid):
  """(states of the last layer, logits at each step), float64, for one sequence (T, n)."""
  p = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(variables['params']).items()}
  for i in range(layers):
    own = {path.removeprefix(f'cell{i}/'): leaf for path, leaf in p.items()
           if path.startswith(f'cell{i}/')}
    x = layer_by_hand(own, kind, x, gate)
  return x, x @ p['head/kernel'] + p['head/bias']


@pytest.mark.parametrize('cell', CELLS)
def test_a_language_model_computes_the_equations_of_its_cells(cell):
  model = RecurrentLanguageModel(VOCABULARY, embedding=3, widths=(4, 5), cell=cell)
  variables = randomised(model, TOKENS)
  logits = model.apply(variables, TOKENS)
  table = variables['params']['embed']['embedding']
  for tokens, found in zip(TOKENS, logits, strict=True):
    expected = by_hand(variables, cell, table[tokens], 2)[1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize('cell', CELLS)
def test_drawn_weights_pass_through_apply(cell):
  model = RecurrentLanguageModel(VOCABULARY, widths=(4,), cell=cell)
  variables = randomised(model, TOKENS)
  method = sparsejax.partition(cell=('cell0/.*kernel',
                                     sparsejax.sparse_variational_dropout(noise='weight')))
  params, state = method.init(jax.random.key(1), variables['params'])
  drawn = method.weights(params, state, jax.random.key(2))
  leaves = map_leaves(lambda path, leaf: np.asarray(leaf), drawn)     # nothing structured is left
  np.testing.assert_array_equal(sparsejax.apply(model, {'params': drawn}, TOKENS),
                                model.apply({'params': leaves}, TOKENS))


def test_a_classifier_of_image_rows_with_hard_gates():
  model = RecurrentClassifier(3, widths=(4, 5), gate='hard_sigmoid', kept_inputs=(0, 2, 3))
  variables = randomised(model, STEPS, scale=2.0)        # so that some gates saturate
  logits = model.apply(variables, STEPS)
  for entry, found in zip(STEPS.reshape(2, 3, 4)[..., [0, 2, 3]], logits, strict=True):
    expected = by_hand(variables, 'lstm', entry, 2, hard)[1][-1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_one_hot_inputs_with_hard_gates():
  model = RecurrentLanguageModel(VOCABULARY, widths=(4,), cell='gru', gate='hard_sigmoid',
                                 kept_tokens=(0, 2, 6))
  variables = randomised(model, TOKENS, scale=2.0)
  assert set(variables['params']) == {'cell0', 'head'}
  assert variables['params']['cell0']['in']['kernel'].shape == (3, 4)
  logits = model.apply(variables, TOKENS)
  for tokens, found in zip(TOKENS, logits, strict=True):
    rows = np.equal.outer(tokens, [0, 2, 6]).astype(float)
    expected = by_hand(variables, 'gru', rows, 1, hard)[1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_large_vocabularies_fit_into_bytes_of_any_width():
  model = RecurrentLanguageModel(300, widths=(1,), cell='simple')
  variables = randomised(model, np.zeros((1, 1), int))
  small, large = (model.apply(variables, np.array([[7]], kind)) for kind in (np.uint8, np.int32))
  np.testing.assert_array_equal(small, large)


# One 0 between words is no padding; the last sequence is nothing else.
RAGGED = np.array([[3, 2, 5, 1, 2], [4, 0, 2, 0, 0], [0, 0, 0, 0, 0]])


@pytest.mark.parametrize('kept', [None, (2, 3, 5)])
def test_padding_changes_no_logit(kept):
  model = RecurrentClassifier(3, VOCABULARY, 4, widths=(5,), kept_tokens=kept)
  variables = randomised(model, RAGGED)
  logits = model.apply(variables, RAGGED)
  longer = model.apply(variables, np.pad(RAGGED, ((0, 0), (0, 4))))
  np.testing.assert_allclose(longer, logits, rtol=0, atol=1e-6)
  table = np.zeros((VOCABULARY, 4))
  table[slice(None) if kept is None else list(kept)] = variables['params']['embed']['embedding']
  for found, tokens, length in zip(logits, RAGGED, (5, 3), strict=False):
    expected = by_hand(variables, 'lstm', table[tokens[:length]], 1)[1][-1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
  np.testing.assert_array_equal(logits[2], variables['params']['head']['bias'])


def test_padding_teaches_nothing():
  model = RecurrentClassifier(3, VOCABULARY, 4, widths=(3,), cell='simple')
  variables = randomised(model, RAGGED)
  gradient = jax.grad(lambda v: (model.apply(v, RAGGED[2:]) ** 2).sum())(variables)['params']
  assert {path for path, leaf in flatten(gradient).items() if np.any(leaf)} == {'head/bias'}


@pytest.mark.parametrize('cell', [pytest.param('lstm', marks=pytest.mark.slow), 'gru'])
def test_a_carried_state_joins_segments(cell):
  model = RecurrentLanguageModel(VOCABULARY, embedding=3, widths=(4, 2), cell=cell, carried=True)
  variables = randomised(model, TOKENS)
  whole = model.clone(carried=False).apply(variables, TOKENS)
  first, carry = model.apply(variables, TOKENS[:, :1], mutable=['carry'])
  assert jax.tree.map(jnp.shape, carry['carry']) == jax.tree.map(jnp.shape, model.zero_carry(2))
  second = model.apply({**variables, **carry}, TOKENS[:, 1:])       # read, not written
  np.testing.assert_allclose(np.concatenate([first, second], 1), whole, rtol=0, atol=1e-6)
  zeros = {'carry': model.zero_carry(2)}
  np.testing.assert_array_equal(model.apply({**variables, **zeros}, TOKENS[:, :1]), first)


def test_no_gradient_passes_from_segment_to_segment():
  model = RecurrentLanguageModel(VOCABULARY, widths=(2,), cell='simple', carried=True)
  variables = randomised(model, TOKENS)

  def second_segment(carry):
    return model.apply({**variables, 'carry': carry}, TOKENS).sum()
  carry = jax.tree.map(jnp.ones_like, model.zero_carry(2))
  assert second_segment(carry) != second_segment(model.zero_carry(2))
  assert not np.any(jax.grad(second_segment)(carry)['cell0']['h'])


@pytest.mark.parametrize('cell', ['lstm', pytest.param('optimized_lstm', marks=pytest.mark.slow)])
def test_the_start(cell):
  model = RecurrentLanguageModel(
      VOCABULARY, embedding=3, widths=(4, 4), cell=cell, forget_bias=1.0, carried=True,
      recurrent_init=jax.nn.initializers.orthogonal(1.1),
      embedding_init=jax.nn.initializers.constant(0.5))
  variables = model.init(jax.random.key(0), TOKENS)
  assert set(variables['params']) == {'embed', 'cell0', 'cell1', 'head'}
  assert jax.tree.map(np.shape, variables['carry']) == {
      name: {'c': (2, 4), 'h': (2, 4)} for name in ('cell0', 'cell1')}
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(variables['carry']))
  for path, leaf in flatten(variables['params']).items():
    if path.endswith('bias'):
      np.testing.assert_array_equal(leaf, float(path.endswith('hf/bias')))
    elif path.startswith('cell') and path.split('/')[1].startswith('h'):
      np.testing.assert_allclose(leaf @ leaf.T, 1.21 * np.eye(4), atol=1e-5)
    elif path.startswith('embed'):
      np.testing.assert_array_equal(leaf, 0.5)


def test_intermediates():
  model = RecurrentClassifier(3, VOCABULARY, 4, widths=(5, 6))
  shapes = jax.eval_shape(
      lambda key: model.init_with_output(key, TOKENS, mutable=['params', 'intermediates'])[1],
      jax.random.key(0))
  sown = {name: leaf[0].shape for name, leaf in shapes['intermediates'].items()}
  assert sown == {'embed_out': (2, 4, 4), 'cell0_out': (2, 4, 5), 'cell1_out': (2, 4, 6),
                  'last_state': (2, 6)}


def test_multiply_adds_count_once_a_step():
  model = RecurrentLanguageModel(VOCABULARY, embedding=3, widths=(4,), cell='optimized_lstm')
  variables = randomised(model, TOKENS)
  for kind in ('lstm', 'optimized_lstm'):
    rows = count_layers(model.clone(cell=kind), variables, TOKENS[:1])
    steps = TOKENS.shape[1]
    assert totals(rows)['flops'] == 2 * steps * (4 * 3 * 4 + 4 * 4 * 4 + 4 * VOCABULARY)


@pytest.mark.slow
@pytest.mark.parametrize('cell', ['simple', 'lstm', 'gru'])
def test_packed_kernels_in_the_cell(cell):
  model = RecurrentLanguageModel(VOCABULARY, embedding=4, widths=(4,), cell=cell)
  variables = randomised(model, TOKENS)
  packed = map_leaves(
      lambda path, leaf: (sparsejax.BlockSparse.from_dense(leaf, 2, density=0.5)
                          if path.startswith('cell0') and leaf.ndim == 2 else leaf),
      variables['params'])
  dense = map_leaves(lambda path, leaf: leaf if isinstance(leaf, np.ndarray) else leaf.to_dense(),
                     packed)
  expected = model.apply({'params': dense}, TOKENS)
  found = sparsejax.apply(model, {'params': packed}, TOKENS)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def refused(model, inputs, match):
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(lambda key: model.init(key, inputs), jax.random.key(0))


@pytest.mark.parametrize('fields, match', [
    ({'cell': 'LSTM'}, "cell='LSTM' is unknown; did you mean 'lstm'"),
    ({'cell': 'mamba'}, "cell='mamba' is unknown; .*use one of simple, lstm"),
    ({'gate': 'hard'}, "did you mean 'hard_sigmoid'"),
    ({'widths': ()}, 'at least one layer'),
    ({'widths': (3, 0)}, 'at least one unit'),
    ({'cell': 'gru', 'forget_bias': 1.0}, "'gru' has no forget gate"),
    ({'cell': 'simple', 'gate': 'hard_sigmoid'}, "'simple' has no gates"),
    ({'kept_tokens': (0, 7)}, 'between 0 and 7; expected some between 0 and 6'),
    ({'kept_tokens': (3, 2)}, 'ascending'),
    ({'kept_tokens': ()}, 'holds 0 tokens'),
])
def test_attributes_that_do_not_fit_are_refused(fields, match):
  refused(RecurrentLanguageModel(VOCABULARY, **{'widths': (3,), **fields}), TOKENS, match)


@pytest.mark.parametrize('fields, match', [
    ({'vocabulary': 7}, 'needs both'),
    ({'embedding': 7}, 'needs both'),
    ({'vocabulary': 7, 'embedding': 2, 'pad': 7}, 'pad=7 is no token'),
    ({'vocabulary': 7, 'embedding': 2, 'kept_inputs': (1,)}, 'tokens have kept_tokens'),
    ({'kept_tokens': (1,)}, 'real vectors have kept_inputs'),
    ({'kept_inputs': (4,)}, 'between 4 and 4; expected some between 0 and 3'),
])
def test_classifiers_that_do_not_fit_are_refused(fields, match):
  model = RecurrentClassifier(3, **fields)
  refused(model, STEPS if model.vocabulary is None else TOKENS, match)


def test_inputs_of_another_kind_are_refused():
  words = RecurrentLanguageModel(VOCABULARY, embedding=2, widths=(2,))
  refused(words, np.zeros((2, 3), np.float32), r'tokens are float32 \(2, 3\); need integers')
  refused(words, TOKENS[0], r'tokens are uint8 \(4,\)')
  refused(words, TOKENS[:, :0], r'tokens are uint8 \(2, 0\)')
  refused(words, TOKENS.astype(int) + 4, 'tokens lie between .* in a vocabulary of 7')
  rows = RecurrentClassifier(3)
  refused(rows, TOKENS, 'with vocabulary=None they are real numbers')
  refused(rows, STEPS[:, 0, 0], r'inputs are float32 \(2, 2\)')


def test_a_carry_of_another_batch_is_refused():
  model = RecurrentLanguageModel(VOCABULARY, widths=(2,), cell='simple', carried=True)
  variables = {**randomised(model, TOKENS), 'carry': model.zero_carry(3)}
  with pytest.raises(ValueError, match=r"'carry' holds .*\(3, 2\).* need .*\(2, 2\)"):
    model.apply(variables, TOKENS)


def test_gaussian_weights_in_a_cell_are_refused():
  model = RecurrentLanguageModel(VOCABULARY, widths=(2,))
  variables = randomised(model, TOKENS)
  method = sparsejax.partition(cell=('cell0/h./kernel',
                                     sparsejax.sparse_variational_dropout(noise='local')))
  params, state = method.init(jax.random.key(1), variables['params'])
  with pytest.raises(ValueError, match='cell0/h./kernel would be redrawn'):
    sparsejax.apply(model, {'params': method.weights(params, state, jax.random.key(2))}, TOKENS,
                    rngs={'noise': jax.random.key(3)})
