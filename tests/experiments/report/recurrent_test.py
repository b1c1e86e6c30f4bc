"""What is shown of recurrent networks: states of units by hand, samples and effects by arithmetic.

Networks are made by hand, so that what they write and which words they heed is known beforehand.
"""
import jax
import numpy as np
import pytest

import sparsejax
from experiments import vocabulary
from experiments.report import histograms, recurrent, texts
from experiments.report.folder import Run
from experiments.structure import count
from sparsejax.models.recurrent import RecurrentClassifier, RecurrentLanguageModel
from sparsejax.paths import flatten

HIDDEN, WORDS = 3, 5
NAMES = ('<pad>', '<start>', '<unknown>', 'good', 'bad')


def lstm(inputs, **kernels):
  """An LSTM cell of zeros but for the kernels given."""
  cell = {f'i{gate}': {'kernel': np.zeros((inputs, HIDDEN), np.float32)} for gate in 'ifgo'}
  cell |= {f'h{gate}': {'kernel': np.zeros((HIDDEN, HIDDEN), np.float32),
                        'bias': np.zeros(HIDDEN, np.float32)} for gate in 'ifgo'}
  for name, kernel in kernels.items():
    cell[name]['kernel'] = np.asarray(kernel, np.float32)
  return cell


@pytest.fixture
def classifier():
  """Only 'good' and 'bad' have a row; unit 0 alone is read, its gates i, f and o are constant."""
  embedding = np.zeros((WORDS, 1), np.float32)
  embedding[3], embedding[4] = 1.0, -1.0
  head = np.zeros((HIDDEN, 2), np.float32)
  head[0] = (-2.0, 2.0)
  return {'embed': {'embedding': embedding}, 'cell0': lstm(1, ig=[[0.5, 0.5, 0.0]]),
          'head': {'kernel': head, 'bias': np.zeros(2, np.float32)}}


def run_of(params, folder='.', metrics=(), ledger=None, **config):
  model = {'name': 'recurrent_classifier', 'classes': 2, 'vocabulary': WORDS, 'embedding': 1,
           'widths': [HIDDEN]}
  return Run(folder, {'model': model, 'dataset': 'made', **config}, ledger or {}, list(metrics), {},
             {}, flatten(params))


def test_states_of_units_by_hand(classifier):
  found = count(flatten(classifier))
  states = recurrent.unit_states(found.hidden['cell0'], found.gates['cell0'])
  gates = list(found.gates['cell0'])
  expected = np.zeros((4, HIDDEN), int)
  expected[:, 0] = recurrent.CONSTANT
  expected[gates.index('g'), 0] = recurrent.LIVING
  np.testing.assert_array_equal(states, expected)
  shuffled = recurrent.unit_states(np.array([False, True, True]),
                                   {'a': np.array([False, False, True]),
                                    'b': np.array([False, True, True])})
  np.testing.assert_array_equal(shuffled, [[2, 1, 0], [2, 2, 0]])


def test_pictures_and_sections_of_a_classifier(classifier, tmp_path):
  vocabulary.write(tmp_path, NAMES)
  run = run_of(classifier, tmp_path)
  plots = recurrent.recurrent_plots(run)
  assert [plot.name for plot in plots] == ['living_units', 'gate_densities']
  assert '1 of 3 units and 1 of 12 gates are left' in plots[0].reading
  assert [text.get_text() for text in plots[1].figure.axes[0].texts].count('66.7 %') == 1
  section = '\n'.join(recurrent.structure(run))
  assert '| words | 2 | 5 |' in section and '| hidden | 1 | 3 |' in section
  # The embedding has 2, one input kernel 1 of a living unit, the head 2.
  assert '| weights | 5 | 59 |' in section
  words = '\n'.join(texts.text_sections(run))
  assert '2 of 5 words are left' in words and '| good | +' in words and '| bad | -' in words


def test_effects_of_words_by_arithmetic(classifier):
  model = RecurrentClassifier(classes=2, vocabulary=WORDS, embedding=1, widths=(HIDDEN,))
  found = texts.word_effects(model, classifier, NAMES, np.array([3, 4]))
  # One step: c = sigmoid(0) tanh(0.5), h = sigmoid(0) tanh(c), the logits differ by 4 h.
  effect = 4 * 0.5 * np.tanh(0.5 * np.tanh(0.5))
  assert [word.word for word in found] == ['bad', 'good']          # equal, so by the alphabet
  np.testing.assert_allclose([word.effect for word in found], [-effect, effect], rtol=1e-5)
  assert texts.word_effects(model, classifier, NAMES, np.array([], int)) == []


