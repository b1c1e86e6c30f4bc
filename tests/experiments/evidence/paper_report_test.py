"""The report of a paper: its files, its parts, and what its plot shows."""
import csv
import re

import matplotlib.image
import numpy as np
import pytest

from experiments.evidence import paper_report
from experiments.evidence.comparison import Line
from experiments.evidence.results import Result
from experiments.evidence.sheet import Figure, Row, Sheet
from experiments.evidence.verdict import EXPLANATIONS, Verdict

ERROR, RATIO = 'test_error_percent', 'compression_weights'
SHEET = Sheet('A17', 'Ann, Bob', 'A title', 2017, '1701.1', '2', ('one | two', 'three'), ())


def row(network='net', method='VD', size=12.0, verified=True, **options):
  return Row(network, method, {}, Figure(1.5, ERROR, verified),
             size and Figure(size, RATIO, True), **options)


@pytest.fixture
def results(ledger_of):
  return tuple(Result('A17/net:paper', 'now', ledger_of(
      seed=seed, test_error_percent=1.4 + 0.1 * seed, weights_kept=100 - 10 * seed,
      wall_seconds=10.0 + seed**2, commit=f'{seed}' * 40)) for seed in range(3))


def test_the_report_and_what_it_links(tmp_path, results):
  lines = [Line(row(), 'full', results, Verdict('too few seeds', {}), ''),
           Line(row('other'), 'full', (), Verdict('not run', {}), ''),
           Line(row('third', size=None), 'full', results, Verdict('match', {}), '')]
  path = paper_report.write_paper_report(SHEET, lines, tmp_path / 'report')
  assert path == tmp_path / 'report' / 'A17.md'
  assert {file.name for file in path.parent.iterdir()} == {'A17.md', 'A17.csv', 'A17_net.png'}
  text = path.read_text()
  assert re.findall(r'!\[.*\]\((.*)\)', text) == ['A17_net.png']
  image = matplotlib.image.imread(path.parent / 'A17_net.png')
  assert image.shape[0] > 300 and image.std() > 0
  assert text.startswith('# Ann, Bob 2017: A title\n')
  assert 'arXiv:1701.1, table 2' in text and '--paper=A17`' in text
  assert '- one \\| two\n- three\n' in text
  with open(path.parent / 'A17.csv', newline='') as file:
    assert len(list(csv.DictReader(file))) == 2 + 2 + 1


def test_the_runs_are_named_with_device_seeds_and_commits(results):
  line = Line(row(), 'full', results, Verdict('too few seeds', {}), '')
  text = paper_report.markdown(SHEET, [line], [])
  last = text[text.index('## Runs'):].strip().splitlines()[-1]
  cells = [cell.strip() for cell in last.strip('|').split('|')]
  assert cells == ['A17/net:paper', '0 1 2', '11', 'cpu: 1 x test', '0.10.2',
                   '000000000000 111111111111 222222222222']        # median of 10, 11, 14 seconds


def test_differences_that_nobody_wrote_down():
  text = paper_report.markdown(SHEET._replace(differences=()), [], [])
  assert '## Where our recipe differs\n\n- nothing known\n' in text


@pytest.mark.parametrize('name', sorted(EXPLANATIONS))
def test_what_did_not_come_out_is_listed_with_its_reason(name):
  told = name in ('near', 'miss', 'inconclusive', 'not run', 'stale', 'shorter recipe',
                  'too few seeds')
  def section(line):
    text = paper_report.markdown(SHEET, [line], [])
    start = text.index('## What did not come out')
    return text[start:text.index('## Runs')].strip().splitlines()[2:]
  line = Line(row(), 'full', (), Verdict(name, {}), '')
  if not told:
    assert section(line) == ['Every row that can be scored came out.']
    return
  assert len(section(line)) == 1
  assert section(line)[0].startswith(f'- net, VD (full): {name}. ')
  assert EXPLANATIONS[name].split('`')[0][:30] in section(line)[0]
  assert section(line._replace(remark='a remark'))[0].endswith('. a remark')
  known = line._replace(row=row(diagnosis='too few epochs'), remark='a remark')
  assert section(known)[0].endswith('. too few epochs')


def test_the_plot_shows_every_seed_and_the_published_pair(results):
  figure = paper_report.network_figure([Line(row(), 'full', results, Verdict('near', {}), ''),
                                        Line(row(method='L0', verified=False), 'small', results,
                                             Verdict('shorter recipe', {}), '')])
  axes, = figure.axes
  assert axes.get_xscale() == 'log'
  drawn = {line.get_label(): line for line in axes.lines}
  assert set(drawn) == {'ours, VD (full), a point a seed', 'published, VD',
                        'ours, L0 (small), a point a seed'}
  ours = drawn['ours, VD (full), a point a seed']
  np.testing.assert_allclose(ours.get_xdata(), [1000 / 100, 1000 / 90, 1000 / 80])
  np.testing.assert_allclose(ours.get_ydata(), [1.4, 1.5, 1.6])
  published = drawn['published, VD']
  assert (list(published.get_xdata()), list(published.get_ydata())) == ([12.0], [1.5])
  assert ours.get_color() == published.get_color()
  assert ours.get_color() != drawn['ours, L0 (small), a point a seed'].get_color()


def test_an_unverified_star_is_hollow(results):
  figure = paper_report.network_figure(
      [Line(row(verified=False), 'full', results, Verdict('near', {}), '')])
  star, = (line for line in figure.axes[0].lines if line.get_label().startswith('published'))
  assert star.get_fillstyle() == 'none' and star.get_label().endswith(', unverified')


def test_no_plot_where_there_is_nothing_to_compare(results):
  def figure(*lines):
    return paper_report.network_figure(lines)
  empty = Line(row(), 'full', (), Verdict('not run', {}), '')
  assert figure(empty) is None
  assert figure(empty._replace(row=row(size=None), results=results)) is None
  other = Row('net', 'L0', {}, Figure(1.5, ERROR, True), Figure(9.0, 'parameters_compact', True))
  assert figure(empty._replace(results=results), empty._replace(row=other)) is None   # two units
