"""Which results count for a row, and in which words; the sheet here has rows of its own."""
import math

import numpy as np
import pytest
from scipy import stats

from experiments.evidence import comparison
from experiments.evidence.comparison import compare, missing_seeds, ours, published
from experiments.evidence.configs import load_config
from experiments.evidence.results import Result
from experiments.evidence.sheet import Figure, Row, Sheet
from experiments.workdir import config_hash

ERROR, RATIO = 'test_error_percent', 'compression_weights'
FULL, SMALL, SMOKE = (f'MoAV17/lenet_5_caffe:{name}' for name in ('paper', 'small', 'smoke'))


def sheet_of(*rows):
  return Sheet('A17', 'A', 'T', 2017, '1', '1', (), rows)


def row(name='a net', configs=None, error=2.0, size=10.0, verified=(True, True)):
  configs = {'full': FULL, 'small': SMALL, 'smoke': SMOKE} if configs is None else configs
  return Row(name, 'VD', configs, error and Figure(error, ERROR, verified[0]),
             size and Figure(size, RATIO, verified[1]))


@pytest.fixture(autouse=True)
def code(monkeypatch):
  """The present code is 'now'."""
  monkeypatch.setattr(comparison, 'code_hash', lambda config: 'now')


@pytest.fixture
def result(ledger_of):
  def make(seed, config=FULL, code='now', time='2026-01-01', **changes):
    return Result(config, code, ledger_of(**{
        'seed': seed, 'config_hash': config_hash(load_config(config, seed)), 'time_utc': time,
        'test_error_percent': 2.0 + 0.01 * seed} | changes))
  return make


def test_nothing_run(result):
  line, = compare(sheet_of(row()), [])
  assert (line.budget, line.results, line.verdict, line.remark) == ('full', (), ('not run', {}), '')
  assert missing_seeds(line, 3) == [0, 1, 2]


def test_five_current_seeds_are_scored(result):
  line, = compare(sheet_of(row()), [result(seed) for seed in range(5)])
  assert line.verdict.name == 'match' and line.remark == ''
  np.testing.assert_allclose(line.values(ERROR), [2.0, 2.01, 2.02, 2.03, 2.04], rtol=1e-12)
  assert line.values(RATIO) == [10.0] * 5
  values = np.array(line.values(ERROR))
  half = stats.t.ppf(0.9875, 4) * values.std(ddof=1) * math.sqrt(6 / 5)
  np.testing.assert_allclose(line.verdict.intervals[ERROR],
                             [values.mean() - half, values.mean() + half], rtol=1e-12)
  assert missing_seeds(line, 5) == [] and missing_seeds(line, 7) == [5, 6]


def test_results_of_another_config_or_override_are_none_of_this_row(result):
  others = [result(0, config_hash='an override'), result(1, SMALL), result(2, FULL)]
  line, small = compare(sheet_of(row()), others)
  assert [r.ledger['seed'] for r in line.results] == [2]
  assert missing_seeds(line, 3) == [0, 1]
  assert small.budget == 'small' and [r.ledger['seed'] for r in small.results] == [1]


def test_a_result_without_a_figure_of_the_row_is_left_out_and_said(result):
  words = row()._replace(size=Figure(10.0, 'compression_structure', True))
  counted = result(0, structure_total=100, structure_kept=5, compression_structure=20.0)
  line, = compare(sheet_of(words), [counted, result(1)])
  assert line.values('compression_structure') == [20.0]
  assert line.remark == '1 results without a figure to compare left out'
  assert published(words.size) == '10 x fewer weights (of what is read)'


def test_stale_results_never_count_with_current_ones(result):
  stale = [result(seed, code='old', test_error_percent=50.0) for seed in range(5)]
  current = [result(seed) for seed in (1, 3)]
  line, = compare(sheet_of(row()), [*stale, *current])
  assert [r.ledger['seed'] for r in line.results] == [1, 3]
  assert {r.code_hash for r in line.results} == {'now'}
  assert line.verdict.name == 'too few seeds'
  assert line.remark == '5 stale results (other code) left out'
  assert missing_seeds(line, 5) == [0, 2, 4]


def test_stale_results_alone_are_shown_unscored_and_of_one_code_only(result):
  older = [result(seed, code='older' + '0' * 10, time='2026-01-01') for seed in range(5)]
  newer = [result(seed, code='newer' + '0' * 10, time='2026-02-01') for seed in range(5, 7)]
  line, = compare(sheet_of(row()), [*newer, *older])
  assert line.verdict == ('stale', {})
  assert [r.ledger['seed'] for r in line.results] == [5, 6]
  assert line.remark == 'code newer000, now now; run again'
  assert missing_seeds(line, 6) == [0, 1, 2, 3, 4, 5]


def test_without_the_check_the_newest_code_is_shown_and_scored(result):
  older = [result(seed, code='now', time='2026-01-01') for seed in range(5)]
  newer = [result(seed, code='later', time='2026-02-01') for seed in range(5, 10)]
  line, = compare(sheet_of(row(error=2.07)), [*older, *newer], check_code=False)
  assert {r.code_hash for r in line.results} == {'later'}
  assert line.values(ERROR) == pytest.approx([2.05, 2.06, 2.07, 2.08, 2.09])
  assert line.verdict.name == 'match' and line.remark == '5 stale results (other code) left out'


