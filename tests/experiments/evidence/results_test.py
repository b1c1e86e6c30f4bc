"""The file of results: what is written is read, sorted and whole, and damage is named by line."""
import json
import os

import numpy as np
import pytest

from experiments.evidence import results as store
from experiments.evidence.results import Result, add_results, from_folder, read_results
from sparsejax import ledger


@pytest.fixture
def result(ledger_of):
  def make(config='A17/net:paper', seed=0, code='c0', **changes):
    return Result(config, code, ledger_of(seed=seed, config_hash=f'{config} {seed}', **changes))
  return make


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'deep' / 'A17.jsonl'


def test_no_file_holds_no_results(path):
  assert read_results(path) == []


def test_written_is_read(path, result):
  rows = [result(seed=seed, test_error_percent=1.1 + seed) for seed in range(3)]
  assert add_results(path, rows) == rows
  assert read_results(path) == rows
  lines = path.read_text().splitlines()
  assert len(lines) == 3 and path.read_text().endswith('\n')
  assert json.loads(lines[1]) == {'config': 'A17/net:paper', 'code_hash': 'c0',
                                  'ledger': rows[1].ledger, 'wrong': '', 'first_nll_nats': [],
                                  'attested': []}


def test_rows_are_sorted_by_config_seed_and_time_whatever_their_order(path, result):
  rows = [result('A17/a', 0), result('A17/a', 2, time_utc='2026-01-01'),
          result('A17/a', 2, 'c1', time_utc='2026-01-02'), result('A17/a', 10), result('A17/b', 1)]
  add_results(path, [rows[4], rows[2], rows[0]])
  add_results(path, [rows[3], rows[1]])
  assert read_results(path) == rows
  before = path.read_bytes()
  add_results(path, [])
  assert path.read_bytes() == before


def test_the_same_run_again_replaces_its_row(path, result):
  add_results(path, [result(seed=0, test_error_percent=1.0), result(seed=1)])
  again = result(seed=0, test_error_percent=7.0)
  add_results(path, [again])
  assert read_results(path) == [again, result(seed=1)]


@pytest.mark.parametrize('other', [{'code': 'c1'}, {'data_hash': 'other'}, {'seed': 1}])
def test_other_code_data_or_config_is_another_row(path, result, other):
  add_results(path, [result()])
  assert len(add_results(path, [result(**other)])) == 2


def test_a_failing_write_leaves_the_old_file(path, result, monkeypatch):
  add_results(path, [result()])
  before = path.read_bytes()

  def full(*arguments, **options):
    raise OSError('no space left')
  monkeypatch.setattr(os, 'replace', full)
  with pytest.raises(OSError, match='no space'):
    add_results(path, [result(seed=1)])
  assert path.read_bytes() == before
  assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize('damage', [
    lambda line: line[:len(line) // 2],
    lambda line: '',
    lambda line: '[]',
    lambda line: 'null',
    lambda line: line.replace('"code_hash"', '"code"'),
    lambda line: line.replace('"test_error_percent": 0.5', '"test_error_percent": "0.5"'),
    lambda line: line.replace('"weights_kept": 100', '"weights_kept": 99', 1),
])
def test_a_damaged_line_is_named_by_its_number(path, result, damage):
  add_results(path, [result(seed=seed) for seed in range(3)])
  lines = path.read_text().splitlines()
  assert damage(lines[1]) != lines[1]
  path.write_text('\n'.join([lines[0], damage(lines[1]), lines[2]]) + '\n')
  with pytest.raises(ValueError, match=r'A17.jsonl, line 2 is no result: .*restore it'):
    read_results(path)
  before = path.read_bytes()
  with pytest.raises(ValueError, match='line 2'):
    add_results(path, [result(seed=5)])
  assert path.read_bytes() == before


def test_a_repeated_result_is_refused(path, result):
  add_results(path, [result(seed=0), result(seed=1)])
  lines = path.read_text().splitlines()
  path.write_text('\n'.join([*lines, lines[0]]) + '\n')
  with pytest.raises(ValueError, match='line 3 repeats an earlier result; remove one'):
    read_results(path)


def test_the_result_of_a_folder_is_its_ledger(tmp_path, ledger_of):
  sheet = ledger_of(seed=4, config_hash='h', data_hash='d')
  ledger.write(tmp_path / 'ledger.json', sheet)
  logits = np.array([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0]])
  np.savez(tmp_path / 'test_logits.npz', logits=logits, labels=np.array([1, 1, 1]))
  rows = [{'epoch': epoch, 'train_nll_nats': loss}
          for epoch, loss in ((1, 0.7), (8, 0.5), (9, 0.4))]
  (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  found = from_folder(tmp_path, 'A17/net:paper', 'c0')
  # The second of three: 0b01000000 is 64, '@', which base64 writes as 'QA=='.
  assert found == Result('A17/net:paper', 'c0', sheet, '3:QA==', (0.7, 0.5))
  np.testing.assert_array_equal(found.wrong_examples(), [False, True, False])
  assert Result('A17/net:paper', 'c0', sheet).wrong_examples() is None
  assert found.key == ('h', 'd', 'c0')


def test_the_results_of_this_project_are_whole():
  assert store.FOLDER.name == 'results' and store.FOLDER.parent.name == 'experiments'
  for file in sorted(store.FOLDER.glob('*.jsonl')):
    read_results(file)
