"""The published figures of a paper, from third_party/papers/<key>.toml."""

from __future__ import annotations

import difflib
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple

from sparsejax.ledger.schema import KEYS

FOLDER = pathlib.Path(__file__).parents[2] / 'third_party' / 'papers'
BUDGETS = ('full', 'small', 'smoke')        # from the paper's recipe down to seconds
ERROR_KEY = 'test_error_percent'


class Figure(NamedTuple):
  """One published number: of a single run, unless the sheet says otherwise.

  Attributes:
    value: in the unit of `ledger_key`. ledger_key: what of ours it is compared with.
    verified: read in the paper or another source; only such figures are scored.
  """

  value: float
  ledger_key: str
  verified: bool

  @property
  def smaller_is_better(self) -> bool:
    return not self.ledger_key.startswith('compression_')


class Row(NamedTuple):
  """One row of a paper's table.

  Attributes:
    network, method: as the paper names them. configs: {budget: '<key>/<file>:<variant>'}.
    error, size: published figures; None where the paper gives none. The error of a language model
      may have another `ledger_key` than the test error: bits per token, or perplexity.
    architecture: widths as printed, or (). note: of the source. diagnosis: why ours differs.
  """

  network: str
  method: str
  configs: dict[str, str]
  error: Figure | None
  size: Figure | None
  architecture: tuple[int, ...] = ()
  note: str = ''
  diagnosis: str = ''

  @property
  def name(self) -> str:
    return f'{self.network}, {self.method}'

  @property
  def scored(self) -> tuple[Figure, ...]:
    """The verified figures."""
    return tuple(figure for figure in (self.error, self.size) if figure and figure.verified)


class Sheet(NamedTuple):
  """A paper and the rows of its table; `differences` says where our recipe departs from it."""

  key: str
  authors: str
  title: str
  year: int
  arxiv: str
  table: str
  differences: tuple[str, ...]
  rows: tuple[Row, ...]


def known_papers(folder: pathlib.Path = FOLDER) -> list[str]:
  """Returns the keys of all papers with a sheet."""
  return sorted(path.stem for path in folder.glob('*.toml'))


def read_sheet(key: str, folder: pathlib.Path = FOLDER) -> Sheet:
  """Returns the sheet of a paper.

  Raises:
    ValueError: for an unknown paper, or a sheet that lacks a field or holds a figure that cannot
      be compared; the message names the file and the row.
  """
  papers = known_papers(folder)
  if key not in papers:
    near = difflib.get_close_matches(key, papers, n=1)
    hint = f'did you mean {near[0]}? ' if near else ''
    raise ValueError(f'no sheet for the paper {key!r}; {hint}papers are '
                     f'{", ".join(papers) or "none"} ({folder})')
  path = folder / f'{key}.toml'
  try:
    raw = tomllib.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:              # TOMLDecodeError and UnicodeDecodeError are ValueErrors
    raise ValueError(f'{path} is damaged: {error}') from error
  fields = {name: _field(raw, name, kind, str(path)) for name, kind in (
      ('key', str), ('authors', str), ('title', str), ('year', int), ('arxiv', str),
      ('table', str))}
  if fields['key'] != key:
    raise ValueError(f'{path} says it is of the paper {fields["key"]!r}; rename one of the two')
  rows = tuple(_row(row, f'{path}, row {number}')
               for number, row in enumerate(raw.get('rows', ()), 1))
  if not rows:
    raise ValueError(f'{path} holds no [[rows]], so there is nothing to reproduce; add the figures')
  return Sheet(**fields, differences=tuple(raw.get('differences', ())), rows=rows)


def _row(raw: Mapping[str, Any], where: str) -> Row:
  configs = _field(raw, 'configs', dict, where)
  unknown = set(configs) - set(BUDGETS)
  if unknown:
    raise ValueError(f'{where}: configs has {", ".join(sorted(unknown))}; budgets are '
                     f'{", ".join(BUDGETS)}')
  error, size = (_figure(raw, name, where) for name in ('error', 'size'))
  if error is None and size is None:
    raise ValueError(f'{where} has neither [rows.error] nor [rows.size]; add the published figure')
  return Row(_field(raw, 'network', str, where), _field(raw, 'method', str, where), dict(configs),
             error, size, tuple(raw.get('architecture', ())), raw.get('note', ''),
             raw.get('diagnosis', ''))


def _figure(raw: Mapping[str, Any], name: str, where: str) -> Figure | None:
  if name not in raw:
    return None
  where = f'{where}, {name}'
  value = _field(raw[name], 'value', (int, float), where)
  key = (ERROR_KEY if name == 'error' and 'ledger_key' not in raw[name]
         else _field(raw[name], 'ledger_key', str, where))
  if key not in KEYS:
    raise ValueError(f'{where}: ledger_key {key!r} is no key of the ledger')
  if not value > 0:
    raise ValueError(f'{where}: value {value} must be positive')
  return Figure(float(value), key, _field(raw[name], 'verified', bool, where))


def _field(raw: Mapping[str, Any], name: str, kind: Any, where: str) -> Any:
  if name not in raw:
    raise ValueError(f'{where} lacks {name}; add it')
  if not isinstance(raw[name], kind):
    raise ValueError(f'{where}: {name} is {raw[name]!r}, a {type(raw[name]).__name__}')
  return raw[name]
