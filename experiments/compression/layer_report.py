"""The per-layer table of Deep Compression beside the paper's, from the sheets of files.

Sheets (`compress.py`) are kept as lines of experiments/results/compressed/<paper>.jsonl. A row
of third_party/papers/<paper>.toml says by `compressed` of which config its figures are, and by
`layers` what the paper gives for each layer.
"""

from __future__ import annotations

import json
import pathlib
import tomllib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.evidence import sheet as papers
from experiments.evidence.results import FOLDER
from sparsejax.codec import write_atomically

Numbers = dict[str, Any]
COLUMNS = ('layer', 'weights', 'kept %', 'weight bits', 'index bits', 'size %')


def results_file(paper: str) -> pathlib.Path:
  """Returns where the sheets of a paper are kept."""
  return FOLDER / 'compressed' / f'{paper}.jsonl'


def read_sheets(path: pathlib.Path) -> list[Numbers]:
  """Returns the sheets of a file of lines, none if there is no file; ValueError if damaged."""
  if not path.exists():
    return []
  sheets = []
  for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
    try:
      sheets.append(json.loads(line))
    except ValueError as error:
      raise ValueError(f'{path}, line {number} is no sheet: {error}; restore it') from error
  return sheets


def add_sheets(path: pathlib.Path, added: Sequence[Numbers]) -> list[Numbers]:
  """Writes the sheets with those added; one of the same run, seed, recipe and options is replaced.
  """
  def key(found):
    return json.dumps([found[name] for name in ('run', 'seed', 'recipe', 'options')],
                      sort_keys=True)
  sheets = {key(found): found for found in (*read_sheets(path), *added)}
  text = ''.join(json.dumps(sheets[name], sort_keys=True) + '\n' for name in sorted(sheets))
  path.parent.mkdir(parents=True, exist_ok=True)
  write_atomically(path, text.encode())
  return list(sheets.values())


def report(paper: str, sheets: Sequence[Numbers], folder: pathlib.Path = papers.FOLDER) -> str:
  """Returns the Markdown of all networks of a paper that were compressed.

  Raises:
    ValueError: for a paper without figures of compressed networks.
  """
  papers.read_sheet(paper, folder)
  raw = tomllib.loads((folder / f'{paper}.toml').read_text(encoding='utf-8'))
  rows = [row for row in raw['rows'] if 'compressed' in row]
  if not rows:
    raise ValueError(f'{folder / paper}.toml has no row with `compressed`, a config whose runs '
                     'were compressed')
  parts = [f'# {raw["authors"]} {raw["year"]}: {raw["title"]}', '',
           'Files of `python -m experiments.compress`; error and bytes are those of the network '
           'read back from its file, header and biases counted. In the table of layers are the '
           "paper's figures in brackets, and two numbers are fixed width -> Huffman codes; "
           'ours are means over the seeds, code tables, codebooks and fillers counted. Files code '
           'each leaf in the smallest of all forms, which may be another.', '']
  for row in rows:
    groups: dict[tuple[str, str], list[Numbers]] = {}
    for found in sheets:
      config, _, variant = found['run'].partition('.py')
      if config.endswith(row['compressed']):
        options = json.dumps(found['options'], sort_keys=True)
        groups.setdefault((variant, options), []).append(found)
    for variant, options in sorted(groups):
      parts += _network(row, variant, groups[variant, options])
  return '\n'.join(parts)


def _network(row: Numbers, variant: str, sheets: list[Numbers]) -> list[str]:
  sheets = sorted(sheets, key=lambda found: found['seed'])
  options = ', '.join(f'{name}={value}' for name, value in sheets[0]['options'].items())
  of = f', {variant}' if variant else ''
  lines = [f'## {row["network"]}{of}', '', f'{sheets[0]["recipe"]}: {options}', '',
           '| seed | test error % | before | bytes | times smaller |', '|---|---|---|---|---|']
  numbers = [(found['test_error_percent'], found['test_error_percent_before'],
              found['bytes_coded'], found['compression_coded']) for found in sheets]
  lines += [f'| {found["seed"]} | {error:.2f} | {before:.2f} | {size:,} | {ratio:.1f} |'
            for found, (error, before, size, ratio) in zip(sheets, numbers)]
  error, before, size, ratio = np.mean(numbers, axis=0)
  lines += [f'| mean | {error:.2f} | {before:.2f} | {size:,.0f} | {ratio:.1f} |',
            f'| paper | {row["error"]["value"]:.2f} | | | {row["size"]["value"]:.0f} |', '',
            f'| {" | ".join(COLUMNS)} |', '|---' * len(COLUMNS) + '|']
  lines += [_layer(theirs, sheets) for theirs in row.get('layers', ())]
  lines.append(_total(sheets))
  return [*lines, '']


def _layer(theirs: Numbers, sheets: list[Numbers]) -> str:
  name = theirs['layer']
  own = [layer for found in sheets for layer in found['layers']
         if layer['layer'].removesuffix('/kernel') == name]

  def pair(first, second, digits):
    ours = [np.mean([layer[field] for layer in own]) for field in (first, second)]
    return (f'{ours[0]:.{digits}f} -> {ours[1]:.{digits}f} '
            f'({theirs[first]:g} -> {theirs[second]:g})')
  kept = np.mean([layer['kept_percent'] for layer in own])
  return (f'| {name} | {own[0]["weights"]:,} | {kept:.1f} ({theirs["kept_percent"]:g}) | '
          f'{pair("weight_bits", "weight_bits_huffman", 1)} | '
          f'{pair("index_bits", "index_bits_huffman", 1)} | '
          f'{pair("fixed_percent", "huffman_percent", 2)} |')


def _total(sheets: list[Numbers]) -> str:
  def total(field):
    return float(np.mean([sum(layer[field] for layer in found['layers']) for found in sheets]))
  weights, kept = total('weights'), total('kept')
  sizes = ' -> '.join(f'{100 * total(field) / (4 * weights):.2f}'
                      for field in ('bytes_fixed', 'bytes_huffman'))
  return f'| total | {weights:,.0f} | {100 * kept / weights:.1f} | | | {sizes} |'
