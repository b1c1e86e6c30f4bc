"""Outcomes as tables, against numbers worked here."""
import csv
import math

import numpy as np
import pytest
from scipy import stats

from experiments.evidence import control_report
from experiments.evidence.control_run import MARGIN_PERCENT, Outcome
from experiments.evidence.controls import ALL, Settings

OWN = Outcome('run', '', 0, 10, 1000, 5000, 2.0)
DENSE = Outcome('run', 'dense', 0, 10, 266200, 1_000_000, 1.75, -0.25, -0.5, 0.125, 0.03125, False)
SCRATCH = Outcome('run', 'scratch', 0, 30, 1000, 5100, 2.5, 0.5, 0.25, 0.75, 0.002, True,
                  '3 times the epochs, not the 9 of equal compute')
ONE = [OWN, DENSE, SCRATCH]


def of_seed(outcome, seed, error, difference=0.0, **changes):
  return outcome._replace(seed=seed, test_error_percent=error, difference=difference, **changes)


SEEDS = [of_seed(OWN, seed, error) for seed, error in enumerate((2.0, 2.2, 2.1))] + [
    of_seed(DENSE, seed, error, difference, not_worse=seed > 0)
    for seed, (error, difference) in enumerate(((1.9, -0.1), (2.3, 0.1), (1.8, -0.3)))]


def test_the_settings_of_each_control_are_told():
  outcomes = [OWN, *(OWN._replace(control=name) for name in ALL)]
  text = '\n'.join(control_report._legend(outcomes, Settings()))
  assert 'temperature 4, weight of the labels 0.5' in text and '4 rounds within' in text
  assert 'with at most 10 times the epochs' in text and 'a scale per output channel' in text


def test_every_control_has_words():
  assert control_report.WORDS.keys() == {'', *ALL}
  assert len(set(control_report.WORDS.values())) == len(ALL) + 1


def test_rows_of_one_seed():
  assert control_report.rows(ONE) == [
      ('run', '1', '10', '2.00', '1,000', '5,000', '', ''),
      ('- the big network, no method', '1', '10', '1.75', '266,200', '1,000,000',
       '-0.25 [-0.50, +0.12]', '0.031'),
      ('- compact architecture, random start, equal compute', '1', '30', '2.50', '1,000', '5,100',
       '+0.50 [+0.25, +0.75]', '0.002')]


def test_rows_of_several_seeds_have_intervals_over_the_seeds():
  own, dense = control_report.rows(SEEDS)
  def half(values):
    return stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
  assert own[:4] == ('run', '3', '10', f'2.10 ± {half([2.0, 2.2, 2.1]):.2f}')
  assert own[6:] == ('', '')
  differences = [-0.1, 0.1, -0.3]
  mean, spread = np.mean(differences), half(differences)
  assert dense[3] == f'2.00 ± {half([1.9, 2.3, 1.8]):.2f}'
  assert dense[6] == f'{mean:+.2f} [{mean - spread:+.2f}, {mean + spread:+.2f}]'
  assert dense[7] == 'per seed: 0.03 0.03 0.03'


def test_each_network_has_its_own_rows():
  other = [outcome._replace(subject='other') for outcome in ONE[:2]]
  assert [row[0] for row in control_report.rows([*ONE[:2], *other])] == [
      'run', '- the big network, no method', 'other', '- the big network, no method']


def test_the_terminal_shows_the_rows(console):
  console.print(control_report.terminal(ONE))
  text = console.file.getvalue()
  for row in control_report.rows(ONE):
    for cell in row:
      assert cell in text


def test_the_csv_has_a_column_for_each_field():
  rows = list(csv.DictReader(control_report.as_csv(ONE).splitlines()))
  assert tuple(rows[0]) == Outcome._fields[:Outcome._fields.index('bits_per_token')]
  assert len(rows) == 3
  assert rows[0]['control'] == '' and rows[1]['control'] == 'dense'
  assert [float(rows[1][key]) for key in ('test_error_percent', 'difference', 'low', 'high',
                                          'p_value')] == [1.75, -0.25, -0.5, 0.125, 0.03125]
  assert (rows[1]['bytes_file'], rows[1]['not_worse']) == ('1000000', 'False')
  assert rows[2]['note'] == SCRATCH.note


