"""The sheets that are there, read against their text, and what a wrong one is told."""
import re
import tomllib

import pytest

from experiments.evidence import sheet as module
from experiments.evidence.configs import load_config
from experiments.evidence.sheet import Figure, Row, known_papers, read_sheet

WHOLE = """
key = "A17"
authors = "A, B"
title = "T"
year = 2017
arxiv = "1701.00001"
table = "2"
differences = ["one"]

[[rows]]
network = "net"
method = "m"
configs = { full = "digits/l0_mlp:smoke" }
architecture = [3, 2]
note = "n"
diagnosis = "d"
[rows.error]
value = 1.5
verified = true
[rows.size]
value = 60
ledger_key = "compression_weights"
verified = false
"""


def refusal(folder, text):
  (folder / 'A17.toml').write_text(text)
  with pytest.raises(ValueError) as caught:
    read_sheet('A17', folder)
  assert 'A17.toml' in str(caught.value)
  return str(caught.value)


def without(line):
  assert WHOLE.count(line) == 1
  return WHOLE.replace(line, '')


def changed(before, after):
  assert WHOLE.count(before) == 1
  return WHOLE.replace(before, after)


def test_papers_have_sheets():
  assert {'LoWK17', 'MoAV17', 'UlMW17'} <= set(known_papers())


@pytest.mark.parametrize('key', ['LoWK17', 'MoAV17', 'UlMW17'])
def test_a_real_sheet_says_what_its_file_says(key):
  raw = tomllib.loads((module.FOLDER / f'{key}.toml').read_text())
  sheet = read_sheet(key)
  assert (sheet.key, sheet.authors, sheet.year, sheet.arxiv, sheet.table) == (
      key, raw['authors'], raw['year'], raw['arxiv'], raw['table'])
  assert len(sheet.differences) == len(raw['differences']) > 0
  assert [row.name for row in sheet.rows] == [f'{r["network"]}, {r["method"]}' for r in raw['rows']]
  for row, written in zip(sheet.rows, raw['rows'], strict=True):
    assert row.configs == written['configs']
    for figure, name in ((row.error, 'error'), (row.size, 'size')):
      if name not in written:
        assert figure is None
        continue
      assert (figure.value, figure.verified) == (written[name]['value'], written[name]['verified'])
      assert figure.ledger_key == written[name].get('ledger_key', 'test_error_percent')


def test_figures_of_the_two_papers():
  """Read in the papers: table 1 of arXiv:1701.05369, and of arXiv:1712.01312."""
  molchanov = {row.name: row for row in read_sheet('MoAV17').rows}
  vd = molchanov['LeNet-300-100, Sparse VD']
  assert (vd.error.value, vd.size.value, vd.size.ledger_key) == (1.92, 68, 'compression_weights')
  assert not vd.size.smaller_is_better and vd.error.smaller_is_better
  assert molchanov['LeNet-300-100, dense'].size is None
  l0 = read_sheet('LoWK17').rows[2]
  assert (l0.error.value, l0.size.value, l0.size.ledger_key) == (0.9, 38927, 'parameters_compact')
  assert l0.size.smaller_is_better and l0.scored == (l0.error, l0.size)


def test_the_sizes_of_L0_are_those_of_the_architectures_that_the_paper_prints():
  for row in read_sheet('LoWK17').rows:
    a, b, *rest = row.architecture
    if row.network == 'LeNet-300-100':          # kept inputs of the three dense layers
      c, = rest
      parameters = (a * b + b) + (b * c + c) + (c * 10 + 10)
    else:                                       # filters of 5 x 5, then kept inputs
      c, d = rest
      parameters = (25 * a + a) + (25 * a * b + b) + (c * d + d) + (d * 10 + 10)
    assert row.size.value == parameters, row.name


def test_a_whole_sheet(tmp_path):
  (tmp_path / 'A17.toml').write_text(WHOLE)
  sheet = read_sheet('A17', tmp_path)
  error, size = Figure(1.5, 'test_error_percent', True), Figure(60, 'compression_weights', False)
  assert sheet == ('A17', 'A, B', 'T', 2017, '1701.00001', '2', ('one',), (
      Row('net', 'm', {'full': 'digits/l0_mlp:smoke'}, error, size, (3, 2), 'n', 'd'),))
  assert sheet.rows[0].scored == (error,)
  assert known_papers(tmp_path) == ['A17']


def test_an_unknown_paper_gets_the_nearest():
  with pytest.raises(ValueError, match=r"no sheet for the paper 'MoAV71'; did you mean MoAV17\? "
                                       'papers are .*LoWK17, MoAV17'):
    read_sheet('MoAV71')
  with pytest.raises(ValueError, match="no sheet for the paper 'zzz'; papers are"):
    read_sheet('zzz')


