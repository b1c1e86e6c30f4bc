"""Controls of a tiny network on the digits, trained here in process and checked by NumPy."""
import io

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from experiments import datasets
from experiments.data import load
from experiments.evidence import control_run as module
from experiments.evidence import pool
from experiments.evidence.configs import load_config
from experiments.evidence.control_run import run_controls
from experiments.evidence.controls import ALL, Settings, facts
from experiments.evidence.point import run_point
from experiments.evidence.subject import Subject
from sparsejax import codec

pytestmark = pytest.mark.usefixtures('compile_once')

SETTINGS = Settings(max_epochs_factor=2.0, temperature=3.0, hard_weight=0.25)
CONTROLS = ('dense', 'scratch', 'distil', 'int8_zstd')
LAYERS = ('dense0', 'dense1', 'head')


def config_of(seed=0):
  # Without its method, that of frontier_test.py: one compilation serves both files.
  config = load_config('frontier/mlp:magnitude', seed)
  config.update({'dataset': 'digits', 'validation_examples': 237, 'training_examples': 400,
                 'batch_size': 50, 'epochs': 2})
  return config


def logits_by_numpy(weights, images):
  x = images.reshape(len(images), -1).astype(np.float64) / 255
  for name in LAYERS:
    x = x @ weights[name]['kernel'].astype(np.float64) + weights[name]['bias']
    x = np.maximum(x, 0) if name != 'head' else x
  return x


def wrong_by_numpy(weights):
  data = datasets.load('digits')
  return logits_by_numpy(weights, data.test_images).argmax(1) != data.test_labels


def subject_of(compacted=True, seed=0, name='tiny'):
  """A random network; where compacted, of 20 and 10 units."""
  rng = np.random.default_rng(seed)
  weights = {layer: {'kernel': rng.normal(0, 0.1, shape).astype(np.float32),
                     'bias': np.zeros(shape[1], np.float32)}
             for layer, shape in (('dense0', (64, 300)), ('dense1', (300, 100)),
                                  ('head', (100, 10)))}
  if compacted:
    for layer, units in (('dense0', 20), ('dense1', 10)):
      weights[layer]['kernel'][:, units:] = 0
  variables = {'params': weights}
  config = config_of(seed)
  return Subject(name, config, variables, wrong_by_numpy(weights),
                 facts(config, variables, 9000, (8, 8, 1)))


@pytest.fixture(scope='module')
def in_process(compile_once):
  """The points that were trained, in this process."""
  trained = []

  def run_points(some, root, workers, done):
    for point in some:
      trained.append(point)
      done(point, run_point(point, root), '')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pool, 'run_points', run_points)
    yield trained


@pytest.fixture(scope='module')
def finished(in_process, tmp_path_factory):
  """(root, {control: outcome}, {control: point}, text) of all of CONTROLS."""
  root = tmp_path_factory.mktemp('subject')
  console = Console(file=io.StringIO(), width=200)
  outcomes = run_controls([subject_of()], CONTROLS, SETTINGS, root, 1, console)
  points = {point.config.removeprefix('control:'): point for point in in_process}
  assert len(points) == len(in_process) == 3
  in_process.clear()
  assert [outcome.control for outcome in outcomes] == ['', *CONTROLS]
  return root, {outcome.control: outcome for outcome in outcomes}, points, console.file.getvalue()


def deployed(finished, control):
  root, _, points, _ = finished
  return codec.read(points[control].folder(root) / 'deployed_0.safetensors')['params']


def test_the_first_outcome_is_the_network_itself(finished):
  subject, own = subject_of(), finished[1]['']
  assert (own.subject, own.seed, own.epochs, own.bytes_file) == ('tiny', 0, 2, 9000)
  assert own.weights == 64 * 20 + 20 * 10 + 10 * 10
  assert own.test_error_percent == 100 * np.mean(subject.wrong)
  assert (own.difference, own.p_value, own.note) == (0.0, 1.0, '')


