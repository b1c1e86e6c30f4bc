"""Runs side by side, from folders written by hand and one real ledger."""
import io
import json

import pytest
from rich.console import Console

from experiments.report import runs_compared


def text(table):
  console = Console(file=io.StringIO(), width=160)
  console.print(table)
  return console.file.getvalue()


@pytest.fixture
def folders(tmp_path, ledger_of):
  """Two ended runs and one that goes on, which differ in their strength."""
  for i, name in enumerate(('a', 'b', 'c')):
    folder = tmp_path / name
    folder.mkdir()
    config = {'seed': 0, 'regulariser': {'gates': {'strength': 0.1 * (i + 1)}}}
    if name == 'c':
      config['choose'] = {'rule': 'x'}
    (folder / 'config.json').write_text(json.dumps(config))
    rows = [{'epoch': epoch, 'train_nll_nats': 1 / epoch, 'density': 1.0} for epoch in (1, 2)]
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    if name != 'c':
      sheet = ledger_of(test_error_percent=1.5 + i, validation_error_percent=2.0)
      (folder / 'ledger.json').write_text(json.dumps(sheet))
  return [tmp_path / name for name in ('a', 'b', 'c')]


def test_results_stand_side_by_side(folders):
  shown = text(runs_compared.results_table([runs_compared.read(folder) for folder in folders]))
  row = next(line for line in shown.splitlines() if 'test error' in line)
  assert [cell.strip() for cell in row.split('│')[1:-1]] == ['test error', '1.50 %', '2.50 %',
                                                             'not ended']


def test_configs_differ_where_they_differ(folders):
  shown = text(runs_compared.config_table([runs_compared.read(folder) for folder in folders]))
  assert 'regulariser.gates.strength' in shown and 'seed' not in shown
  row = next(line for line in shown.splitlines() if 'choose.rule' in line)
  assert [cell.strip() for cell in row.split('│')[2:-1]] == ['absent', 'absent', "'x'"]


def test_equal_configs_differ_in_nothing(folders):
  run = runs_compared.read(folders[0])
  assert 'nothing' in text(runs_compared.config_table([run, run]))


def test_curves_have_a_line_per_run_and_a_panel_per_metric(folders):
  figure = runs_compared.curves([runs_compared.read(folder) for folder in folders])
  assert len(figure.axes) == 2                       # training NLL and density
  first = figure.axes[0]
  assert [list(line.get_ydata()) for line in first.lines] == [[1.0, 0.5]] * 3


def test_what_is_no_run_is_named(tmp_path, folders):
  with pytest.raises(ValueError, match='holds no run: config.json is missing'):
    runs_compared.read(tmp_path)
  (folders[0] / 'config.json').write_text('{"seed"')
  with pytest.raises(ValueError, match='config.json is damaged'):
    runs_compared.read(folders[0])
  (folders[2] / 'metrics.jsonl').unlink()
  with pytest.raises(ValueError, match='no run has metrics yet'):
    runs_compared.curves([runs_compared.read(folders[2])])
