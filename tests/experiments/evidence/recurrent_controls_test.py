"""Controls of recurrent networks: configs by hand, then two tiny trainings checked by NumPy."""
import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from scipy import stats

from experiments import build, datasets
from experiments.data import load
from experiments.evidence import point as module
from experiments.evidence import pool
from experiments.evidence.configs import load_config
from experiments.evidence.control_point import ControlPoint
from experiments.evidence.control_run import run_controls
from experiments.evidence.controls import (ALL, Examples, Settings, control_config, facts,
                                           why_not)
from experiments.evidence.equal_bytes import equal_bytes_fields
from experiments.evidence.label_scores import scorer
from experiments.evidence.point import run_point
from experiments.evidence.subject import Subject, examples_of
from sparsejax import codec
from sparsejax.training.loop import Epoch

pytestmark = pytest.mark.usefixtures('compile_once')


def config_of(kind='text', **changes):
  """A few steps: 'text' is read on with its state, 'windows' each from a zero state."""
  name = {'text': 'LoCV17/ptb_word:smoke', 'windows': 'LoCV17/ptb_char:smoke',
          'reviews': 'LoCV17/imdb:smoke', 'digits': 'LoCV17/digits_rows:smoke'}[kind]
  config = load_config(name, 0)
  if kind == 'text':
    config.dataset, config.model.vocabulary, config.training_examples = (
        'embedded_text_stream', 24, 128)
  config.model.widths = (6,)
  config.update(changes)
  return config


def variables_of(config, dead=0):
  """Random weights in which nothing is written into the first `dead` hidden units."""
  data = load(config)
  recipe = build.recipe(config, data.images)
  inputs = recipe.preprocess(data.images[:1])
  weights = jax.tree.map(np.array, recipe.model.init(jax.random.key(0), inputs)['params'])
  for matrix in ('ig', 'hg'):
    for leaf in weights['cell0'][matrix].values():
      leaf[..., :dead] = 0
  return {'params': weights}


@pytest.fixture(scope='module', params=['text', 'windows', 'reviews', 'digits'])
def known(request):
  """(kind, config, facts) of a network with 3 of 6 units left."""
  config = config_of(request.param)
  return request.param, config, facts(config, variables_of(config, 3), 3000,
                                      examples_of(config).shape)


# --- facts and configs ----------------------------------------------------------------------------


def test_the_examples_are_those_of_the_run(known):
  kind, config, _ = known
  found = examples_of(config)
  data = load(config)
  assert found.shape == data.images.shape[1:]
  assert found.held_out == (data.watched == 'validation')
  if kind == 'digits':
    assert found.frequent == ()
    return
  assert sorted(found.frequent) == list(range(config.model.vocabulary))
  source = datasets.load(config.dataset)
  text = source.train if kind == 'text' else source.train_images
  counts = np.bincount(text.ravel(), minlength=config.model.vocabulary)
  by_frequency = found.frequent[:-1] if kind == 'reviews' else found.frequent
  assert kind != 'reviews' or found.frequent[-1] == 0, 'padding comes last'
  assert (np.diff(counts[list(by_frequency)]) <= 0).all()


def test_the_facts_are_those_of_the_smaller_network(known):
  kind, config, found = known
  assert found.compacted and found.compact_fields['widths'] == (3,)
  inputs = {'text': 24, 'windows': 24, 'reviews': 8, 'digits': 8}[kind]
  outputs = {'text': 24, 'windows': 24, 'reviews': 2, 'digits': 10}[kind]
  table = 24 * 8 if kind == 'reviews' else 0
  assert found.weights_kept == 4 * (inputs * 3 + 3 * 3) + 3 * outputs + table
  steps = 1 if kind in ('reviews', 'digits') else examples_of(config).shape[0]
  recurrent = examples_of(config).shape[0]
  big, small = (recurrent * 4 * (inputs * n + n * n) + steps * n * outputs for n in (6, 3))
  assert found.flops_ratio == pytest.approx(big / small, rel=1e-12)


def test_every_control_has_a_config_that_can_be_built(known):
  kind, config, found = known
  data = load(config)
  examples = examples_of(config)
  for control in ALL:
    if control == 'int8_zstd' or why_not(control, config, found):
      continue
    made = control_config(control, config, found, Settings(), examples)
    recipe = build.recipe(made, data.images)
    assert recipe.sequential == (kind == 'text')
    if control == 'scratch':
      assert (tuple(recipe.model.widths), recipe.model.cell) == ((3,), 'lstm')
    # Recurrent networks without a method overfit; the early epochs of rewind are not sparse.
    stopped = control != 'rewind' and examples.held_out
    assert ('early_stopping' in made) == stopped
    if stopped:
      assert made.early_stopping.patience == max(5, round(made.epochs / 10))
      assert made.evaluate_every == 1