def test_the_trainings_are_those_that_the_controls_need(finished):
  _, _, points, text = finished
  assert points.keys() == {'dense', 'scratch', 'distil'}
  assert '1 trainings of controls are missing' in text       # the teacher, before its pupil
  assert '2 trainings of controls are missing' in text
  assert points['distil'].teacher.point == points['dense']
  assert points['distil'].teacher[1:] == (3.0, 0.25)
  assert points['dense'].teacher is points['scratch'].teacher is None
  dense, scratch = (points[name].built() for name in ('dense', 'scratch'))
  assert (tuple(dense.model.widths), dense.epochs) == ((300, 100), 2)
  assert (tuple(scratch.model.widths), scratch.epochs) == ((20, 10), 4)


@pytest.mark.parametrize('control', ['dense', 'scratch', 'distil'])
def test_error_and_difference_are_those_of_the_deployed_control(finished, control):
  outcome, subject = finished[1][control], subject_of()
  wrong = wrong_by_numpy(deployed(finished, control))
  assert outcome.test_error_percent == 100 * np.mean(wrong)
  assert outcome.difference == pytest.approx(
      100 * (np.mean(wrong) - np.mean(subject.wrong)), abs=1e-10)
  assert outcome.low <= outcome.difference <= outcome.high
  only, other = int(np.sum(wrong & ~subject.wrong)), int(np.sum(~wrong & subject.wrong))
  assert outcome.p_value == pytest.approx(stats.binomtest(only, only + other).pvalue, rel=1e-9)
  # A trained network errs less than a random one, by far.
  assert outcome.difference < -5 and outcome.not_worse is False


def test_sizes_and_epochs(finished):
  outcomes = finished[1]
  assert outcomes['dense'].weights == outcomes['int8_zstd'].weights == 50_200
  assert outcomes['scratch'].weights == outcomes['distil'].weights == 64 * 20 + 200 + 100
  assert [outcomes[name].epochs for name in CONTROLS] == [2, 4, 4, 2]


def test_a_cut_at_the_limit_of_epochs_is_noted(finished):
  outcomes = finished[1]
  ratio = 50_200 / (64 * 20 + 20 * 10 + 10 * 10)
  words = f'2 times the epochs, not the {ratio:.0f} of equal compute'
  assert outcomes['scratch'].note == outcomes['distil'].note == words
  assert outcomes['dense'].note == outcomes['int8_zstd'].note == ''


def test_the_teacher_is_the_dense_control_on_the_training_images(finished):
  root, _, points, _ = finished
  config = points['distil'].built()
  data = load(config)
  _, targets = points['distil'].prepare(_recipe(config, data), data, root)
  wanted = logits_by_numpy(deployed(finished, 'dense'), data.images)
  assert targets['teacher_logits'].shape == (400, 10)
  # Three layers of at most 300 float32 products.
  np.testing.assert_allclose(targets['teacher_logits'], wanted, rtol=0,
                             atol=1e-4 * np.abs(wanted).max())
  assert not np.array_equal(deployed(finished, 'distil')['head']['kernel'],
                            deployed(finished, 'scratch')['head']['kernel'])


def _recipe(config, data):
  from experiments import build
  return build.recipe(config, data.images)


def test_int8_is_the_dense_control_rounded(finished):
  outcome = finished[1]['int8_zstd']
  rounded = {}
  for name, layer in deployed(finished, 'dense').items():
    scale = np.abs(layer['kernel']).max(0) / 127
    rounded[name] = {'kernel': (np.rint(layer['kernel'] / scale) * scale).astype(np.float32),
                     'bias': layer['bias']}
  wrong = wrong_by_numpy(rounded)
  # Rounding differs in the last bit of a scale: one image of 360 may fall to the other side.
  assert outcome.test_error_percent == pytest.approx(100 * np.mean(wrong), abs=100 / 360 + 1e-9)
  assert 50_200 * 0.5 < outcome.bytes_file < 50_200 + 4 * 820 + 1500


def test_the_same_call_again_trains_nothing(finished, in_process, console):
  root, before, _, _ = finished
  for run in (True, False):
    again = run_controls([subject_of()], CONTROLS, SETTINGS, root, 1, console, run=run)
    assert {outcome.control: outcome for outcome in again} == before
  assert in_process == [] and console.file.getvalue() == ''