def test_results_on_different_data_are_refused(result):
  mixed = [result(0), result(1, data_hash='other')]
  with pytest.raises(ValueError, match=r'results of MoAV17/lenet_5_caffe:paper are of different '
                                       r'data \(data, other\); remove'):
    compare(sheet_of(row()), mixed)


def test_stale_results_on_other_data_hurt_nothing(result):
  found = compare(sheet_of(row()), [result(0), result(1, code='old', data_hash='other')])
  assert len(found[0].results) == 1


def test_a_shorter_recipe_is_shown_beside_and_not_scored(result):
  lines = compare(sheet_of(row()), [result(seed, SMALL) for seed in range(5)])
  assert [line.budget for line in lines] == ['full', 'small']
  assert lines[0].verdict.name == 'not run'
  assert lines[1].verdict == ('shorter recipe', {}) and len(lines[1].results) == 5
  epochs = [load_config(name).epochs for name in (SMALL, FULL)]
  assert epochs[0] < epochs[1]
  assert lines[1].remark == f'{epochs[0]} epochs of {epochs[1]}'


def test_a_shorter_recipe_of_stale_code_says_both(result):
  lines = compare(sheet_of(row()), [result(0, SMALL), result(1, SMALL, code='old')])
  assert lines[1].verdict.name == 'shorter recipe'
  assert lines[1].remark.startswith('1 stale results (other code) left out; ')
  assert ' epochs of ' in lines[1].remark
  stale = compare(sheet_of(row()), [result(0, SMALL, code='old')])
  assert stale[1].verdict.name == 'stale'


def test_shorter_runs_disappear_once_the_recipe_has_its_seeds(result):
  small = [result(seed, SMALL) for seed in range(5)]
  four = [result(seed) for seed in range(4)]
  assert [l.budget for l in compare(sheet_of(row()), [*small, *four])] == ['full', 'small']
  assert [l.budget for l in compare(sheet_of(row()), [*small, *four, result(4)])] == ['full']


def test_runs_of_seconds_are_shown_only_where_they_are_asked_for(result):
  smoke = [result(seed, SMOKE) for seed in range(2)]
  assert [line.budget for line in compare(sheet_of(row()), smoke)] == ['full']
  line, = compare(sheet_of(row()), smoke, 'smoke')
  assert (line.budget, line.verdict.name, len(line.results)) == ('smoke', 'shorter recipe', 2)


def test_a_smaller_budget_never_shows_the_longer_recipe(result):
  found = compare(sheet_of(row()), [result(0), result(0, SMALL)], 'small')
  assert [line.budget for line in found] == ['small'] and len(found[0].results) == 1


def test_a_row_without_a_config_says_so():
  line, = compare(sheet_of(row(configs={})), [])
  assert line.verdict.name == 'not run'
  assert line.remark == "no config runs this row with the budget 'full'"
  assert missing_seeds(line, 5) == []


def test_only_the_networks_asked_for(result):
  rows = row('LeNet-5'), row('LeNet-300')
  assert [line.row.network for line in compare(sheet_of(*rows), [], networks='300')] == [
      'LeNet-300']
  assert compare(sheet_of(*rows), [], networks='ResNet') == []


def test_an_unverified_figure_of_a_scored_row_is_named(result):
  line, = compare(sheet_of(row(error=99.0, verified=(False, True))),
                  [result(seed) for seed in range(5)])
  assert line.verdict.name == 'match' and line.remark == f'{ERROR}: unverified, not scored'


@pytest.mark.parametrize('figure, words', [
    (None, ''),
    (Figure(1.64, ERROR, True), '1.64 %'),
    (Figure(0.80, ERROR, False), '0.8 % (unverified)'),
    (Figure(68.0, RATIO, True), '68 x fewer weights'),
    (Figure(38927.0, 'parameters_compact', True), '38,927 parameters'),
    (Figure(12.0, 'bytes_file', True), '12 bytes_file'),
    (Figure(109.22, 'test_perplexity', True), '109.22 perplexity'),
    (Figure(1.429, 'test_bits_per_token', True), '1.429 bits per token'),
])
def test_published_in_words(figure, words):
  assert published(figure) == words


def test_ours_in_words(result):
  few, = compare(sheet_of(row()), [result(0), result(1, weights_kept=80)])
  assert ours(few, few.row.error) == '2.00, 2.01'
  assert ours(few, few.row.size) == '10.0, 12.5'
  assert ours(few, None) == ''
  none, = compare(sheet_of(row()), [])
  assert ours(none, none.row.error) == ''
  many, = compare(sheet_of(row()), [result(seed) for seed in range(5)])
  half = stats.t.ppf(0.9875, 4) * 0.01 * math.sqrt(2.5) * math.sqrt(1.2)
  assert ours(many, many.row.error) == f'2.02 ± {half:.2f}'
  assert ours(many, many.row.size) == '10.0 ± 0.0'
  parameters = Figure(38927.0, 'parameters_compact', True)
  assert ours(few, parameters) == '110, 110'
  words, = compare(sheet_of(row()), [result(0, test_nll_nats=math.log(110.0),
                                            test_perplexity=110.0)])
  assert ours(words, Figure(109.0, 'test_perplexity', True)) == '110.0 perplexity'