def test_the_report_is_written_with_its_csv(tmp_path):
  path = tmp_path / 'deep' / 'controls.md'
  assert control_report.write(ONE, Settings(max_epochs_factor=3.0), path, 'A title') == path
  assert {file.name for file in path.parent.iterdir()} == {'controls.md', 'controls.csv'}
  assert (path.parent / 'controls.csv').read_text() == control_report.as_csv(ONE)
  text = path.read_text()
  assert text.startswith('# A title\n\n| network | n |')
  assert '| - the big network, no method | 1 | 10 | 1.75 |' in text
  assert 'with at most 3 times the epochs' in text
  assert 'temperature 4' not in text and '4 rounds within' not in text, 'there are none of these'
  assert 'paired bootstrap 95 % interval over the test examples' in text
  assert f'- run, {control_report.WORDS["scratch"]}: {SCRATCH.note}' in text
  assert text.count(SCRATCH.note) == 1


@pytest.mark.parametrize('outcomes, words', [
    (ONE, '- run: not worse than the dense network by 0.2 points or more (one-sided 95 %, Tango) '
          'for 0 of 1 seeds'),
    (SEEDS, 'for 2 of 3 seeds')])
def test_the_legend_counts_the_seeds_that_are_not_worse(outcomes, words):
  legend = control_report._legend(outcomes, Settings())
  assert MARGIN_PERCENT == 0.2 and len([line for line in legend if words in line]) == 1
  assert not [line for line in control_report._legend(outcomes[:1], Settings())
              if 'not worse' in line]
  several = 'mean over seeds' in legend[0]
  assert several == (outcomes is SEEDS)


# --- language models ------------------------------------------------------------------------------

TEXT = [OWN._replace(bits_per_token=3.0), DENSE._replace(
    bits_per_token=2.5, bits_difference=-0.5, bits_low=-0.625, bits_high=-0.375)]


def test_language_models_have_bits_and_perplexity():
  own, dense = control_report.rows(TEXT)
  assert own == ('run', '1', '10', '3.000', '8.00', '', '1,000', '5,000', '2.00', '', '')
  assert dense[3:6] == ('2.500', f'{2 ** 2.5:.2f}', '-0.500 [-0.625, -0.375]')
  assert dense[6:] == ('266,200', '1,000,000', '1.75', '-0.25 [-0.50, +0.12]', '0.031')
  assert len(control_report.head(TEXT)) == len(dense)
  assert control_report.head(ONE) == control_report.HEAD


def test_bits_of_several_seeds_have_intervals_over_the_seeds():
  seeds = [TEXT[1]._replace(seed=seed, bits_per_token=bits, bits_difference=bits - 3)
           for seed, bits in enumerate((2.5, 2.6, 2.4))]
  row, = control_report.rows(seeds)
  half = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
  assert row[3] == f'2.500 ± {half:.3f}'
  assert row[5] == f'-0.500 [{-0.5 - half:+.3f}, {-0.5 + half:+.3f}]'


def test_the_report_of_a_text_says_what_tokens_are_and_what_is_left_out(tmp_path, console):
  path = control_report.write(TEXT, Settings(), tmp_path / 'controls.md',
                              left_out=["without the control 'distil', which is not held"])
  text = path.read_text()
  assert '| bits per token | perplexity |' in text and 'windows of the test text' in text
  assert 'tokens of one text are not independent of each other' in text
  assert "- without the control 'distil', which is not held" in text
  assert 'not worse than the dense network' not in text
  row = list(csv.DictReader((tmp_path / 'controls.csv').read_text().splitlines()))[1]
  assert [float(row[name]) for name in control_report.TEXT_FIELDS] == [2.5, -0.5, -0.625, -0.375]
  console.print(control_report.terminal(TEXT))
  shown = console.file.getvalue()
  assert '-0.500 [-0.625, -0.375]' in shown and '266,200' in shown and '0.031' not in shown
