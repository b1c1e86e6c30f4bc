"""The table of a paper as cells, Markdown, terminal text and CSV."""
import csv
import io

import numpy as np
import pytest

from experiments.evidence import paper_table
from experiments.evidence.comparison import Line
from experiments.evidence.results import Result
from experiments.evidence.sheet import Figure, Row, Sheet
from experiments.evidence.verdict import EXPLANATIONS, Verdict

ERROR, RATIO = 'test_error_percent', 'compression_weights'
SHEET = Sheet('A17', 'Ann, Bob', 'T', 2017, '1701.1', '2', (), ())


@pytest.fixture
def lines(ledger_of):
  """A row with an interval, one with points alone, and one not run."""
  def result(seed, **changes):
    return Result('c', 'now', ledger_of(seed=seed, **changes))
  row = Row('net', 'a|b', {}, Figure(1.5, ERROR, True), Figure(12.0, RATIO, False), note='see `x`')
  many = tuple(result(seed, test_error_percent=1.0 + seed, device='cpu' if seed else 'gpu',
                      commit=f'{seed % 2}' * 40) for seed in range(5))
  few = tuple(result(seed, test_error_percent=2.0 + seed, weights_kept=50) for seed in (3, 7))
  return [
      Line(row, 'full', many, Verdict('near', {ERROR: (0.0, 6.0), RATIO: (9.0, 11.0)}), ''),
      Line(row, 'small', few, Verdict('shorter recipe', {}), '2 epochs of 9'),
      Line(Row('other', 'dense', {}, Figure(0.8, ERROR, True), None), 'full', (),
           Verdict('not run', {}), ''),
  ]


def test_cells(lines):
  assert [paper_table.cells(line) for line in lines] == [
      ('net, a|b', '1.5 %', '3.00 ± 3.00', '12 x fewer weights (unverified)', '10.0 ± 1.0', '5',
       'near'),
      ('net, a|b (small budget)', '1.5 %', '5.00, 9.00', '12 x fewer weights (unverified)',
       '20.0, 20.0', '2', 'shorter recipe'),
      ('other, dense', '0.8 %', '', '', '', '0', 'not run')]


def test_markdown_has_a_row_a_line_and_escapes_its_bars(lines):
  text = paper_table.markdown(lines).splitlines()
  assert len(text) == 2 + 3
  assert text[0] == '| ' + ' | '.join(paper_table.HEAD) + ' |'
  assert text[1].split('|')[1:-1] == [' --- ', ' --- ', ' ---: ', ' --- ', ' ---: ', ' ---: ',
                                      ' --- ']
  assert text[2].startswith('| net, a\\|b | 1.5 % | 3.00 ± 3.00 |')


def test_the_terminal_shows_the_same_cells(lines, console):
  console.print(paper_table.terminal(SHEET, lines))
  text = console.file.getvalue()
  assert 'Ann, Bob 2017, table 2' in text
  for line in lines:
    for cell in paper_table.cells(line):
      assert cell in text


def test_the_legend_explains_what_is_shown_and_nothing_else(lines):
  legend = paper_table.legend(lines)
  shown = {'near', 'shorter recipe', 'not run', 'match'}       # near is defined by match
  assert {name for name in EXPLANATIONS if f'\n- {name}: ' in f'\n{legend}'} == shown
  assert '- net, a\\|b: see \\`x\\`' in legend
  assert '- net, a\\|b (small budget): 2 epochs of 9; see \\`x\\`' in legend
  assert '95 % prediction interval' in legend.splitlines()[0]
  alone = paper_table.legend(lines[2:])
  assert 'match' not in alone and len(alone.splitlines()) == 2


def test_the_csv_holds_every_value(lines):
  text = paper_table.as_csv(SHEET, lines)
  rows = list(csv.DictReader(io.StringIO(text)))
  assert tuple(rows[0]) == paper_table.CSV_HEAD
  assert [(row['network'], row['budget'], row['figure']) for row in rows] == [
      ('net', 'full', 'error'), ('net', 'full', 'size'), ('net', 'small', 'error'),
      ('net', 'small', 'size'), ('other', 'full', 'error')]
  first = rows[0]
  assert first['paper'] == 'A17' and first['method'] == 'a|b' and first['unit_key'] == ERROR
  assert (float(first['published']), first['verified'], first['verdict']) == (1.5, 'True', 'near')
  assert [float(v) for v in first['values'].split()] == [1.0, 2.0, 3.0, 4.0, 5.0]
  assert float(first['mean']) == pytest.approx(np.mean([1, 2, 3, 4, 5]))
  assert (float(first['low']), float(first['high']), first['n']) == (0.0, 6.0, '5')
  assert first['seeds'] == '0 1 2 3 4'
  assert first['device'] == 'cpu; gpu' and first['jax'] == '0.10.2'
  assert first['commits'] == f'{"0" * 40} {"1" * 40}'
  assert (rows[1]['verified'], float(rows[1]['mean'])) == ('False', 10.0)
  assert (rows[2]['low'], rows[2]['high'], rows[2]['seeds']) == ('', '', '3 7')
  assert (rows[4]['mean'], rows[4]['n'], rows[4]['values']) == ('', '0', '')
