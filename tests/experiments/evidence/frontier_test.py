"""A frontier of three methods and two seeds on the digits, from training to table, in process."""
import csv
import json
import math
import re

import numpy as np
import pytest
from scipy import stats

from experiments import datasets
from experiments.evidence import frontier as module
from experiments.evidence import pool, suite
from experiments.evidence.frontier import as_csv, choose_all, described, frontier
from experiments.evidence.point import Deployment, run_point
from experiments.evidence.selection import Candidate
from experiments.evidence.suite import Method, Task, points
from sparsejax import codec

pytestmark = pytest.mark.usefixtures('compile_once')

TASK = Task('tiny MLP', 'mlp', 2, {
    'dataset': 'digits', 'validation_examples': 237, 'training_examples': 400, 'batch_size': 50,
    'epochs': 2})
DENSE = Method('dense', 'dense')
MAGNITUDE = Method('magnitude', 'magnitude', {
    'regulariser.weights.sparsity.final': (0.8,), 'regulariser.weights.every': (1,),
    'regulariser.weights.sparsity.begin_epoch': (0.0,),
    'regulariser.weights.sparsity.end_epoch': (1.0,)})
VALUES = (3.0, -5.0, -6.0, -7.0)
VD = Method('sparse VD', 'vd', deployment=Deployment('weights', 'threshold', VALUES))
PAIRS = [(TASK, MAGNITUDE), (TASK, DENSE), (TASK, VD)]
BUDGETS = (2, 4, 1000)


@pytest.fixture(scope='module')
def patched(compile_once):
  """The suite 'smoke' is the one above; `trained` lists the points that were run."""
  trained = []

  def run_points(some, root, workers, done):
    for point in some:
      trained.append(point)
      done(point, run_point(point, root), '')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(suite, 'SUITES', {'smoke': (TASK,)})
    patch.setattr(suite, 'METHODS', tuple(method for _, method in PAIRS))
    patch.setattr(module, 'BUDGETS', BUDGETS)
    patch.setattr(pool, 'run_points', run_points)
    yield trained


@pytest.fixture(scope='module')
def finished(patched, tmp_path_factory):
  """(root, points in the order they were trained) of a whole frontier."""
  root = tmp_path_factory.mktemp('frontier')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(module, 'FOLDER', root / 'results')      # those of the project are not touched
    assert frontier('smoke', workers=1, root=str(root), report=str(root / 'other')) is True
  trained = list(patched)
  patched.clear()
  return root, trained


@pytest.fixture
def rows(finished):
  """{(method, measure, budget): row of the CSV}."""
  with open(finished[0] / 'results.csv', newline='') as file:
    return {(row['method'], row['measure'], float(row['budget'])): row
            for row in csv.DictReader(file)}


def networks(root, method, seed):
  point, = (point for point in points(TASK, method) if point.seed == seed)
  return point, json.loads((point.folder(root) / 'point.json').read_text())['networks']


def error_by_numpy(root, method, seed, index):
  point, _ = networks(root, method, seed)
  weights = codec.read(point.folder(root) / f'deployed_{index}.safetensors')['params']
  data = datasets.load('digits')
  x = data.test_images.reshape(360, -1) / 255
  for name in ('dense0', 'dense1', 'head'):
    x = x @ weights[name]['kernel'].astype(np.float64) + weights[name]['bias']
    x = np.maximum(x, 0) if name != 'head' else x
  return 100 * float(np.mean(x.argmax(1) != data.test_labels))


def best_by_hand(root, method, sizes, budget):
  """Index of the network of lowest mean validation error among those small enough, or None."""
  found = []
  for index in range(len(networks(root, method, 0)[1])):
    both = [networks(root, method, seed)[1][index] for seed in (0, 1)]
    kept, total = (np.mean([network[key] for network in both]) for key in sizes)
    if total / kept * 1.001 >= budget:
      found.append((np.mean([n['validation_error_percent'] for n in both]), kept, index))
  return min(found)[2] if found else None


def without_commits(path):
  with open(path, newline='') as file:
    return [{key: value for key, value in row.items() if key != 'commits'}
            for row in csv.DictReader(file)]


@pytest.mark.slow
def test_all_points_are_trained_seed_by_seed(finished):
  _, trained = finished
  assert len(trained) == 2 * 3
  assert [point.seed for point in trained] == [0, 0, 0, 1, 1, 1]
  assert {point.config for point in trained[:3]} == {
      f'frontier/mlp:{name}' for name in ('dense', 'magnitude', 'vd')}


def test_the_table_has_a_row_for_each_method_measure_and_budget(rows):
  assert rows.keys() == {('dense', measure, 1.0) for measure in ('weights', 'bytes')} | {
      (method, measure, float(budget)) for method in ('magnitude', 'sparse VD')
      for measure in ('weights', 'bytes') for budget in BUDGETS}
  assert all(row['task'] == 'tiny MLP' for row in rows.values())


@pytest.mark.parametrize('measure, sizes', [('weights', ('weights_kept', 'weights_total')),
                                            ('bytes', ('bytes_file', 'bytes_dense'))])
