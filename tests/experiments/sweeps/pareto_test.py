"""The front against brute force, and what the table and the plot say."""
import csv
import io

import numpy as np
import pytest
from rich.console import Console

from experiments.configs.digits import l0_mlp
from experiments.sweeps import pareto
from experiments.sweeps.members import members_of


def entry(seed, error, size, ms, state='done'):
  member, = members_of(l0_mlp.get_config(), [{'seed': seed, 'model.widths': (3, 2)}])
  sheet = {name: None for name in pareto.COLUMNS} | {
      'validation_error_percent': error, 'bytes_file': size, 'ms_compact_batch128': ms,
      'device': 'cpu', 'test_error_percent': 0.123}
  return pareto.Entry(member, state, sheet if size else None)


def test_the_front_is_what_no_point_beats():
  rng = np.random.default_rng(0)
  points = rng.integers(0, 12, (60, 2)).tolist()         # integers, so that there are ties
  beaten = {i for i, (e, c) in enumerate(points)
            if any((x <= e and y < c) or (x < e and y <= c) for x, y in points)}
  found = pareto.front(*zip(*points, strict=True))
  assert sorted(found) == sorted(set(range(60)) - beaten)
  costs = [points[i][1] for i in found]
  errors = [points[i][0] for i in found]
  assert costs == sorted(costs) and errors == sorted(errors, reverse=True)


FOUND = [entry(1, 2.0, 900, 0.5), entry(2, 1.0, 2000, 0.9), entry(3, 2.5, 1000, 0.1),
         entry(4, None, 0, 0, 'diverged')]


def test_the_table_marks_the_front_and_hides_the_test_set():
  rows = list(csv.DictReader(io.StringIO(pareto.csv_text(FOUND))))
  assert [row['member'] for row in rows] == [f'seed={i},widths=3-2' for i in (1, 2, 3, 4)]
  assert [row['seed'] for row in rows] == ['1', '2', '3', '4']
  assert [row['model.widths'] for row in rows] == ['[3, 2]'] * 4
  assert [row['state'] for row in rows] == ['done'] * 3 + ['diverged']
  assert [row['pareto_bytes_file'] for row in rows] == ['1', '1', '0', '']
  assert [row['pareto_ms_compact_batch128'] for row in rows] == ['1', '1', '1', '']
  assert not any('test' in name for name in rows[0]) and '0.123' not in pareto.csv_text(FOUND)
  console = Console(file=io.StringIO(), width=120)
  console.print(pareto.table(FOUND))
  text = console.file.getvalue()
  assert text.index('seed=2') < text.index('seed=1') < text.index('seed=3')
  assert 'seed=4' not in text and '0.123' not in text


def test_without_validation_errors_there_is_no_front():
  assert 'the test set chooses nothing' in pareto.table([entry(1, None, 5, 1.0)])
  assert pareto.table([]) == 'no Pareto front: no member has ended'
  assert list(csv.DictReader(io.StringIO(pareto.csv_text([entry(1, None, 5, 1.0)]))))[0][
      'pareto_bytes_file'] == '0'


def test_published_points_are_verified_and_of_this_network_and_data():
  # third_party/papers/LoWK17.toml: 38,927 parameters of LeNet-5-Caffe at 0.9 %, verified.
  name = 'experiments/configs/LoWK17/lenet_5_caffe.py'
  found = pareto.published(name, 'mnist', 'LoWK17')
  assert ('LoWK17, L0, lambda = 0.1/N', 0.9, 4 * 38_927) in found
  assert all(point.size > 4 * 1000 for point in found)
  assert pareto.published(name, 'digits', 'LoWK17') == []
  # No error of LeNet-300-100 is verified there.
  assert pareto.published('experiments/configs/LoWK17/lenet_300_100.py', 'mnist', 'LoWK17') == []
  assert pareto.published('small.py', 'digits', '') == []


def test_the_plot_draws_members_fronts_and_stars(tmp_path):
  star = pareto.Published('a paper', 1.5, 4000)
  left, right = pareto.figure(FOUND, [star]).axes
  members, line = (left.get_lines()[i].get_xydata().tolist() for i in range(2))
  assert members == [[900, 2.0], [2000, 1.0], [1000, 2.5]]
  assert line == [[900, 2.0], [2000, 1.0]]
  texts = [text.get_text() for text in left.texts]
  assert texts == ['seed=1,widths=3-2', 'seed=2,widths=3-2', 'a paper']
  assert [label.get_text() for label in left.get_legend().get_texts()][-1].startswith('published')
  assert 'a paper' not in [text.get_text() for text in right.texts]
  paths = pareto.write(tmp_path, FOUND, 'small.py', {'dataset': 'digits', 'paper': ''})
  assert [path.name for path in paths] == ['sweep.csv', 'pareto.png']
  assert paths[1].read_bytes()[:4] == b'\x89PNG'
  with pytest.raises(ValueError, match='no sheet for the paper'):
    pareto.published('small.py', 'digits', 'Nobody99')