def test_language_models_are_not_taught_and_it_is_said(known):
  kind, config, found = known
  if kind in ('reviews', 'digits'):
    assert not [name for name in ALL if why_not(name, config, found)]
    return
  assert [name for name in ALL if why_not(name, config, found)] == ['distil']
  with pytest.raises(ValueError, match="'distil' needs a teacher's logits at each token .*; take "
                                       "'dense', 'scratch', 'random', 'rewind', 'dense_small'$"):
    control_config('distil', config, found, Settings(), examples_of(config))


# --- equal bytes ----------------------------------------------------------------------------------


def bytes_of(tokens, embedding, width, classes=2):
  """Of a classifier of tokens with one LSTM."""
  cell = {f'i{gate}': {'kernel': np.zeros((embedding, width), np.float32)} for gate in 'ifgo'} | {
      f'h{gate}': {'kernel': np.zeros((width, width), np.float32),
                   'bias': np.zeros(width, np.float32)} for gate in 'ifgo'}
  return codec.float32_bytes({'params': {
      'embed': {'embedding': np.zeros((tokens, embedding), np.float32)}, 'cell0': cell,
      'head': {'kernel': np.zeros((width, classes), np.float32),
               'bias': np.zeros(classes, np.float32)}}})


def test_the_embedding_shrinks_with_the_widths():
  config = config_of('reviews')
  config.model.update({'embedding': 12, 'widths': (12,)})
  frequent = tuple(reversed(range(24)))
  made = equal_bytes_fields(config, bytes_of(24, 5, 5), (12,), frequent)
  assert made == {'widths': (5,), 'embedding': 5}
  made = equal_bytes_fields(config, bytes_of(24, 5, 5) - 1, (12,), frequent)
  assert made == {'widths': (4,), 'embedding': 4}


def test_below_a_quarter_of_the_widths_the_rare_words_leave():
  config = config_of('reviews')
  config.model.update({'embedding': 40, 'widths': (40,)})
  frequent = (7, 3, *(token for token in range(24) if token not in (3, 7)))
  made = equal_bytes_fields(config, bytes_of(12, 5, 5), (12,), frequent)
  assert made['widths'] == (made['embedding'],) == (5,)
  count = len(made['kept_tokens'])
  assert bytes_of(count, 5, 5) <= bytes_of(12, 5, 5) and 11 <= count <= 12
  assert made['kept_tokens'] == tuple(sorted(frequent[:count]))
  assert equal_bytes_fields(config, 1, (12,), frequent) == {
      'widths': (1,), 'embedding': 1, 'kept_tokens': (7,)}


def test_a_carried_state_weighs_nothing():
  config = config_of('text')
  free = config.copy_and_resolve_references()
  free.model.carried = False
  del free.sequence
  assert equal_bytes_fields(config, 3000, (8,)) == equal_bytes_fields(free, 3000, (8,))


# --- trainings ------------------------------------------------------------------------------------


@pytest.fixture
def in_process(monkeypatch):
  """Points are trained in this process, and kept here."""
  trained = []

  def run_points(some, root, workers, done):
    for point in some:
      trained.append(point)
      done(point, run_point(point, root), '')
  monkeypatch.setattr(pool, 'run_points', run_points)
  return trained


