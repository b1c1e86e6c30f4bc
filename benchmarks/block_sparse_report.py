"""The block-sparse benchmark's rows as lines, tables and a plot."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

Row = dict[str, Any]


def line(rows: Sequence[Row]) -> str:
  """Returns one cell in one line: ours, forward and training, with intervals."""
  first = rows[0]
  parts = [f'{row["product"]} {row["speedup"]:.2f} ({row["low"]:.2f} to {row["high"]:.2f}), '
           f'{100 * row["efficiency"]:.0f} %, {row["implementation"]}'
           for row in rows if row['contender'] == 'ours']
  return (f'{first["m"]}x{first["k"]}x{first["n"]}, block {first["block"]}, '
          f'{100 * (1 - first["density"]):.0f} % zero: ' + '; '.join(parts))


def tables(rows: Sequence[Row]) -> Iterable[Table]:
  """Yields one table per shape and product: a line per block and density, contenders across."""
  keys = sorted({(row['m'], row['k'], row['n'], row['product']) for row in rows})
  for m, k, n, product in keys:
    mine = [row for row in rows if (row['m'], row['k'], row['n'], row['product']) == (m, k, n,
                                                                                      product)]
    contenders = list(dict.fromkeys(row['contender'] for row in mine))
    title = (f'{m}x{k}x{n}, {product}: speed-up over jnp.dot '
             f'({min(row["dense_milliseconds"] for row in mine):.2f} ms), '
             'with 95 % interval and efficiency for ours')
    table = Table(title=title, title_justify='left')
    for name in ('block', 'zero', *contenders):
      table.add_column(name, justify='right')
    for block, density in sorted({(row['block'], row['density']) for row in mine},
                                 key=lambda key: (key[0], -key[1])):
      cell = {row['contender']: row for row in mine
              if (row['block'], row['density']) == (block, density)}
      table.add_row(str(block), f'{100 * (1 - density):.0f} %', *(
          _value(cell[name]) if name in cell else '' for name in contenders))
    yield table


def plot(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
  """Draws speed-up over density for each shape and block, forward, with the ideal line."""
  import matplotlib.pyplot as plt

  mine = [row for row in rows if row['product'] == 'forward' and row['contender'] == 'ours']
  shapes = list(dict.fromkeys((row['m'], row['k'], row['n']) for row in mine))
  figure, axes = plt.subplots(1, len(shapes), figsize=(4 * len(shapes), 4), squeeze=False,
                              layout='constrained')
  for axis, shape in zip(axes[0], shapes):
    here = [row for row in mine if (row['m'], row['k'], row['n']) == shape]
    densities = sorted({row['density'] for row in here})
    axis.plot(densities, [1 / density for density in densities], 'k--', label='ideal')
    for block in sorted({row['block'] for row in here}):
      points = sorted((row['density'], row['speedup'], row['low'], row['high'])
                      for row in here if row['block'] == block)
      density, gain, low, high = zip(*points)
      axis.errorbar(density, gain, (_minus(gain, low), _minus(high, gain)), marker='o',
                    label=f'block {block}')
    axis.axhline(1, color='grey', linewidth=0.8)
    axis.set(xscale='log', yscale='log', xlabel='density of blocks',
             ylabel='speed-up over jnp.dot', title='x'.join(map(str, shape)))
    axis.legend()
  figure.suptitle(f'{mine[0]["device"]}, {mine[0]["threads"]} threads, JAX '
                  f'{mine[0]["jax_version"]}, float32')
  figure.savefig(path, dpi=100)
  plt.close(figure)


def _minus(a, b):
  return [max(p - q, 0.0) for p, q in zip(a, b)]


def _value(row):
  if row['contender'] != 'ours':
    return f'{row["speedup"]:.2f}'
  return (f'{row["speedup"]:.2f} ({row["low"]:.2f} to {row["high"]:.2f}) '
          f'{100 * row["efficiency"]:.0f} % {row["implementation"]}')
