"""The comparison from table to report, on a small synthetic set, and its command."""
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.datasets import uci
from experiments.evidence import nuts
from experiments.evidence.posteriors import Draws


@pytest.mark.slow  # three inferences to compile, half a minute
def test_a_small_set_from_table_to_report(tmp_path, monkeypatch):
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(40, 2))
  data = uci.Regression('small', inputs, 10 + 4 * np.tanh(inputs[:, 0]) + rng.normal(size=40))
  monkeypatch.setattr(uci, 'load', lambda name: data)
  settings = nuts.Settings('small', seed=1, hidden=2, warmup=30, draws=20, steps=200)
  with jax.numpy_rank_promotion('allow'):                # NumPyro itself promotes ranks
    result = nuts.evaluate(settings, tmp_path / 'new')
  assert json.loads((tmp_path / 'new' / 'nuts_small.json').read_text()) == result
  rows = {row['posterior']: row for row in result['posteriors']}
  assert list(rows) == ['NUTS', 'mean-field VI', 'sparse VD', 'sparse VD, deployed']
  assert rows['NUTS']['mean_distance'] == 0 and rows['NUTS']['sd_ratio'] == 1
  assert rows['sparse VD, deployed']['sd_ratio'] == 0 < rows['sparse VD']['sd_ratio']
  assert all(np.isfinite(value) for row in rows.values() for value in row.values()
             if not isinstance(value, str))
  assert result['test_examples'] == 4 and result['train_examples'] == 36
  text = (tmp_path / 'new' / 'nuts_small.md').read_text()
  assert 'improper' in text and '| mean-field VI |' in text and 'R-hat' in text
  assert result['run']['numpyro_version'] in text


def test_scores_and_distances_are_in_the_unit_of_the_targets():
  exact = Draws(np.array([[0.0, 1.0], [2.0, 3.0]]), np.array([0.5, 0.5]), 1.0)
  other = Draws(np.array([[2.0, 3.0], [6.0, 7.0]]), np.array([1.0, 1.0]), 2.0)
  row = nuts._row('other', other, exact, np.array([17.0, 17.0]), mean=5.0, scale=3.0)
  # Means 4 and 5 against 1 and 2, times 3; standard deviations 2 against 1.
  assert row['mean_distance'] == pytest.approx(9.0) and row['sd_ratio'] == pytest.approx(2.0)
  # In the unit of the targets: means 17 and 20 of (17, 17), noise 3.
  assert row['rmse'] == pytest.approx(3 / np.sqrt(2)) and row['noise'] == pytest.approx(3.0)


def test_chains_that_have_not_mixed_are_no_ground_truth():
  result = {'nuts': {'predictions_r_hat_max': 1.7, 'predictions_ess_min': 3.0, 'divergences': 0,
                     'sites_r_hat_max': 9.0},
            'settings': {'chains': 2, 'draws': 5, 'warmup': 5}, 'test_examples': 4}
  sparse = nuts.SparseDraws(None, None, 10, 5)
  assert 'NOT mixed' in nuts.notes(result, sparse)[0]
  result['nuts']['predictions_r_hat_max'] = 1.01
  assert 'NOT mixed' not in nuts.notes(result, sparse)[0]


def test_mistakes_are_named(tmp_path):
  with pytest.raises(ValueError, match='chains=1 must be at least 2; chains are compared'):
    nuts.evaluate(nuts.Settings('yacht', seed=0, chains=1), tmp_path)
  with pytest.raises(ValueError, match="did you mean 'yacht'"):
    nuts.evaluate(nuts.Settings('yatch', seed=0), tmp_path / 'absent')
  assert not (tmp_path / 'absent').exists()


def test_the_command_answers_without_sampling(tmp_path):
  script = ('import sys\nfrom absl import flags\nimport experiments.nuts\n'
            "assert '--dataset' in flags.FLAGS.get_help()\n"
            "assert not {'jax', 'numpy', 'numpyro'} & set(sys.modules)")
  done = subprocess.run([sys.executable, '-c', script], text=True, capture_output=True, check=False)
  assert done.returncode == 0, done.stderr[-2000:]
  done = subprocess.run([sys.executable, '-m', 'experiments.nuts', '--dataset=yatch',
                         f'--workdir={tmp_path}'], text=True, capture_output=True, check=False)
  assert done.returncode == 1 and "error: unknown regression set 'yatch'" in done.stderr
  assert 'Traceback' not in done.stderr
