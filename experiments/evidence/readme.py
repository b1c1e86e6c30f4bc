"""The results in README.md, written from the rows in experiments/results and nothing else."""

from __future__ import annotations

import csv
import pathlib

from experiments.evidence import paper_table
from experiments.evidence import results as store
from experiments.evidence.comparison import compare
from experiments.evidence.sheet import known_papers, read_sheet
from experiments.report import tables
from sparsejax.codec import write_atomically

README = pathlib.Path(__file__).parents[2] / 'README.md'
BEGIN = '<!-- results: written by python -m experiments.readme -->'
END = '<!-- end of results -->'


def with_results(text: str) -> str:
  """Returns the text of a README with the part between the two marks written anew.

  Raises:
    ValueError: if the marks are not there, once each and in order.
  """
  if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
    raise ValueError(f'README.md needs the lines {BEGIN!r} and {END!r}, once each, in this order')
  before, _, rest = text.partition(BEGIN)
  _, _, after = rest.partition(END)
  return f'{before}{BEGIN}\n\n{section()}\n{END}{after}'


def update(path: pathlib.Path = README) -> bool:
  """Writes the results into README.md; returns whether it changed."""
  before = path.read_text(encoding='utf-8')
  after = with_results(before)
  if after != before:
    write_atomically(path, after.encode())
  return after != before


def section() -> str:
  """Returns the Markdown of everything in experiments/results that belongs into the README."""
  parts = []
  for paper in known_papers():
    results = store.read_results(store.FOLDER / f'{paper}.jsonl')
    if not results:
      continue
    sheet = read_sheet(paper)
    lines = compare(sheet, results, check_code=False)
    parts += [f'**{sheet.authors} {sheet.year}**, `python -m experiments.reproduce '
              f'--paper={paper}` ([report](report/{paper}.md); {_devices(results)}):', '',
              paper_table.markdown(lines), '']
  for path in sorted(store.FOLDER.glob('frontier_*.csv')):
    parts += _frontier(path)
  return '\n'.join(parts)


def _devices(results: list[store.Result]) -> str:
  devices = sorted({result.ledger['device'] for result in results})
  versions = sorted({result.ledger['jax_version'] for result in results})
  return f'{", ".join(devices)}; JAX {", ".join(versions)}'


def _frontier(path: pathlib.Path) -> list[str]:
  """Returns the table of a frontier at matched numbers of weights, a section per task."""
  suite = path.stem.removeprefix('frontier_')
  with open(path, newline='', encoding='utf-8') as file:
    rows = [row for row in csv.DictReader(file) if row['measure'] == 'weights']
  controls = ''
  if path.with_name(f'controls_{suite}.csv').exists():
    controls = f', [controls](report/controls_{suite}.md)'
  parts = [f'**The frontier**, `python -m experiments.frontier --suite={suite}` '
           f'([report](report/frontier_{suite}.md){controls}): test error in % at matched '
           'numbers of weights, mean over the seeds, every method by the same short recipe.', '']
  budgets = sorted({float(row['budget']) for row in rows})
  head = ('task', 'method', 'seeds', *(f'{budget:g}x' for budget in budgets))
  cells: dict[tuple[str, str], dict[float, str]] = {}
  seeds: dict[tuple[str, str], str] = {}
  for row in rows:
    key = row['task'], row['method']
    error = row['test_error_percent']
    shown = f'{float(error):.2f}' if error else 'not reached'
    cells.setdefault(key, {})[float(row['budget'])] = shown
    seeds[key] = row['seeds'] or seeds.get(key, '')
  body = [(*key, seeds[key], *(found.get(budget, '') for budget in budgets))
          for key, found in cells.items()]
  return [*parts, tables.table(head, body, right=range(2, len(head))), '']
