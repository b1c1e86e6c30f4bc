"""The report of a frontier, from choices written by hand."""
import math

import numpy as np
import pytest
from scipy import stats

from experiments.evidence import frontier_report
from experiments.evidence.selection import Candidate, Chosen
from experiments.evidence.sheet import known_papers, read_sheet


def entry(method, budget, errors, weights=100, task='A task', measure='weights', written=500):
  candidate = len(errors) and Candidate((), None, {
      seed: ({'networks': [{'weights_kept': weights, 'weights_total': 1000, 'bytes_file': written,
                            'bytes_dense': 4000}]}, 0) for seed in range(len(errors))})
  return Chosen(task, method, measure, budget, candidate or None, np.array(errors, float), None)


CHOSEN = [entry('dense', 1, [1.0, 1.2], 1000), entry('magnitude', 3, [1.5, 1.7], 300),
          entry('magnitude', 30, [], 0), entry('one | seed', 3, [2.5], 320),
          entry('dense', 1, [1.0, 1.2], 1000, measure='bytes', written=4000),
          entry('magnitude', 3, [1.6, 1.8], 300, measure='bytes', written=1000)]
CONTENTS = {('A task', 'magnitude'): [
    {'seconds': 1800.0, 'device': 'cpu: 1 x test', 'jax_version': '0.10.2', 'epochs': 10,
     'threads': 1, 'error': error} for error in ('', '', 'not finite')],
            ('Another', 'magnitude'): [{'seconds': 1e9, 'error': ''}]}


def half(errors):
  n = len(errors)
  return stats.t.ppf(0.975, n - 1) * np.std(errors, ddof=1) / math.sqrt(n)


def test_cells_are_mean_interval_and_ratio():
  head, rows = frontier_report._grid(CHOSEN, 'A task', 'weights')
  assert head == ['method', '1x', '3x', '30x']
  assert rows == [
      ('dense', f'1.10 ± {half([1.0, 1.2]):.2f} (1x)', '', ''),
      ('magnitude', '', f'1.60 ± {half([1.5, 1.7]):.2f} (3x)', 'not reached'),
      ('one | seed', '', '2.50 (3x)', '')]
  _, rows = frontier_report._grid(CHOSEN, 'A task', 'bytes')
  assert rows[1][2] == f'1.70 ± {half([1.6, 1.8]):.2f} (4x)'


def test_the_terminal_has_a_table_for_each_task_and_measure(console):
  other = entry('dense', 1, [9.87], 1000, task='Another')
  console.print(frontier_report.terminal([*CHOSEN, other]))
  text = ' '.join(console.file.getvalue().split())      # a title wider than its table is wrapped
  for title in ('A task: test error in % at matched weights',
                'A task: test error in % at matched bytes',
                'Another: test error in % at matched weights'):
    assert text.count(title) == 1
  assert 'not reached' in text and '9.87 (1x)' in text and '2.50 (3x)' in text


def test_the_report_and_its_plot(tmp_path):
  path = frontier_report.write('small', CHOSEN, CONTENTS, tmp_path / 'deep')
  assert path == tmp_path / 'deep' / 'frontier_small.md'
  assert {file.name for file in path.parent.iterdir()} == {'frontier_small.md',
                                                           'frontier_small_A_task.png'}
  text = path.read_text()
  assert text.startswith('# The frontier of the suite "small"\n')
  assert '--suite=small`' in text and '![error against size](frontier_small_A_task.png)' in text
  assert text.count('Test error in % at matched') == 2
  assert '| one \\| seed |' in text and '| magnitude |  | 1.60' in text
  # Three half hours of this task; those of the other task are not counted.
  assert ('3 trainings of 10 epochs, 1.5 hours of one process with 1 thread, cpu: 1 x test, '
          'JAX 0.10.2; 1 diverged.') in text
  assert 'the test set was read for the chosen networks alone' in text


def test_the_plot_has_a_line_per_method_at_its_ratios():
  figure = frontier_report.task_figure(CHOSEN, 'A task')
  by_weights, by_bytes = figure.axes
  drawn = {container.get_label(): container.lines[0] for container in by_weights.containers}
  assert set(drawn) == {'magnitude', 'one | seed'}
  np.testing.assert_allclose(drawn['magnitude'].get_xydata(), [[1000 / 300, 1.6]])
  np.testing.assert_allclose(drawn['one | seed'].get_xydata(), [[1000 / 320, 2.5]])
  dense, = (line for line in by_weights.lines if line.get_label() == 'dense')
  np.testing.assert_allclose(dense.get_ydata(), [1.1, 1.1])
  assert by_weights.get_xscale() == by_bytes.get_yscale() == 'log'
  container, = by_bytes.containers
  np.testing.assert_allclose(container.lines[0].get_xydata(), [[4.0, 1.7]])
  # The bar is the interval of the mean.
  (low, high), = (segment[:, 1] for segment in container.lines[2][0].get_segments())
  assert (high - low) / 2 == pytest.approx(half([1.6, 1.8]), rel=1e-9)


def stars(axes):
  return {(round(float(x), 6), round(float(y), 6)): line.get_fillstyle()
          for line in axes.lines if line.get_marker() == '*' for x, y in [line.get_xydata()[0]]}


@pytest.mark.parametrize('task, network, parameters', [
    ('MNIST MLP', 'LeNet-300-100', 784 * 300 + 300 + 300 * 100 + 100 + 1000 + 10),
    ('MNIST LeNet-5', 'LeNet-5-Caffe',
     25 * 20 + 20 + 25 * 20 * 50 + 50 + 800 * 500 + 500 + 5000 + 10)])
def test_published_points_are_stars_hollow_where_unverified(task, network, parameters):
  figure = frontier_report.task_figure([entry('magnitude', 3, [1.5], task=task)], task)
  wanted = {}
  for paper in known_papers():
    for row in read_sheet(paper).rows:
      if row.network == network and row.size and row.error:
        ratio = (row.size.value if row.size.ledger_key.startswith('compression')
                 else parameters / row.size.value)
        sure = row.size.verified and row.error.verified
        wanted[round(ratio, 6), round(row.error.value, 6)] = 'full' if sure else 'none'
  assert len(wanted) >= 3 and stars(figure.axes[0]) == wanted
  assert stars(figure.axes[1]) == {}, 'papers give no bytes'


def test_a_task_without_published_points_has_no_star():
  assert stars(frontier_report.task_figure(CHOSEN, 'A task').axes[0]) == {}
