"""The results in README.md are those of the rows obtained."""
import pytest

from experiments.configs.MoAV17 import lenet_300_100
from experiments.evidence import readme as module
from experiments.evidence import results as store
from experiments.evidence.readme import BEGIN, END, README, section, update, with_results
from experiments.evidence.results import Result
from experiments.workdir import config_hash

CSV = ('task,method,measure,budget,seeds,test_error_percent\n'
       'A MLP,dense,weights,1,5,1.234\n'
       'A MLP,dense,bytes,1,5,9.999\n'
       'A MLP,magnitude,weights,10,5,1.5\n'
       'A MLP,magnitude,weights,3,4,1.366\n'
       'A MLP,magnitude,bytes,3,4,8.888\n'
       'A MLP,L0 gates,weights,3,,\n')


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.setattr(store, 'FOLDER', tmp_path)
  return tmp_path


def result(ledger_of, seed=0, code='any code', **changes):
  name = 'MoAV17/lenet_300_100:dense'
  config = lenet_300_100.get_config('dense')
  config.seed = seed
  return Result(name, code, ledger_of(**{
      'seed': seed, 'config_hash': config_hash(config), 'test_error_percent': 1.75 + seed,
      'device': 'cpu: a device', 'jax_version': '9.9.9'} | changes))


def test_the_readme_is_up_to_date():
  text = README.read_text(encoding='utf-8')
  assert with_results(text) == text, 'run python -m experiments.readme'


def test_the_section_between_the_marks_is_replaced_and_nothing_else(folder):
  (folder / 'frontier_small.csv').write_text(CSV)
  text = f'# Head\n\nbefore\n\n{BEGIN}\nold\n| old |\n{END}\n\nafter\n'
  new = with_results(text)
  assert new.startswith(f'# Head\n\nbefore\n\n{BEGIN}\n\n') and new.endswith(f'\n{END}\n\nafter\n')
  assert 'old' not in new and section() in new and '1.23' in section()
  assert with_results(new) == new, 'written once, it is up to date'


def test_a_readme_of_other_results_is_not_up_to_date(folder):
  text = with_results(f'{BEGIN}\n{END}\n')
  (folder / 'frontier_small.csv').write_text(CSV)
  assert with_results(text) != text


@pytest.mark.parametrize('text', ['no marks', BEGIN, END, f'{END}\n{BEGIN}',
                                  f'{BEGIN}\n{BEGIN}\n{END}', f'{BEGIN}\n{END}\n{END}'])
def test_missing_marks_are_named(text, folder):
  with pytest.raises(ValueError, match='README.md needs the lines .*results: written by.*, once '):
    with_results(text)


def test_update_writes_only_what_changed(folder):
  path = folder / 'README.md'
  path.write_text(f'a\n{BEGIN}\n{END}\nb\n')
  assert update(path) is True
  text = path.read_text()
  stamp = path.stat().st_mtime_ns
  assert update(path) is False and path.stat().st_mtime_ns == stamp
  (folder / 'frontier_small.csv').write_text(CSV)
  assert update(path) is True and path.read_text() != text
  path.write_text('no marks')
  with pytest.raises(ValueError, match='README.md needs'):
    update(path)
  assert path.read_text() == 'no marks'


def test_without_results_there_is_nothing(folder):
  assert section() == ''


def test_a_paper_with_results_of_any_code_has_its_table(folder, ledger_of):
  store.add_results(folder / 'MoAV17.jsonl', [result(ledger_of), result(ledger_of, 1)])
  text = section()
  assert '**Molchanov, Ashukha, Vetrov 2017**' in text
  assert '--paper=MoAV17` ([report](report/MoAV17.md); cpu: a device; JAX 9.9.9):' in text
  row, = (line for line in text.splitlines() if line.startswith('| LeNet-300-100, dense |'))
  assert [cell.strip() for cell in row.strip('|').split('|')] == [
      'LeNet-300-100, dense', '1.64 %', '1.75, 2.75', '', '', '2', 'too few seeds']
  assert 'LoWK17' not in text and 'frontier' not in text


def test_the_frontier_is_a_table_of_weights_budgets_across(folder):
  (folder / 'frontier_small.csv').write_text(CSV)
  lines = section().splitlines()
  assert lines[0].startswith('**The frontier**') and '--suite=small`' in lines[0]
  assert 'report/frontier_small.md' in lines[0]
  table = [[cell.strip() for cell in line.strip('|').split('|')]
           for line in lines if line.startswith('|')]
  assert table[0] == ['task', 'method', 'seeds', '1x', '3x', '10x']
  assert table[2:] == [['A MLP', 'dense', '5', '1.23', '', ''],
                       ['A MLP', 'magnitude', '4', '', '1.37', '1.50'],
                       ['A MLP', 'L0 gates', '', '', 'not reached', '']]


def test_the_path_of_the_readme():
  assert README.is_file() and README.parent == store.FOLDER.parents[1]
  assert module.README == README
