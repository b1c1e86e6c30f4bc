"""Methods that know nothing of recurrence, on stock recurrent cells: train, deploy, cut, pack."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.compaction import compact
from sparsejax.kernels.block_sparse import BlockSparse
from sparsejax.models.recurrent import RecurrentClassifier, RecurrentLanguageModel
from sparsejax.paths import flatten
from sparsejax.training.fit import Preprocess, Recipe, start, train_step

RNG = np.random.default_rng(3)
INPUTS = RNG.normal(size=(4, 5, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0], np.int32)
FAINT = 2                                     # units that their readers hardly read
READERS = '(cell0/h.|head)/kernel'


def faint_rows(initialiser):
  """The initialiser with the first rows a thousand times smaller."""
  def init(key, shape, dtype=jnp.float32):
    return initialiser(key, shape, dtype).at[:FAINT].multiply(1e-3)
  return init


def network(cell):
  return RecurrentClassifier(3, widths=(6,), cell=cell,
                             kernel_init=faint_rows(jax.nn.initializers.lecun_normal()),
                             recurrent_init=faint_rows(jax.nn.initializers.orthogonal()))


def method_on_units(name, model):
  """The rule of a method for everything that reads the hidden units."""
  if name == 'l0':
    variables = jax.eval_shape(model.init, jax.random.key(0), INPUTS)
    coupling = {row.name: row for row in model.couplings(variables)}['cell0']
    axes = coupling.gate_axes('reads')
    return '|'.join(axes), sparsejax.l0_hard_concrete(0.1, axis=axes, tied=True)
  return READERS, {
      'magnitude': sparsejax.magnitude_pruning(FAINT / 6, granularity='row', every=1),
      'group_lasso': sparsejax.group_lasso(0.1, axis=-2, threshold=0.02),
      # Thresholds for these blocks: 0.0125 after the first step, 0.044 after the second.
      'block_pruning': sparsejax.block_pruning(0.02, start=0, ramp=1, end=2, freq=1,
                                               block_size=(FAINT, 3), group_lasso=0.1),
  }[name]


@pytest.mark.parametrize('cell', ['lstm', pytest.param('gru', marks=pytest.mark.slow)])
@pytest.mark.parametrize('name', [
    'l0', pytest.param('magnitude', marks=pytest.mark.slow),
    pytest.param('group_lasso', marks=pytest.mark.slow), 'block_pruning'])
def test_units_die_in_training_and_leave_the_cell(cell, name):
  model = network(cell)
  regulariser = sparsejax.partition(units=method_on_units(name, model))
  recipe = Recipe(model, regulariser, optax.sgd(0.01, momentum=0.9), num_terms=40, batch_size=4,
                  preprocess=Preprocess(1.0))
  state = start(recipe, jax.random.key(1), INPUTS)
  step = jax.jit(lambda state: train_step(recipe, state, INPUTS, LABELS))
  for _ in range(2):
    state, loss = step(state)
    assert np.isfinite(loss)
  params = state.params
  if name == 'l0':                            # gates need longer than two steps to close
    closed = jax.tree.map(lambda a: a.at[:FAINT].set(-9.0), params['units']['log_alpha'])
    params = {**params, 'units': {**params['units'], 'log_alpha': closed}}
  weights = sparsejax.finalise(regulariser, params, state.method_state)
  for path, leaf in flatten(weights).items():
    if re.fullmatch(READERS, path):
      assert not np.any(leaf[:FAINT]), path
      assert np.all(np.any(leaf[FAINT:], axis=1)), path
  small = compact(model, {'params': weights})
  assert small.model.widths == (6 - FAINT,)
  np.testing.assert_allclose(small.model.apply(small.variables, INPUTS),
                             model.apply({'params': weights}, INPUTS), atol=1e-5)


# --- packed blocks inside the scan ----------------------------------------------------------------


def pruned_language_model(cell, width, block, share):
  """A model and weights whose recurrent kernels block pruning has pruned."""
  model = RecurrentLanguageModel(5, None, (width,), cell=cell)
  tokens = jax.random.randint(jax.random.key(0), (3, 6), 0, 5)
  weights = model.init(jax.random.key(1), tokens)['params']
  recurrent = {path: leaf for path, leaf in flatten(weights).items() if '/h' in path}
  kernels = [leaf for path, leaf in recurrent.items() if path.endswith('kernel')]
  tiles = [np.abs(leaf).reshape(width // block, block, -1, block) for leaf in kernels]
  maxima = np.concatenate([tile.max((1, 3)).ravel() for tile in tiles])
  # After its second step the threshold is 1.4 times that of the whole schedule.
  q = np.quantile(maxima, share) / (1.4 * block ** 0.5)
  rule = sparsejax.block_pruning(q, start=0, ramp=1, end=2, freq=1, block_size=block)
  method = sparsejax.partition(recurrent=('cell0/h./kernel', rule))
  params, state = method.init(jax.random.key(2), weights)
  for step in range(2):
    params, state = method.update(params, state, step=step)
  return model, sparsejax.finalise(method, params, state), tokens


def nll(model, weights, tokens):
  logits = sparsejax.apply(model, {'params': weights}, tokens)
  return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.roll(tokens, -1, 1)).mean()


@pytest.mark.slow
@pytest.mark.parametrize('cell', [pytest.param('lstm', marks=pytest.mark.slow), 'gru'])
def test_packed_kernels_in_a_cell_are_the_same_function_with_the_same_gradients(cell):
  model, weights, tokens = pruned_language_model(cell, 8, 2, 0.7)
  rules = {'cell0/h./kernel': 2}
  packed, report = sparsejax.pack(weights, rules, rows=3, force=True)
  assert len(report) == (4 if cell == 'lstm' else 3)
  assert all(entry.packed and 0 < entry.density < 1 for entry in report)
  assert all(leaf.frozen for leaf in flatten(packed).values() if isinstance(leaf, BlockSparse))
  np.testing.assert_allclose(sparsejax.apply(model, {'params': packed}, tokens),
                             model.apply({'params': weights}, tokens), atol=1e-5)
  value, grads = jax.value_and_grad(nll, 1, allow_int=True)(model, packed, tokens)
  wanted_value, wanted = jax.value_and_grad(nll, 1)(model, weights, tokens)
  np.testing.assert_allclose(value, wanted_value, rtol=1e-5)

  found, wanted = flatten(grads), flatten(wanted)
  for path, weight in flatten(packed).items():
    grad, kept = found[path], True
    if isinstance(weight, BlockSparse):
      grad = weight.replace(blocks=grad.blocks).to_dense()
      kept = np.repeat(np.repeat(np.asarray(weight.mask()), 2, 0), 2, 1)
    np.testing.assert_allclose(grad, np.where(kept, wanted[path], 0), atol=1e-5, err_msg=path)


@pytest.mark.slow
def test_no_step_of_the_scan_computes_indices_anew():
  model, weights, tokens = pruned_language_model('gru', 64, 8, 0.8)
  packed, _ = sparsejax.pack(weights, {'cell0/h./kernel': 8}, rows=3, purpose='training',
                             force=True)
  entries = {leaf.capacity for leaf in flatten(packed).values() if isinstance(leaf, BlockSparse)}
  gradient = jax.jit(jax.grad(lambda w, t: nll(model, w, t), allow_int=True))
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', False)    # hoisting is an optimisation
  try:
    program = gradient.lower(packed, tokens).compile().as_text()
  finally:
    jax.config.update('jax_disable_most_optimizations', before)
  bodies = set(re.findall(r'body=%?([\w.\-]+)', program))
  assert len(bodies) >= 2                      # there and back
  for body in bodies:
    text = re.search(rf'^%?{re.escape(body)} .*?^}}', program, re.MULTILINE | re.DOTALL).group()
    made = [op for count in entries for op in re.findall(
        rf'= s32\[{count}(?:,1)?\]\S* ([\w\-]+)\(', text)]
    free = {'get-tuple-element', 'parameter', 'copy', 'bitcast'}
    assert not set(made) - free, f'{body} computes index arrays: {made}'