def test_without_running_what_is_missing_is_told(in_process, tmp_path, console):
  outcome, = run_controls([subject_of()], ('dense', 'random'), SETTINGS, tmp_path, 1, console,
                          run=False)
  assert outcome.control == '' and in_process == []
  text = console.file.getvalue()
  assert "tiny: the control 'dense' has no result" in text
  assert "tiny: the control 'random' has no result" in text


def test_a_control_that_diverged_is_told(tmp_path, console, monkeypatch):
  monkeypatch.setattr(module, 'read_point', lambda point, root: {'error': 'not finite'})
  outcome, = run_controls([subject_of()], ('dense',), SETTINGS, tmp_path, 1, console, run=False)
  assert outcome.control == ''
  assert "the control 'dense' has no result: not finite" in console.file.getvalue()


def test_two_networks_share_the_controls_that_are_the_same_training(tmp_path, console,
                                                                    monkeypatch):
  asked = []
  monkeypatch.setattr(pool, 'run_points', lambda some, root, workers, done: asked.extend(some))
  two = [subject_of(name='one'), subject_of(name='two'), subject_of(seed=1, name='one')]
  run_controls(two, ('dense', 'random'), SETTINGS, tmp_path, 1, console)
  assert sorted((p.config, p.seed) for p in asked) == [
      ('control:dense', 0), ('control:dense', 1), ('control:random', 0), ('control:random', 1)]


def test_a_teacher_is_trained_though_only_its_pupil_is_asked_for(tmp_path, console, monkeypatch):
  asked = []
  monkeypatch.setattr(pool, 'run_points',
                      lambda some, root, workers, done: asked.append([p.config for p in some]))
  run_controls([subject_of()], ('distil',), SETTINGS, tmp_path, 1, console)
  assert asked == [['control:dense'], ['control:distil']]


def test_a_network_that_was_not_compacted_is_refused_alone_and_left_out_of_several(
    tmp_path, console, in_process):
  single = subject_of(compacted=False)
  assert not single.facts.compacted
  with pytest.raises(ValueError, match="'scratch' trains the compact architecture, .*; take"):
    run_controls([single], ('scratch',), SETTINGS, tmp_path, 1, console)
  outcomes = run_controls([single, subject_of(seed=1, name='other')], ('scratch',), SETTINGS,
                          tmp_path, 1, console, run=False)
  assert [(o.subject, o.control) for o in outcomes] == [('tiny', ''), ('other', '')]
  text = console.file.getvalue()
  assert "tiny, seed 0: without the control 'scratch', which trains the compact arch" in text
  assert "other: the control 'scratch' has no result" in text and in_process == []


@pytest.mark.slow  # three more trainings, each compiled
def test_masked_and_smaller_networks_are_as_big_as_asked_for(in_process, tmp_path, console):
  subject = subject_of()
  _, *outcomes = run_controls([subject], ('random', 'rewind', 'dense_small'),
                                SETTINGS._replace(rounds=1), tmp_path, 1, console)
  random, rewind, small = (
      codec.read(point.folder(tmp_path) / 'deployed_0.safetensors')['params']
      for point in in_process)
  assert [point.config for point in in_process] == [
      'control:random', 'control:rewind', 'control:dense_small']
  in_process.clear()
  # Of the deployed network, in which weights that read units without inputs are not zero.
  wanted = {'dense0': 64 * 20, 'dense1': 300 * 10, 'head': 100 * 10}
  kept = {name: np.count_nonzero(layer['kernel']) for name, layer in random.items()}
  assert kept == wanted
  assert sum(np.count_nonzero(layer['kernel']) for layer in rewind.values()) == sum(wanted.values())
  assert small['dense0']['kernel'].shape[1] < 300
  # A compact file has a longer header than a plain one, here under a kilobyte.
  assert 6000 < outcomes[2].bytes_file < 9000 + 1000
  assert outcomes[2].weights == sum(layer['kernel'].size for layer in small.values())
  assert [outcome.epochs for outcome in outcomes] == [2, 2, 2]


def test_an_unknown_control_is_named_before_anything_is_trained(tmp_path, console, in_process):
  with pytest.raises(ValueError, match="control='sratch' is unknown; did you mean 'scratch'"):
    run_controls([subject_of()], ('dense', 'sratch'), SETTINGS, tmp_path, 1, console)
  assert in_process == [] and set(CONTROLS) < set(ALL)
