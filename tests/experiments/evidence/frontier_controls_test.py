"""Which networks of a frontier get controls; nothing is trained here."""
import numpy as np
import pytest

from experiments.evidence import frontier_controls as module
from experiments.evidence.control_run import Outcome
from experiments.evidence.controls import ALL
from experiments.evidence.frontier_controls import subjects, write_controls
from experiments.evidence.selection import Candidate, Chosen
from experiments.evidence.suite import Method, Task, points

TASK = Task('a task', 'mlp', 3)
VD = Method('sparse VD', 'vd')
MAGNITUDE = Method('magnitude', 'magnitude', {'regulariser.weights.sparsity.final': (0.5, 0.9)})
RIGL = Method('RigL', 'rigl')
PAIRS = [(TASK, method) for method in (VD, MAGNITUDE, RIGL)]


def chosen(method, budget=10, measure='weights', overrides=(), seeds=(0, 1)):
  candidate = seeds and Candidate(tuple(overrides), None, {
      seed: ({'networks': [], 'mark': (method.name, seed)}, 7) for seed in seeds})
  return Chosen('a task', method.name, measure, budget, candidate or None, np.zeros(len(seeds)),
                None)


@pytest.fixture(autouse=True)
def found(monkeypatch):
  """A network under test is told by (name, overrides, seed, content's mark, index)."""
  monkeypatch.setattr(module, 'of_point', lambda name, point, root, content, index: (
      name, tuple(point.overrides.items()), point.seed, content['mark'], index))


def test_the_networks_of_the_chosen_seeds(tmp_path, console):
  final = (('regulariser.weights.sparsity.final', 0.9),)
  some = subjects(PAIRS, [chosen(VD), chosen(MAGNITUDE, 30, overrides=final, seeds=(0, 2))],
                  tmp_path, console)
  assert some == [
      ('a task, sparse VD, 10x', (), 0, ('sparse VD', 0), 7),
      ('a task, sparse VD, 10x', (), 1, ('sparse VD', 1), 7),
      ('a task, magnitude, 30x', final, 0, ('magnitude', 0), 7),
      ('a task, magnitude, 30x', final, 2, ('magnitude', 2), 7)]
  assert len(points(TASK, MAGNITUDE)) == 6


@pytest.mark.parametrize('entry', [chosen(RIGL), chosen(VD, 3), chosen(VD, measure='bytes')])
def test_other_methods_budgets_and_measures_have_none(entry, tmp_path, console):
  assert subjects(PAIRS, [entry], tmp_path, console) == []
  assert console.file.getvalue() == ''


def test_a_budget_that_was_not_reached_is_told(tmp_path, console):
  assert subjects(PAIRS, [chosen(VD, seeds=())], tmp_path, console) == []
  assert 'a task, sparse VD, 10x: not reached, so no controls' in console.file.getvalue()


def test_the_report_and_the_rows(tmp_path, console, monkeypatch):
  asked = []

  def run_controls(tested, controls, settings, root, workers, console, run):
    asked.append((len(tested), controls, workers, run))
    return [Outcome('a task, sparse VD, 10x', '', 0, 10, 1000, 5000, 2.0),
            Outcome('a task, sparse VD, 10x', 'dense', 0, 10, 9000, 9999, 1.5, -0.5)]
  monkeypatch.setattr(module, 'run_controls', run_controls)
  monkeypatch.setattr(module, 'FOLDER', tmp_path / 'results')
  (tmp_path / 'results').mkdir()
  def write(suite):
    return write_controls(suite, PAIRS, [chosen(VD)], tmp_path, tmp_path / 'report', False, 3,
                          console)
  assert write('smoke') == tmp_path / 'report' / 'controls_smoke.md'
  assert list((tmp_path / 'results').iterdir()) == [], 'runs of seconds are no results'
  path = write('small')
  assert 'Controls of the frontier of the suite "small"' in path.read_text()
  assert (tmp_path / 'results' / 'controls_small.csv').read_text() == (
      tmp_path / 'report' / 'controls_small.csv').read_text()
  assert asked == [(2, ALL, 3, False)] * 2
  assert 'the big network, no method' in console.file.getvalue()


def test_nothing_to_control_says_what_to_do(tmp_path, console):
  with pytest.raises(ValueError, match='no network of L0 gates, sparse VD, magnitude at .*was '
                                       'chosen, so there is nothing to control; train the'):
    write_controls('small', PAIRS, [chosen(RIGL)], tmp_path, tmp_path, True, 1, console)
