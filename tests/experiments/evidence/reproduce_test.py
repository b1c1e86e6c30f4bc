"""Reproducing a table: what is run, kept, read again and reported; all runs but one are made up."""
import csv
import json

import numpy as np
import pytest

from experiments import datasets
from experiments.evidence import reproduce as module
from experiments.evidence import results as store
from experiments.evidence.reproduce import reproduce
from experiments.workdir import config_hash
from sparsejax import ledger

SMOKE = ['MoAV17/lenet_300_100:smoke', 'MoAV17/lenet_5_caffe:smoke']


@pytest.fixture
def runs(monkeypatch, ledger_of):
  """(config, seed) of every run; each writes the ledger that a run would, or fails if it is in
  runs.failing."""
  class Runs(list):
    failing = ()

  ran = Runs()

  def fake(jobs, root, workers, done):
    for job in jobs:
      ran.append((job.config, job.seed))
      if job.seed in ran.failing:
        done(job, 1.0, 'exit status 1: the reason')
        continue
      job.folder(root).mkdir(parents=True)
      ledger.write(job.folder(root) / 'ledger.json', ledger_of(
          seed=job.seed, config_hash=config_hash(job.built()), test_error_percent=2.0 + job.seed))
      np.savez(job.folder(root) / 'test_logits.npz', logits=np.eye(3), labels=np.array([0, 1, 0]))
      (job.folder(root) / 'metrics.jsonl').write_text('{"epoch": 1, "train_nll_nats": 0.5}\n')
      done(job, 1.0, None)
  monkeypatch.setattr(module, 'run_jobs', fake)
  return ran


@pytest.fixture
def again(tmp_path, console):
  """Calls `reproduce` with the budget of seconds in a folder of its own."""
  def call(**options):
    options = {'budget': 'smoke', 'seeds': 2, 'root': str(tmp_path / 'runs'), **options}
    return reproduce('MoAV17', report=str(tmp_path / 'report'), console=console, **options)
  return call


def test_what_is_missing_is_run_once(runs, again, tmp_path, console):
  assert again() is True
  assert sorted(runs) == [(config, seed) for config in SMOKE for seed in (0, 1)]
  text = console.file.getvalue()
  assert '4 runs are missing' in text and '4 of 4: MoAV17/lenet_5_caffe:smoke' in text
  assert "no config runs this row with the budget 'smoke'" in text
  runs.clear()
  assert again() is True and runs == []
  assert again(seeds=3) is True
  assert sorted(runs) == [(config, 2) for config in SMOKE]


def test_results_and_report_say_what_the_runs_gave(runs, again, tmp_path):
  again()
  kept = store.read_results(tmp_path / 'runs' / 'MoAV17.jsonl')
  assert [(r.config, r.ledger['seed']) for r in kept] == [
      (config, seed) for config in SMOKE for seed in (0, 1)]
  np.testing.assert_array_equal(kept[0].wrong_examples(), [False, False, True])
  report = tmp_path / 'runs' / 'report'
  with open(report / 'MoAV17.csv', newline='') as file:
    rows = [row for row in csv.DictReader(file) if row['n'] != '0']
  assert {(row['network'], row['figure'], row['values'], row['verdict']) for row in rows} == {
      (network, figure, values, 'shorter recipe') for network in ('LeNet-300-100', 'LeNet-5-Caffe')
      for figure, values in (('error', '2.0 3.0'), ('size', '10.0 10.0'))}
  assert '2.00, 3.00' in (report / 'MoAV17.md').read_text()
  assert not (tmp_path / 'report').exists(), 'runs of seconds do not touch the real report'


def test_runs_of_seconds_leave_the_projects_results_alone(runs, again, monkeypatch, tmp_path):
  monkeypatch.setattr(store, 'FOLDER', tmp_path / 'results')
  again()
  assert not (tmp_path / 'results').exists()
  again(budget='small', seeds=1)
  assert (tmp_path / 'results' / 'MoAV17.jsonl').is_file()
  assert (tmp_path / 'report' / 'MoAV17.md').is_file()


def test_a_failed_run_is_told_and_the_others_are_kept(runs, again, tmp_path, console):
  runs.failing = (0,)
  assert again() is False
  assert 'FAILED, exit status 1: the reason' in console.file.getvalue()
  kept = store.read_results(tmp_path / 'runs' / 'MoAV17.jsonl')
  assert [r.ledger['seed'] for r in kept] == [1, 1]
  runs.clear()
  runs.failing = ()
  assert again() is True
  assert runs == [(config, 0) for config in SMOKE]


def test_a_run_that_ended_uncounted_is_read_and_not_repeated(runs, again, tmp_path):
  """As after a process that was killed between a run's end and the file of results."""
  again()
  runs.clear()
  for run in (True, False):
    (tmp_path / 'runs' / 'MoAV17.jsonl').unlink()
    assert again(run=run) is True and runs == []
  assert len(store.read_results(tmp_path / 'runs' / 'MoAV17.jsonl')) == 4


def test_other_code_makes_results_stale_and_runs_anew(runs, again, monkeypatch, console):
  again()
  runs.clear()
  for name in ('reproduce', 'jobs', 'comparison'):
    monkeypatch.setattr(f'experiments.evidence.{name}.code_hash', lambda config: 'other code')
  again(run=False)
  assert runs == [] and 'stale' in console.file.getvalue()
  again()
  assert len(runs) == 4


def test_only_the_networks_asked_for(runs, again):
  assert again(networks='LeNet-300') is True
  assert runs == [(SMOKE[0], 0), (SMOKE[0], 1)]
  with pytest.raises(ValueError, match="no row of MoAV17 contains 'ResNet'; rows are LeNet-300-100,"
                                       ' dense, '):
    again(networks='ResNet')


def test_without_running_an_empty_folder_is_a_table_of_nothing(runs, again, tmp_path, console):
  assert again(run=False) is True
  assert runs == []
  text = console.file.getvalue()
  assert 'not run' in text and '68 x fewer weights' in text
  assert store.read_results(tmp_path / 'runs' / 'MoAV17.jsonl') == []
  assert (tmp_path / 'runs' / 'report' / 'MoAV17.md').is_file()


def test_an_unknown_paper_is_named(tmp_path):
  with pytest.raises(ValueError, match='did you mean MoAV17'):
    reproduce('MoAV', root=str(tmp_path))


def test_damaged_results_stop_it_before_anything_is_run(runs, again, tmp_path):
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'runs' / 'MoAV17.jsonl').write_text('{"config"\n')
  with pytest.raises(ValueError, match='MoAV17.jsonl, line 1 is no result'):
    again()
  assert runs == []


@pytest.mark.slow  # trains for an epoch in a process of its own
def test_a_run_of_seconds_goes_through(again, tmp_path, console):
  assert again(seeds=1, networks='LeNet-300', workers=1) is True
  result, = store.read_results(tmp_path / 'runs' / 'MoAV17.jsonl')
  config = json.loads(next((tmp_path / 'runs' / 'MoAV17').glob('*/config.json')).read_text())
  assert (config['seed'], config['epochs']) == (0, 1) == (0, result.ledger['epochs'])
  assert result.ledger['data_hash'] == datasets.load('digits').hash
  assert again(seeds=1, networks='LeNet-300', workers=1) is True
  assert 'missing' not in console.file.getvalue().partition('Report:')[2]
