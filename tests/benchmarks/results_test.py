import io
import json

from rich.console import Console

from benchmarks import results
from benchmarks.targets import Ratio
from benchmarks.timing import Estimate


def test_rows_are_appended_and_read_back(tmp_path):
  path = tmp_path / 'new' / 'rows.jsonl'
  row = results.time_row('net', 'l0', 'sparsejax', Estimate(2.0, 1.0, 3.0))
  results.append(path, [row])
  results.append(path, [row | {'median': 4.0}, row])
  found = [json.loads(line) for line in path.read_text().splitlines()]
  assert found == [row, row | {'median': 4.0}, row]
  assert [name.name for name in path.parent.iterdir()] == ['rows.jsonl']


def test_tables_show_times_ratios_and_targets():
  console = Console(file=io.StringIO(), width=120)
  found = Ratio('net', 'vd', 'dense', Estimate(2.5, 2.4, 2.6), at_most=3.0)
  results.show(console, 'title', [results.time_row('net', 'vd', 'us', Estimate(7.25, 7.0, 8.0))],
               [found])
  text = console.file.getvalue()
  for part in ('title', '7.250', '7.000 to 8.000', 'vd / dense', '2.400 to 2.600', '<= 3.0',
               'reached'):
    assert part in text
  assert results.ratio_row(found)['verdict'] == 'reached'
