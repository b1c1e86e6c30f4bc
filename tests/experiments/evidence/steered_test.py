"""The runs with a target and their table: what is asked for, and rows made by hand."""
import csv

import pytest

from experiments import build
from experiments.evidence import steered

SHEET = {'weights_kept': 26_000, 'weights_total': 266_200, 'target_relative_difference': -0.0233,
         'target_natural_density': 0.12, 'target_weights_cut': 5_944, 'target_weights_reopened': 0,
         'validation_error_percent': 1.5, 'test_error_percent': 1.75, 'bytes_coded': 70_000,
         'dataset': 'mnist', 'seed': 0, 'epochs': 32, 'wall_seconds': 90.0, 'device': 'cpu: 1 x Z',
         'jax_version': '0.10.2', 'commit': 'abc'}


def test_each_method_gets_each_density():
  found = steered.members(['l0', 'vd'], ['10', '60'], 'digits', 4)
  assert [(m.method, m.compression) for m in found] == [
      ('l0', 10), ('l0', 60), ('vd', 10), ('vd', 60)]
  for member in found:
    assert member.config.target.density == 1 / member.compression
    assert (member.config.dataset, member.config.epochs) == ('digits', 4)
    build.require_whole(member.config)


@pytest.mark.parametrize('methods, compressions, message', [
    (['l0'], ['10', 'many'], "'many', which is no number above 1"),
    (['l0'], ['0.5'], "'0.5', which is no number above 1"),
    (['l1'], ['10'], "variant 'l1' is not one of l0, vd, group_lasso")])
def test_what_cannot_be_run_is_refused(methods, compressions, message):
  with pytest.raises(ValueError, match=message):
    steered.members(methods, compressions, 'mnist', None)


def test_rows_and_table_tell_how_near_it_came(tmp_path):
  first, second = steered.members(['l0'], ['10', '30'], 'mnist', None)
  none = {key: value for key, value in SHEET.items() if not key.startswith('target_w')
          and key != 'target_natural_density'}                  # a run without a landing
  rows = [steered.row(first, SHEET), steered.row(second, none)]
  csv_path, report = steered.write(rows, tmp_path / 'results', tmp_path / 'report')
  with open(csv_path, encoding='utf-8') as file:
    read = list(csv.DictReader(file))
  assert read[0]['target_weights_cut'] == '5944' and read[1]['target_weights_cut'] == ''
  assert len(read[0]['code_hash']) == 64
  text = report.read_text()
  # 266,200 / 26,000 = 10.24 times fewer; 0.12 is 20 % above a tenth.
  assert ('| L0 gates | 10x | 10.24x | -2.33 % | +20.0 % | 5,944 | 0 | 1.50 % | 1.75 % | 1.5 |'
          in text)
  assert '| L0 gates | 30x | 10.24x | -2.33 % |  |  |  | 1.50 % | 1.75 % | 1.5 |' in text
  assert 'seed 0' in text and 'cpu: 1 x Z, JAX 0.10.2' in text
