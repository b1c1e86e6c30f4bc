"""Where the kernels of recurrent cells stand in a tree of weights, by Flax's own names.

A cell at `cell0` has kernels `cell0/<side><gate>/kernel`: the side is i (of the inputs) or h (of
the state), the gate a letter: i, f, g, o in LSTMCell and OptimizedLSTMCell, r, z, n in GRUCell,
nothing in SimpleCell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# {cell: {'i' | 'h': {letter of the gate: path of the kernel}}}
CellKernels = dict[str, dict[str, dict[str, str]]]
GATE_ORDER = 'ifgorzn'   # as papers list them
CELLS = r'cell\d+'     # names of the cells of several layers: cell0, cell1, ...


def kernel_pattern(cells: str) -> str:
  """Returns the pattern of the paths of all kernels of the cells."""
  return rf'(?:{cells})/[ih]\w?/kernel'


def cell_kernels(paths: Iterable[str], cells: str = CELLS) -> CellKernels:
  """Returns the kernels of the cells whose paths match `cells`, in the order of their numbers.

  The gates of both sides stand in one order, whatever that of the paths.

  Raises:
    ValueError: if there is none, or a gate lacks one of its two kernels.
  """
  paths = tuple(paths)
  found: CellKernels = {}
  for path in paths:
    parts = path.split('/')
    cell, layer = '/'.join(parts[:-2]), parts[-2] if len(parts) > 1 else ''
    if re.fullmatch(kernel_pattern(cells), path) and re.fullmatch(cells, cell):
      found.setdefault(cell, {'i': {}, 'h': {}})[layer[0]][layer[1:]] = path
  if not found:
    raise ValueError(f'cells={cells!r} matches no recurrent cell with kernels named as in '
                     f'nn.LSTMCell; parameters are {", ".join(paths)}; name the cell, say '
                     "nn.LSTMCell(128, name='cell0')")
  for cell, sides in found.items():
    if sides['i'].keys() != sides['h'].keys():
      raise ValueError(f'the gates of {cell} have inputs {sorted(sides["i"])} and state '
                       f'{sorted(sides["h"])}; each gate needs both kernels')
  return {cell: {side: dict(sorted(gates.items(), key=lambda item: GATE_ORDER.find(item[0])))
                 for side, gates in found[cell].items()}
          for cell in sorted(found, key=_by_number)}


def _by_number(name: str) -> list[tuple[bool, int, str]]:
  """A sort key by which cell2 comes before cell10."""
  return [(part.isdigit(), int(part) if part.isdigit() else 0, part)
          for part in re.split(r'(\d+)', name)]