def log_probabilities(weights, streams):
  """Of each next token (texts, T, symbols), by an LSTM that reads one-hot tokens from zeros."""
  cell = weights['cell0']

  def gate(name, x, h):
    return x @ cell[f'i{name}']['kernel'] + h @ cell[f'h{name}']['kernel'] + (
        cell[f'h{name}']['bias'])

  def sigmoid(x):
    return 1 / (1 + np.exp(-x))

  c = h = np.zeros((len(streams), cell['hi']['kernel'].shape[0]))
  found = []
  for tokens in streams.T:
    x = np.eye(24)[tokens]
    i, f, g, o = (gate(name, x, h) for name in 'ifgo')
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    logits = h @ weights['head']['kernel'] + weights['head']['bias']
    found.append(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
  return np.stack(found, 1)


def rounded(weights):
  """The kernels on 127 levels, with a scale per output channel."""
  def nearest(leaf):
    scale = np.abs(leaf).max(0) / np.float32(127)
    return np.rint(leaf / scale) * scale if leaf.ndim == 2 else leaf
  return jax.tree.map(nearest, weights)


def test_a_text_that_is_read_on_from_window_to_window(in_process, tmp_path, console):
  config = config_of('text')
  variables = variables_of(config)
  scores = scorer(config)(variables)
  subject = Subject('text', config, variables, scores.wrong,
                    facts(config, variables, 3000, examples_of(config).shape), scores.nll_nats)
  controls = ['dense', 'int8_zstd']
  own, dense, int8 = run_controls([subject], controls, Settings(), tmp_path, 1, console)
  data = load(config).dataset
  streams, labels = (array.reshape(-1, 16, 8).swapaxes(0, 1).reshape(16, -1)
                     for array in (data.test_images, data.test_labels))
  bits = {}
  point, = in_process
  deployed = codec.read(point.folder(tmp_path) / 'deployed_0.safetensors')
  assert deployed.keys() == {'params'}, 'the carried state is not deployed'
  for name, weights in (('', variables['params']), ('dense', deployed['params']),
                        ('int8_zstd', rounded(deployed['params']))):
    logs = log_probabilities(weights, streams)
    nll = -np.take_along_axis(logs, labels[..., None], 2)[..., 0] / math.log(2)
    bits[name] = nll.reshape(16, -1, 8).swapaxes(0, 1).reshape(-1, 8)
    outcome = {'': own, 'dense': dense, 'int8_zstd': int8}[name]
    # float32 over a few hundred steps
    assert outcome.bits_per_token == pytest.approx(nll.mean(), rel=1e-5)
    assert outcome.test_error_percent == pytest.approx(100 * np.mean(logs.argmax(2) != labels),
                                                       abs=100 * 2 / labels.size)
  change = (bits['dense'] - bits['']).mean(1)
  assert dense.bits_difference == pytest.approx(change.mean(), rel=1e-4)
  low, high = stats.t.interval(0.95, len(change) - 1, change.mean(), stats.sem(change))
  np.testing.assert_allclose((dense.bits_low, dense.bits_high), (low, high), rtol=1e-3)
  assert dense.bits_difference < 0 and 'is deployed, the best on held-out data' in dense.note
  assert int8.weights == dense.weights and int8.bytes_file < dense.bytes_file / 2
  again = run_controls([subject], controls, Settings(), tmp_path, 1, console)
  assert again == [own, dense, int8] and len(in_process) == 1


@pytest.mark.slow  # one more training, compiled
def test_a_classifier_of_tokens(in_process, tmp_path, console):
  config = config_of('reviews', epochs=1, training_examples=100)
  variables = variables_of(config, 3)
  subject = Subject('reviews', config, variables, scorer(config)(variables).wrong,
                    facts(config, variables, 2000, examples_of(config).shape))
  own, small = run_controls([subject], ['dense_small'], Settings(), tmp_path, 1, console)
  assert own.bits_per_token is small.bits_per_token is None
  made = equal_bytes_fields(config, 2000, (12,), examples_of(config).frequent)
  assert f'embedding {made["embedding"]}, all 24 tokens' in small.note
  assert small.weights < 24 * 8 + 4 * (8 * 6 + 6 * 6) + 6 * 2


def test_the_best_epoch_is_deployed_and_the_training_ends(tmp_path, monkeypatch):
  config = config_of('reviews', epochs=9, training_examples=100, regulariser={})
  config.early_stopping = ml_collections.ConfigDict({'patience': 2})
  losses = (0.5, 0.3, 0.4, 0.35, 0.1)

  def run_epochs(recipe, state, images, targets, *, last):
    assert last == 9
    for number in range(1, 10):
      params = jax.tree.map(lambda leaf: jnp.full_like(leaf, number), state.params)
      yield Epoch(number, state._replace(params=params), float(number))

  def jit_summary(recipe):
    def summary(state, images, labels):
      assert images.shape == (100, 12), 'the held-out reviews'
      return {'nll_nats': losses[int(jax.tree.leaves(state.params)[0].max()) - 1]}
    return summary
  monkeypatch.setattr(module, 'run_epochs', run_epochs)
  monkeypatch.setattr(module, 'jit_summary', jit_summary)
  point = ControlPoint('control:dense', config.to_json(), 0)
  content = run_point(point, tmp_path)
  assert (content['best_epoch'], content['epochs'], content['error']) == (2, 4, '')
  deployed = codec.read(point.folder(tmp_path) / 'deployed_0.safetensors')['params']
  assert {leaf.max() for leaf in jax.tree.leaves(deployed)} == {2.0}


def test_the_best_epoch_needs_held_out_data(tmp_path):
  config = config_of('reviews', validation_examples=0)
  config.early_stopping = ml_collections.ConfigDict({'patience': 2})
  with pytest.raises(ValueError, match='early_stopping needs held-out data'):
    run_point(ControlPoint('control:dense', config.to_json(), 0), tmp_path)
  assert list(tmp_path.iterdir()) == []


def test_the_examples_have_defaults():
  assert Examples((8, 8, 1)) == ((8, 8, 1), (), False)
