"""What a container holds, leaf by leaf, beside what the symbols would take at best."""
from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from sparsejax.codec import leaf
from sparsejax.codec.container import Container


class Row(NamedTuple):
  """One array of a file.

  Attributes:
    path: '/'-joined; `<path>/<name>` for the arrays of a packed weight.
    shape, dtype: of the array.
    entries: of the array. kept: those whose bits are not all 0.
    form: of positions and values, with their coders.
    bytes: of its stream.
    bound_bits: what an ideal coder would need for the same symbols, codebook included.
  """
  path: str
  shape: tuple[int, ...]
  dtype: str
  entries: int
  kept: int
  form: str
  bytes: int
  bound_bits: float


def rows(container: Container) -> list[Row]:
  """Returns one row for each array; decodes them one by one.

  Raises:
    ValueError: for a stream that is not what the header says.
  """
  found = []
  for path, array, entry in container.arrays():
    flat = np.ascontiguousarray(array).reshape(-1).view(f'u{array.dtype.itemsize}')
    name = f'{path} (fact)' if entry['section'] == 'facts' else path
    found.append(Row(name, array.shape, array.dtype.name, array.size, int(np.count_nonzero(flat)),
                     form(entry), entry['bytes'], leaf.bound_bits(entry, array)))
  return found


def form(entry: Mapping[str, Any]) -> str:
  """Returns the form of a leaf in words, as 'gaps (ans) + codebook of 64 (huffman)'."""
  place, value = entry['positions'], entry['values']
  words = []
  if place['kind'] != 'all':
    coder = f' ({place["symbols"]["coder"]})' if 'symbols' in place else ''
    words.append(place['kind'] + coder)
  if value['kind'] == 'codebook':
    words.append(f'codebook of {value["codes"]["alphabet"]} ({value["codes"]["coder"]})')
  elif value['kind'] == 'planes':
    words.append(f'bytes ({", ".join(plane["coder"] for plane in value["planes"])})')
  else:
    words.append(value['kind'])
  return ' + '.join(words)


def table(container: Container) -> Table:
  """Returns the table of a file: shape, kept, bits per weight, entropy bound, bytes, form."""
  shown = Table(title=os.path.basename(container.path), title_justify='left')
  for name in ('leaf', 'shape', 'dtype', 'kept', 'bits / entry', 'bound', 'bytes', 'over', 'codec'):
    left = name in ('leaf', 'shape', 'dtype', 'codec')
    shown.add_column(name, justify='left' if left else 'right')
  found = rows(container)
  for row in found:
    shown.add_row(row.path, 'x'.join(map(str, row.shape)) or 'scalar', row.dtype,
                  *_numbers(row.kept, row.entries, row.bound_bits, row.bytes), row.form)
  shown.add_section()
  shown.add_row('header', '', '', '', '', '', f'{container.header_bytes:,}', '', '')
  entries, kept, bound, size = (sum(getattr(row, name) for row in found)
                                for name in ('entries', 'kept', 'bound_bits', 'bytes'))
  shown.add_row('streams', '', '', *_numbers(kept, entries, bound, size), '')
  shown.add_row('file', '', '', '', '', '', f'{container.header_bytes + size:,}', '', '')
  return shown


def _numbers(kept: int, entries: int, bound_bits: float, size: int) -> tuple[str, ...]:
  share = f'{kept:,} ({100 * kept / entries:.1f} %)' if entries else '0'
  over = f'{100 * (8 * size / bound_bits - 1):+.2f} %' if bound_bits else ''
  return (share, f'{8 * size / entries:.3f}' if entries else '', f'{bound_bits / 8:,.0f}',
          f'{size:,}', over)