@pytest.mark.parametrize('method', [DENSE, MAGNITUDE, VD], ids=lambda method: method.variant)
def test_every_row_is_the_best_on_validation_data_and_its_test_error(finished, rows, method, sizes,
                                                                     measure):
  root, _ = finished
  for budget in (1,) if method is DENSE else BUDGETS:
    row = rows[method.name, measure, float(budget)]
    index = 0 if method is DENSE else best_by_hand(root, method, sizes, budget)
    if index is None:
      assert row['chosen'] == 'nothing this small' and not row['test_error_percent']
      continue
    both = [networks(root, method, seed)[1][index] for seed in (0, 1)]
    assert int(row['seeds']) == 2 and int(row['epochs']) == 2
    assert float(row['validation_error_percent']) == pytest.approx(
        np.mean([n['validation_error_percent'] for n in both]), abs=5e-5)
    errors = np.array([error_by_numpy(root, method, seed, index) for seed in (0, 1)])
    assert float(row['test_error_percent']) == pytest.approx(errors.mean(), abs=5e-5)
    half = stats.t.ppf(0.975, 1) * errors.std(ddof=1) / math.sqrt(2)
    assert float(row['high']) - float(row['low']) == pytest.approx(2 * half, abs=2e-4)
    differences = errors - [error_by_numpy(root, DENSE, seed, 0) for seed in (0, 1)]
    assert float(row['difference_from_dense']) == pytest.approx(differences.mean(), abs=5e-5)
    half = stats.t.ppf(0.975, 1) * differences.std(ddof=1) / math.sqrt(2)
    assert float(row['difference_high']) == pytest.approx(differences.mean() + half, abs=2e-4)
    assert float(row['times_fewer_weights']) == pytest.approx(
        np.mean([n['weights_total'] for n in both]) / np.mean([n['weights_kept'] for n in both]),
        abs=5e-5)
    if method.deployment:
      assert row['chosen'] == f'deployed at {VALUES[index]:g}'


def test_some_budget_is_reached_and_some_not(rows):
  """So that the comparison above has both."""
  assert rows['sparse VD', 'weights', 2.0]['test_error_percent']
  assert rows['magnitude', 'weights', 4.0]['test_error_percent']
  assert rows['magnitude', 'weights', 1000.0]['chosen'] == 'nothing this small'


def test_the_test_set_is_read_for_the_chosen_networks_alone(finished, rows):
  root, _ = finished
  wanted = set()
  for method in (DENSE, MAGNITUDE, VD):
    for sizes in (('weights_kept', 'weights_total'), ('bytes_file', 'bytes_dense')):
      for budget in (0,) if method is DENSE else BUDGETS:
        index = best_by_hand(root, method, sizes, budget)
        if index is not None:
          wanted |= {networks(root, method, seed)[0].folder(root) / f'test_wrong_{index}.npy'
                     for seed in (0, 1)}
  found = set(root.rglob('test_wrong_*.npy'))
  assert found == wanted
  assert len(found) < len(set(root.rglob('deployed_*.safetensors'))) == 2 * (1 + 1 + len(VALUES))


def test_the_report_says_what_the_table_says(finished, rows):
  root, _ = finished
  text = (root / 'report' / 'frontier_smoke.md').read_text()
  assert (root / 'report' / 'frontier_smoke_tiny_MLP.png').stat().st_size > 10_000
  assert '![error against size](frontier_smoke_tiny_MLP.png)' in text
  assert '6 trainings of 2 epochs' in text
  for measure in ('weights', 'bytes'):
    start = text.index(f'Test error in % at matched {measure}')
    lines = text[start:].split('\n\n')[1].splitlines()
    assert lines[0] == '| method | 1x | 2x | 4x | 1000x |'
    assert len(lines) == 2 + 3
    for line in lines[2:]:
      method, *cells = [cell.strip() for cell in line.strip('|').split('|')]
      for budget, cell in zip((1.0, *map(float, BUDGETS)), cells, strict=True):
        row = rows.get((method, measure, budget))
        if row is None:
          assert cell == ''
        elif not row['test_error_percent']:
          assert cell == 'not reached'
        else:
          half = (float(row['high']) - float(row['low'])) / 2
          found = re.fullmatch(r'([\d.]+)(?: ± ([\d.]+))? \((\d+)x\)', cell)
          assert float(found[1]) == pytest.approx(float(row['test_error_percent']), abs=0.006)
          assert float(found[2] or 0) == pytest.approx(half, abs=0.006)
          ratio = float(row[f'times_fewer_{measure}'])
          assert int(found[3]) == pytest.approx(ratio, abs=0.501)


def test_the_projects_results_and_report_are_left_alone(finished):
  root, _ = finished
  assert not (root / 'results').exists() and not (root / 'other').exists()


