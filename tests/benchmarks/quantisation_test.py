"""The benchmark of few bits: what a row says, and that it runs on a finished run."""

import jax
import numpy as np
import pytest

from benchmarks import quantisation as benchmark
from experiments import build
from experiments.configs.QUANT import binary_connect
from experiments.workdir import claim
from sparsejax import codec


@pytest.fixture
def run(tmp_path):
  """The folder of a run that was not trained."""
  config = binary_connect.get_config('smoke')
  config.model.widths = (12, 8)
  claim(tmp_path, config)
  params = build.model(config.model).init(jax.random.key(0), np.zeros((1, 8, 8, 1)))['params']
  codec.write(tmp_path / 'deployed.safetensors', {'params': params})
  return tmp_path


def test_a_score_counts_both_ways():
  wrong, before = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 0, 0], bool)
  row = benchmark.score(wrong, before)
  assert row == {'test_error_percent': pytest.approx(60), 'difference_percent': pytest.approx(20),
                 'newly_wrong': 2, 'newly_right': 1}


def test_a_run_is_read_with_its_preprocessing(run):
  subject = benchmark.Subject(run)
  assert subject.inputs.max() <= 1 and len(subject.labels) == len(subject.inputs)
  assert len(subject.calibration) == 14 and len(subject.calibration[0]) == 100
  always_zero = subject.wrong(lambda x: -np.arange(10.0) + np.zeros((len(x), 1)))
  np.testing.assert_array_equal(always_zero, subject.labels != 0)


def test_a_folder_without_a_run_is_named(tmp_path):
  with pytest.raises(ValueError, match='holds no finished run'):
    benchmark.Subject(tmp_path)


@pytest.mark.slow  # compiles each of its 24 grids and nine networks
def test_it_measures_all_rows(run):
  rows = benchmark.measure(str(run), batch=4, rounds=6)
  assert [row['kind'] for row in rows] == ['float'] + 23 * ['weights'] + 8 * ['integer']
  assert rows[0]['difference_percent'] == 0
  timed = [row for row in rows if 'milliseconds' in row]
  assert len(timed) == 1 and timed[0]['time_ratio_low'] <= timed[0]['time_ratio_high']