@pytest.fixture
def language_model():
  """Unit k is on after token k, and then the head is sure of token k + 1, modulo 3."""
  params = {'cell0': lstm(3, ig=20 * np.eye(3), ii=20 * np.eye(3), io=20 * np.eye(3),
                          **{'if': np.full((3, 3), -20)}),
            'head': {'kernel': 400 * np.roll(np.eye(3, dtype=np.float32), 1, axis=1),
                     'bias': np.zeros(3, np.float32)}}
  return RecurrentLanguageModel(vocabulary=3, widths=(HIDDEN,)), params


def test_a_sure_network_writes_its_cycle(language_model):
  model, params = language_model
  found = texts.sample(model, params, 7, 2, 1.0, jax.random.key(3))
  np.testing.assert_array_equal(found, [0, 1, 2, 0, 1, 2, 0])


def test_texts_and_perplexity_of_a_language_model(language_model, tmp_path):
  _, params = language_model
  vocabulary.write(tmp_path, ('\n', 'a', 'b'))
  metrics = [{'epoch': epoch, 'train_nll_nats': 2 / epoch, 'validation_nll_nats': nll}
             for epoch, nll in ((1, 1.5), (2, 1.0), (3, 1.2))]
  ledger = {'test_perplexity': 3.0, 'epochs': 3}
  model = {'name': 'recurrent_language_model', 'vocabulary': 3, 'widths': [HIDDEN]}
  run = run_of(params, tmp_path, metrics, ledger, model=model, early_stopping={'patience': 1})
  assert '    ab\n    ab\n' in '\n'.join(texts.text_sections(run))
  plot, = recurrent.perplexity(run)
  axes = plot.figure.axes[0]
  lines = {line.get_label(): line for line in axes.lines}
  np.testing.assert_allclose(lines['validation, deployed'].get_ydata(), np.exp([1.5, 1.0, 1.2]))
  assert list(lines['deployed: epoch 2, the best on validation'].get_xdata()) == [2, 2]
  np.testing.assert_allclose(recurrent.best_epoch(run), 2)
  assert recurrent.best_epoch(run._replace(config={})) is None


def test_a_vocabulary_of_another_network_is_said_to_be_one(classifier, tmp_path):
  vocabulary.write(tmp_path, ('a', 'b'))
  found = '\n'.join(texts.text_sections(run_of(classifier, tmp_path)))
  assert 'Not shown: ' in found and 'names 2 different words, the network knows 5' in found


def test_a_missing_vocabulary_comes_from_the_data_set_of_the_run_alone(classifier, tmp_path):
  run = run_of(classifier, tmp_path, ledger={'data_hash': 'another'}, dataset='embedded_reviews')
  assert 'is not the one that the run had' in '\n'.join(texts.text_sections(run))
  assert not (tmp_path / vocabulary.FILE).exists()


def test_other_networks_have_none_of_it(classifier):
  run = run_of(classifier, model={'name': 'mlp'})
  assert recurrent.recurrent_plots(run) == recurrent.structure(run) == []
  assert texts.text_sections(run) == []


def test_each_posterior_of_a_recipe_has_its_dropout_rates(classifier):
  """bayesian_rnn holds three rules for weights and one for groups; each is cut at its threshold."""
  recipe = sparsejax.bayesian_rnn(groups=('words',))
  params, state = recipe.init(jax.random.key(0), classifier)
  run = run_of(classifier)._replace(
      params={'rnn': params}, state={'rnn': jax.tree.map(np.asarray, state)}, ledger={'layers': []})
  # 2 log sigma = -6 everywhere: of weights of 0 and +-1, and of variables whose mean is 1.
  plots = {plot.name: plot for plot in histograms.rule_histograms(run)}
  assert list(plots) == ['log_alpha_rnn_on_groups', 'log_alpha_rnn_inner_cells',
                         'log_alpha_rnn_inner_embedding', 'log_alpha_rnn_inner_head']
  titles = {name: [axes.get_title('left') for axes in plot.figure.axes]
            for name, plot in plots.items()}
  assert titles['log_alpha_rnn_on_groups'] == ['words\n5 of 5 groups kept']
  assert titles['log_alpha_rnn_inner_embedding'] == ['embed/embedding\n2 of 5 weights kept']
  assert titles['log_alpha_rnn_inner_head'] == ['head/kernel\n2 of 6 weights kept']
