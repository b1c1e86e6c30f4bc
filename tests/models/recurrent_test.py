"""Recurrent models: the cells' equations by hand, padding, carried state, what is refused."""
import jax
import numpy as np
import pytest

import sparsejax
from sparsejax.models.recurrent import CELLS, RecurrentLanguageModel
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