def test_a_folder_without_sheets_is_named(tmp_path):
  with pytest.raises(ValueError, match=f'papers are none .{re.escape(str(tmp_path))}'):
    read_sheet('A17', tmp_path)


@pytest.mark.parametrize('line', ['authors = "A, B"', 'title = "T"', 'year = 2017',
                                  'arxiv = "1701.00001"', 'table = "2"', 'key = "A17"'])
def test_a_missing_field_of_the_paper_is_named(tmp_path, line):
  assert f'A17.toml lacks {line.split()[0]}; add it' in refusal(tmp_path, without(line))


@pytest.mark.parametrize('line', ['network = "net"', 'method = "m"',
                                  'configs = { full = "digits/l0_mlp:smoke" }'])
def test_a_missing_field_of_a_row_is_named(tmp_path, line):
  assert f'A17.toml, row 1 lacks {line.split()[0]}; add it' in refusal(tmp_path, without(line))


@pytest.mark.parametrize('line, where', [
    ('value = 1.5', 'row 1, error lacks value'), ('verified = true', 'row 1, error lacks verified'),
    ('value = 60', 'row 1, size lacks value'), ('verified = false', 'row 1, size lacks verified'),
    ('ledger_key = "compression_weights"', 'row 1, size lacks ledger_key')])
def test_a_missing_field_of_a_figure_is_named(tmp_path, line, where):
  assert f'{where}; add it' in refusal(tmp_path, without(line))


@pytest.mark.parametrize('before, after, message', [
    ('year = 2017', 'year = "2017"', "A17.toml: year is '2017', a str"),
    ('table = "2"', 'table = 2', 'A17.toml: table is 2, a int'),
    ('network = "net"', 'network = 3', 'row 1: network is 3, a int'),
    ('configs = { full = "digits/l0_mlp:smoke" }', 'configs = "full"', "configs is 'full', a str"),
    ('value = 1.5', 'value = "1.5"', "row 1, error: value is '1.5', a str"),
    ('verified = true', 'verified = 1', 'row 1, error: verified is 1, a int'),
    ('value = 60', 'value = 0', 'row 1, size: value 0 must be positive'),
    ('value = 60', 'value = nan', 'row 1, size: value nan must be positive'),
    ('value = 1.5', 'value = -1.5', 'row 1, error: value -1.5 must be positive'),
    ('"compression_weights"', '"compression"', "ledger_key 'compression' is no key of the ledger"),
    ('{ full =', '{ ful =', 'row 1: configs has ful; budgets are full, small, smoke'),
    ('key = "A17"', 'key = "B17"', "says it is of the paper 'B17'"),
    ('year = 2017', 'year = ', 'is damaged: '),
])
def test_a_wrong_field_is_named(tmp_path, before, after, message):
  assert message in refusal(tmp_path, changed(before, after))


def test_a_row_without_figures_is_named(tmp_path):
  text = WHOLE[:WHOLE.index('[rows.error]')]
  assert 'row 1 has neither [rows.error] nor [rows.size]' in refusal(tmp_path, text)


def test_the_second_row_is_named_by_its_number(tmp_path):
  rows = WHOLE[WHOLE.index('[[rows]]'):]
  assert 'row 2, size lacks value' in refusal(tmp_path, WHOLE + rows.replace('value = 60', ''))


def test_a_sheet_without_rows_has_nothing_to_reproduce(tmp_path):
  assert 'holds no [[rows]]' in refusal(tmp_path, WHOLE[:WHOLE.index('[[rows]]')])


def test_a_language_model_may_have_another_score_than_the_error(tmp_path):
  text = changed('value = 1.5', 'value = 1.5\nledger_key = "test_perplexity"')
  (tmp_path / 'A17.toml').write_text(text)
  row, = read_sheet('A17', tmp_path).rows
  assert row.error == Figure(1.5, 'test_perplexity', True) and row.error.smaller_is_better
  assert "ledger_key 'perplexity' is no key" in refusal(
      tmp_path, changed('value = 1.5', 'value = 1.5\nledger_key = "perplexity"'))


@pytest.mark.parametrize('key', ['LoCV17', 'NaUD17'])
def test_every_config_that_a_recurrent_sheet_names_exists(key):
  for row in read_sheet(key).rows:
    for name in row.configs.values():
      assert load_config(name).paper == key


def test_a_size_alone_will_do(tmp_path):
  start, end = WHOLE.index('[rows.error]'), WHOLE.index('[rows.size]')
  (tmp_path / 'A17.toml').write_text(WHOLE[:start] + WHOLE[end:])
  row, = read_sheet('A17', tmp_path).rows
  assert row.error is None and row.size.value == 60 and row.scored == ()