def test_the_same_call_again_trains_nothing_and_writes_the_same(finished, patched, console):
  root, _ = finished
  names = ('results.csv', 'report/frontier_smoke.md', 'report/frontier_smoke_tiny_MLP.png')
  before = {name: (root / name).read_bytes() for name in names}
  assert frontier('smoke', workers=1, root=str(root), console=console) is True
  assert frontier('smoke', run=False, root=str(root), console=console) is True
  assert patched == []
  assert {name: (root / name).read_bytes() for name in names} == before
  assert 'points are missing' not in console.file.getvalue()
  assert 'tiny MLP: test error in % at matched weights' in console.file.getvalue()


def test_a_point_that_was_lost_is_trained_again_and_alone(finished, patched, console):
  root, _ = finished
  before = without_commits(root / 'results.csv')
  point, _ = networks(root, MAGNITUDE, 1)
  (point.folder(root) / 'point.json').unlink()
  assert frontier('smoke', workers=1, root=str(root), console=console) is True
  assert patched == [point]
  patched.clear()
  assert '1 points are missing; 1 side by side' in console.file.getvalue()
  assert without_commits(root / 'results.csv') == before


def test_a_part_of_the_suite_leaves_the_table_as_it_is(finished, patched, console):
  root, _ = finished
  before = (root / 'results.csv').read_bytes()
  assert frontier('smoke', methods='VD', root=str(root), console=console) is True
  assert patched == [] and (root / 'results.csv').read_bytes() == before
  assert 'is left as it is' in console.file.getvalue()
  report = root / 'report' / 'frontier_smoke.md'
  assert 'magnitude' not in report.read_text().partition('## tiny MLP')[2]
  frontier('smoke', root=str(root), console=console)
  assert 'magnitude' in report.read_text().partition('## tiny MLP')[2]


def test_a_failed_point_is_told_and_its_method_goes_on_with_fewer(finished, patched, console,
                                                                 monkeypatch, tmp_path):
  def failing(some, root, workers, done):
    for point in some:
      done(point, None, 'the reason')
  monkeypatch.setattr(pool, 'run_points', failing)
  with pytest.raises(ValueError, match='holds no point of the suite'):
    frontier('smoke', workers=1, root=str(tmp_path), console=console)
  text = console.file.getvalue()
  assert text.count('the reason') == 6 and '6 of 6: frontier/mlp:' in text


def test_without_running_an_empty_folder_says_what_to_do(patched, tmp_path, console):
  with pytest.raises(ValueError, match=f"{tmp_path} holds no point of the suite 'smoke'; leave out "
                                       '--norun to train'):
    frontier('smoke', run=False, root=str(tmp_path), console=console)
  assert list(tmp_path.iterdir()) == [] and patched == []


def test_a_damaged_point_is_named(finished, console):
  root, _ = finished
  path = networks(root, VD, 0)[0].folder(root) / 'point.json'
  before = path.read_bytes()
  path.write_bytes(before[:200])
  try:
    with pytest.raises(ValueError, match='point.json is damaged'):
      frontier('smoke', run=False, root=str(root), console=console)
  finally:
    path.write_bytes(before)


def test_an_unknown_suite_or_method_is_named(patched, tmp_path):
  with pytest.raises(ValueError, match="no suite 'big'"):
    frontier('big', root=str(tmp_path))
  with pytest.raises(ValueError, match='methods are magnitude, dense, sparse VD'):
    frontier('smoke', methods='nonsense', root=str(tmp_path))


def test_without_a_dense_network_there_is_no_difference(finished):
  root, _ = finished
  contents = {('tiny MLP', 'sparse VD'): [
      json.loads((p.folder(root) / 'point.json').read_text()) for p in points(TASK, VD)]}
  chosen = choose_all([(TASK, VD)], contents, root)
  assert {entry.difference for entry in chosen} == {None}
  row = next(csv.DictReader(as_csv(chosen).splitlines()))
  assert row['difference_from_dense'] == row['difference_low'] == '' != row['test_error_percent']


def test_dense_counts_though_its_file_be_longer_than_its_arrays(finished):
  """As that of a network of few weights is, by its header."""
  root, _ = finished
  contents = {('tiny MLP', method.name): [
      json.loads((p.folder(root) / 'point.json').read_text()) for p in points(TASK, method)]
      for method in (DENSE, VD)}
  for content in contents['tiny MLP', 'dense']:
    network, = content['networks']
    network['bytes_file'] = 2 * network['bytes_dense']
  chosen = choose_all([(TASK, VD), (TASK, DENSE)], contents, root)
  dense = [entry for entry in chosen if entry.method == 'dense']
  assert [(e.measure, e.budget) for e in dense] == [('weights', 1), ('bytes', 1)]
  assert all(entry.candidate is not None and len(entry.test_errors) == 2 for entry in dense)
  assert all(e.difference is not None for e in chosen if e.candidate is not None)


def test_what_was_chosen_in_words():
  def words(overrides, deployed_at=None):
    return described(Candidate(tuple(sorted(overrides.items())), deployed_at, {}))
  assert words({}) == words({'epochs': 3}) == 'as it is'
  assert words({'regulariser.weights.density': 1 / 3, 'epochs': 3}) == 'weights.density=0.3333'
  assert words({'regulariser.units.strength': 2.0}, 1e-3) == (
      'units.strength=2, deployed at 0.001')
