"""Recurrent networks made smaller: each kind of death in each cell, over 200 steps."""
import jax
import numpy as np
import pytest

import sparsejax
from sparsejax.compaction import compact, slice_like
from sparsejax.models.recurrent import CELLS, RecurrentClassifier, RecurrentLanguageModel
from sparsejax.paths import flatten, map_leaves

INPUTS = {'simple': 'i', 'lstm': ('ii', 'if', 'ig', 'io'), 'gru': ('ir', 'iz', 'in')}
RECURRENT = {'simple': 'h', 'lstm': ('hi', 'hf', 'hg', 'ho'), 'gru': ('hr', 'hz', 'hn')}
CANDIDATE = {'simple': ('i', 'h'), 'lstm': ('ig', 'hg'), 'gru': ('in', 'hn')}
GATE = {'lstm': ('ii', 'hi'), 'gru': ('ir', 'hr')}
for table in (INPUTS, RECURRENT, CANDIDATE, GATE):
  if 'lstm' in table:
    table['optimized_lstm'] = table['lstm']


def randomised(model, x):
  """Random values at every leaf; small recurrent kernels, so that nothing grows over the steps."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(model.init, jax.random.key(0), x)['params']
  return jax.tree_util.tree_map_with_path(
      lambda path, leaf: (0.2 if str(path[-2].key).startswith('h') else 0.6)
      * rng.standard_normal(leaf.shape).astype(np.float32), shapes)


def silence(cell, kind, unit):
  """Nothing writes into the state of the unit; its gates go on as they are."""
  for matrix in CANDIDATE[kind]:
    cell[matrix]['kernel'][:, unit] = 0
    if 'bias' in cell[matrix]:
      cell[matrix]['bias'][unit] = 0


def unread(params, kind, layer, unit):
  """No unit of the layer, and none behind it, reads the unit."""
  for matrix in RECURRENT[kind]:
    params[f'cell{layer}'][matrix]['kernel'][unit] = 0
  if f'cell{layer + 1}' in params:
    for matrix in INPUTS[kind]:
      params[f'cell{layer + 1}'][matrix]['kernel'][unit] = 0
  else:
    params['head']['kernel'][unit] = 0


def check_same(after, before):
  np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * float(np.abs(before).max()))


@pytest.mark.parametrize('kind', CELLS)
def test_a_language_model_with_every_kind_of_death(kind):
  model = RecurrentLanguageModel(9, embedding=5, widths=(6, 5), cell=kind, carried=True)
  text = np.random.default_rng(1).integers(0, 9, (3, 200))
  p = randomised(model, text)
  p['embed']['embedding'][[2, 7]] = 0                    # words of zeros
  p['embed']['embedding'][:, 1] = 0                      # a dimension that no word has
  p['embed']['embedding'][4] = [0, 0, 0, 1, 0]           # a word in a dimension that nobody reads
  for matrix in INPUTS[kind]:
    p['cell0'][matrix]['kernel'][3] = 0
  unread(p, kind, 0, 0)
  silence(p['cell0'], kind, 1)
  for matrix in GATE.get(kind, ()):                      # unit 2: one gate is constant
    p['cell0'][matrix]['kernel'][:, 2] = 0
  for matrix in RECURRENT[kind]:                         # unit 5 is read by the dead unit 0 alone
    p['cell0'][matrix]['kernel'][5, 1:] = 0
  for matrix in INPUTS[kind]:
    p['cell1'][matrix]['kernel'][5] = 0
  unread(p, kind, 1, 3)
  result = compact(model, {'params': p})
  assert {name: units.tolist() for name, units in result.kept.units.items()} == {
      'tokens': [0, 1, 3, 5, 6, 8], 'embed': [0, 2, 4], 'cell0': [2, 3, 4],
      'cell1': [0, 1, 2, 4]}
  assert result.model == model.clone(embedding=3, widths=(3, 4), kept_tokens=(0, 1, 3, 5, 6, 8))
  assert not result.kept.notes and not result.kept.added
  expected = jax.jit(model.clone(carried=False).apply)({'params': p}, text)
  small = jax.jit(lambda variables, tokens: result.model.apply(variables, tokens,
                                                               mutable=['carry']))
  variables = {**result.variables, 'carry': result.model.zero_carry(3)}
  first, carry = small(variables, text[:, :100])
  second, _ = small({**variables, **carry}, text[:, 100:])
  check_same(np.concatenate([first, second], 1), expected)
  if kind in GATE:                                       # f(b) stays, with its bias
    kernels = [result.variables['params']['cell0'][m]['kernel'][:, 0] for m in GATE[kind]]
    assert not np.concatenate(kernels).any()
    biased = next(m for m in GATE[kind] if 'bias' in p['cell0'][m])
    assert (result.variables['params']['cell0'][biased]['bias'][0]
            == p['cell0'][biased]['bias'][2])


def test_a_carried_state_is_cut_like_the_units_and_can_keep_one_alive():
  model = RecurrentLanguageModel(5, widths=(4,), carried=True)
  text = np.zeros((2, 3), int)
  p = randomised(model, text)
  unread(p, 'lstm', 0, 0)
  silence(p['cell0'], 'lstm', 1)
  carry = model.zero_carry(2)
  carry['cell0'] = {'c': np.array(carry['cell0']['c']), 'h': np.array(carry['cell0']['h'])}
  carry['cell0']['c'][:, 3] = 1
  variables = {'params': p, 'carry': carry}
  result = compact(model, variables)
  assert result.kept.units['cell0'].tolist() == [2, 3]
  assert result.variables['carry']['cell0']['c'].tolist() == [[0, 1], [0, 1]]
  check_same(result.model.apply(result.variables, text), model.apply(variables, text))
  cut = slice_like({'carry': carry}, result.kept)
  assert cut['carry']['cell0']['h'].shape == (2, 2)
  carry['cell0']['c'][:, 1] = 1           # this state fades away, but at first it is there
  assert compact(model, variables).kept.units['cell0'].tolist() == [1, 2, 3]


@pytest.mark.parametrize('kind', ['lstm', 'gru'])
def test_one_hot_words_that_no_gate_reads_leave_and_leave_again(kind):
  model = RecurrentLanguageModel(6, widths=(3,), cell=kind)
  text = np.random.default_rng(1).integers(0, 6, (2, 20))
  p = randomised(model, text)
  for matrix in INPUTS[kind]:
    p['cell0'][matrix]['kernel'][[0, 4]] = 0
  p['cell0'][INPUTS[kind][0]]['kernel'][4, 0] = 1        # one gate of one unit still reads word 4
  result = compact(model, {'params': p})
  assert result.model == model.clone(kept_tokens=(1, 2, 3, 4, 5))
  check_same(result.model.apply(result.variables, text), model.apply({'params': p}, text))
  again = jax.tree.map(np.array, result.variables)
  for matrix in INPUTS[kind]:
    again['params']['cell0'][matrix]['kernel'][[1, 3]] = 0      # words 2 and 4
  assert compact(result.model, again).model.kept_tokens == (1, 3, 5)


def test_a_classifier_of_padded_words():
  model = RecurrentClassifier(3, 8, 4, widths=(5,), cell='gru', pad=1)
  text = np.random.default_rng(1).integers(0, 8, (4, 12))
  text[1:, 7:] = 1
  p = randomised(model, text)
  p['embed']['embedding'][[1, 3]] = 0
  silence(p['cell0'], 'gru', 2)
  result = compact(model, {'params': p})
  assert result.model == model.clone(widths=(4,), kept_tokens=(0, 2, 4, 5, 6, 7))
  check_same(result.model.apply(result.variables, text), model.apply({'params': p}, text))


def test_entries_of_real_vectors_leave_and_leave_again():
  model = RecurrentClassifier(3, widths=(4, 4))
  x = np.random.default_rng(1).standard_normal((3, 8, 3, 2)).astype(np.float32)
  p = randomised(model, x)
  for matrix in INPUTS['lstm']:
    p['cell0'][matrix]['kernel'][[0, 4]] = 0
  unread(p, 'lstm', 0, 2)
  result = compact(model, {'params': p})
  assert result.model == model.clone(widths=(3, 4), kept_inputs=(1, 2, 3, 5))
  check_same(result.model.apply(result.variables, x), model.apply({'params': p}, x))
  again = jax.tree.map(np.array, result.variables)
  for matrix in INPUTS['lstm']:
    again['params']['cell0'][matrix]['kernel'][1] = 0
  assert compact(result.model, again).model.kept_inputs == (1, 3, 5)


def test_a_network_without_any_unit_keeps_one_of_each_row():
  model = RecurrentLanguageModel(4, embedding=3, widths=(2, 2), cell='simple')
  text = np.array([[0, 3, 1]])
  p = jax.tree.map(np.zeros_like, randomised(model, text))
  p['head']['bias'][:] = [1, 2, 3, 4]
  result = compact(model, {'params': p})
  assert result.model == model.clone(embedding=1, widths=(1, 1), kept_tokens=(0,))
  assert len(result.kept.notes) == 4
  assert result.model.apply(result.variables, text).tolist() == [[[1, 2, 3, 4]] * 3]


def test_gates_sit_on_what_reads_a_unit_and_never_on_the_carry():
  model = RecurrentLanguageModel(4, embedding=3, widths=(2, 2), cell='gru', carried=True)
  variables = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 2), int))
  assert set(variables) == {'params', 'carry'}
  rows = {row.name: row for row in model.couplings(variables)}
  assert set(rows['cell0'].gate_axes('reads')) == {
      f'cell{layer}/{matrix}/kernel' for layer, side in ((0, 'h'), (1, 'i'))
      for matrix in (INPUTS if side == 'i' else RECURRENT)['gru']}
  assert set(rows['cell1'].gate_axes('reads')) == {
      *(f'cell1/{matrix}/kernel' for matrix in RECURRENT['gru']), 'head/kernel'}
  assert set(rows['tokens'].gate_axes('reads').items()) == {('embed/embedding', -2)}
  assert not any('carry' in path for path in rows['cell0'].gate_axes('writes'))


@pytest.mark.slow
@pytest.mark.parametrize('kind', CELLS)
def test_gates_tied_over_a_coupling_take_its_units(kind):
  model = RecurrentLanguageModel(4, widths=(5,), cell=kind)
  text = np.random.default_rng(1).integers(0, 4, (2, 10))
  row = {row.name: row for row in model.couplings({'params': randomised(model, text)})}['cell0']
  method = sparsejax.partition(hidden=(row.leaves('reads'), sparsejax.l0_hard_concrete(
      1.0, axis=row.gate_axes('reads'), tied=True)))
  params, state = method.init(jax.random.key(0), randomised(model, text))
  gates = flatten(params['hidden']['log_alpha'])
  assert [leaf.shape for leaf in gates.values()] == [(5, 1)]
  shut = np.array([9, -9, 9, -9, 9], np.float32)[:, None]
  params = map_leaves(lambda path, leaf: shut if 'log_alpha' in path else leaf, params)
  weights = sparsejax.finalise(method, params, state)
  result = compact(model, {'params': weights})
  assert result.kept.units['cell0'].tolist() == [0, 2, 4]
  check_same(result.model.apply(result.variables, text), model.apply({'params': weights}, text))


@pytest.mark.slow
@pytest.mark.parametrize('kind', CELLS)
def test_magnitude_pruning_of_a_cell_needs_no_code_of_its_own(kind):
  model = RecurrentLanguageModel(4, widths=(6,), cell=kind)
  weights = randomised(model, np.zeros((1, 2), int))
  method = sparsejax.partition(cell=(r'cell0/.*kernel', sparsejax.magnitude_pruning(0.75)))
  params, state = method.init(jax.random.key(0), weights)
  params, state = method.update(params, state, step=0)
  for path, leaf in flatten(sparsejax.finalise(method, params, state)).items():
    if path.startswith('cell0') and path.endswith('kernel'):
      kept = np.flatnonzero(leaf)
      largest = np.argsort(-np.abs(np.ravel(flatten(weights)[path])))[:leaf.size // 4]
      assert set(kept) == set(largest)
