"""Which implementation is fastest for a shape: a table measured on a device, shipped as data.

`python -m benchmarks.tune_block_sparse` measures the device at hand and writes a table. For each
product, form, block side and number of rows it holds

  microseconds = fixed * (inputs + outputs) / (inputs + outputs measured) + per_entry * entries,

and for the dense product microseconds over rows and matrix size. An entry costs more where the
stored blocks do not fit the caches: it is measured on a small and on a large matrix. Between
measured points the logarithms are interpolated; beyond them time grows with the work.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from sparsejax.kernels.block_sparse import xla
from sparsejax.kernels.block_sparse.backend import Problem

OPERATIONS = ('matmul', 'transposed', 'weight_gradient')
FORMAT_VERSION = 2
GRIDS = ('fixed', 'per_entry', 'cold_per_entry', 'dense', 'densified')
# Sides to which a device's matrix units pad a block: lanes of a TPU, tiles of Hopper's wgmma.
SMALLEST_TILE = {'tpu': 128, 'gpu': 64}


class Table(NamedTuple):
  """Measured costs of one device.

  Attributes:
    device: what was measured, in words. width: inputs + outputs at the fixed costs.
    warm_bytes, cold_bytes: of the stored blocks for which the costs of an entry were measured.
    fixed, per_entry: {(operation, form): {(block side, rows): microseconds}}.
    cold_per_entry: the same as per_entry, for blocks that do not fit the caches.
    dense: {operation: {(entries of the matrix, rows): microseconds}}, weight given dense.
    densified: the same with the blocks scattered into the matrix first.
  """

  device: str
  width: int
  warm_bytes: float
  cold_bytes: float
  fixed: Mapping[tuple[str, str], Mapping[tuple[int, int], float]]
  per_entry: Mapping[tuple[str, str], Mapping[tuple[int, int], float]]
  cold_per_entry: Mapping[tuple[str, str], Mapping[tuple[int, int], float]]
  dense: Mapping[str, Mapping[tuple[int, int], float]]
  densified: Mapping[str, Mapping[tuple[int, int], float]]

  def sparse_microseconds(self, operation: str, form: str, problem: Problem) -> float:
    """Predicts one product over the stored blocks."""
    side = math.sqrt(math.prod(problem.block))
    width = sum(n * b for n, b in zip(problem.grid, problem.block))
    at = (side, problem.m)
    fixed = interpolate(self.fixed[operation, form], at, work=0)
    entries = problem.entries
    if form == 'unroll' and problem.frozen is not None:
      entries = sum(map(len, problem.frozen))
    stored = 4 * max(entries, 1) * math.prod(problem.block)
    share = math.log(stored / self.warm_bytes) / math.log(self.cold_bytes / self.warm_bytes)
    share = min(max(share, 0.0), 1.0)
    warm = interpolate(self.per_entry[operation, form], at, work=2)
    cold = interpolate(self.cold_per_entry[operation, form], at, work=2)
    per_entry = warm ** (1 - share) * cold ** share
    return fixed * width / self.width + per_entry * entries

  def dense_microseconds(self, operation: str, problem: Problem, scatter: bool) -> float:
    """Predicts the dense product; `scatter`: from blocks, made dense in the same call."""
    size = math.prod(problem.grid) * math.prod(problem.block)
    points = (self.densified if scatter else self.dense)[operation]
    return interpolate(points, (size, problem.m), work=1)


def interpolate(points: Mapping[tuple[int, int], float], at: tuple[float, float],
                work: int) -> float:
  """Bilinear in the logarithms of both coordinates and of the value; `points` is a full grid.

  Outside the grid the nearest edge is scaled by the work: the first coordinate to the power `work`
  times the second (the rows). work=0 keeps the edge in the first and scales by the rows alone.
  """
  axes = [sorted({key[i] for key in points}) for i in range(2)]
  scale = 1.0
  spots = []
  for i, (axis, value) in enumerate(zip(axes, at)):
    inside = min(max(value, axis[0]), axis[-1])
    if value > axis[-1]:       # below the grid, overheads rule and the edge stands
      scale *= (value / inside) ** (work if i == 0 else 1)
    upper = next((n for n, edge in enumerate(axis) if edge >= inside), len(axis) - 1)
    lower = max(upper - 1, 0) if axis[upper] != inside else upper
    span = math.log(axis[upper] / axis[lower]) if upper != lower else 1.0
    spots.append((axis[lower], axis[upper], math.log(inside / axis[lower]) / span))
  (a0, a1, s), (b0, b1, t) = spots
  low = (1 - s) * math.log(points[a0, b0]) + s * math.log(points[a1, b0])
  high = (1 - s) * math.log(points[a0, b1]) + s * math.log(points[a1, b1])
  return math.exp((1 - t) * low + t * high) * scale


def to_json(table: Table, **provenance: Any) -> str:
  """Returns the table as a file's text."""
  def grids(group):
    return [{'key': key if isinstance(key, str) else list(key),
             'points': [[*at, round(value, 4)] for at, value in sorted(points.items())]}
            for key, points in sorted(group.items())]
  fields = {name: grids(getattr(table, name))
            for name in GRIDS}
  contents = {'format_version': FORMAT_VERSION, 'device': table.device, 'width': table.width,
              'warm_bytes': table.warm_bytes, 'cold_bytes': table.cold_bytes,
              'provenance': provenance, **fields}
  return json.dumps(contents, indent=None, separators=(',', ':')).replace('{"key"', '\n{"key"') + (
      '\n')


def from_json(text: str) -> Table:
  """Reads what `to_json` wrote.

  Raises:
    ValueError: for another version of the format.
  """
  contents = json.loads(text)
  if contents.get('format_version') != FORMAT_VERSION:
    raise ValueError(f'the cost table has format version {contents.get("format_version")}, not '
                     f'{FORMAT_VERSION}; measure it again: python -m benchmarks.tune_block_sparse')

  def group(entries):
    return {entry['key'] if isinstance(entry['key'], str) else tuple(entry['key']):
            {(a, b): value for a, b, value in entry['points']} for entry in entries}
  return Table(*(contents[name] for name in ('device', 'width', 'warm_bytes', 'cold_bytes')),
               *(group(contents[name]) for name in GRIDS))


@functools.cache
def table_for(platform: str, device_kind: str = '') -> Table | None:
  """Returns the shipped table of a device: tables/<platform>[_<device kind>].json, or None."""
  folder = importlib.resources.files('sparsejax.kernels.block_sparse') / 'tables'
  names = [platform]
  if device_kind:
    names.insert(0, f'{platform}_{device_kind.lower().replace(" ", "_")}')
  for name in names:
    file = folder / f'{name}.json'
    if file.is_file():
      return from_json(file.read_text())
  return None


def xla_forms(operation: str, problem: Problem) -> tuple[str, ...]:
  """Returns the XLA forms worth considering: of bounded scratch and bounded compile time."""
  forms: tuple[str, ...] = (
      xla.GRADIENT_FORMS if operation == 'weight_gradient' else xla.WALKS)
  if operation == 'matmul' and problem.frozen and problem.entries <= xla.UNROLLED_ENTRIES:
    forms += ('unroll',)
  if xla.scratch_bytes(problem) > xla.SCRATCH_BYTES:
    forms = tuple(form for form in forms if not form.startswith('gather'))
  return forms


def best_form(operation: str, problem: Problem) -> str:
  """Returns the fastest XLA form; without a table the one that does most at once."""
  forms = xla_forms(operation, problem)
  table = table_for(problem.platform, problem.device_kind)
  if table is None:
    return forms[0]
  forms = tuple(form for form in forms if (operation, form) in table.fixed)
  return min(forms, key=lambda form: table.sparse_microseconds(operation, form, problem))


def dense_pays(operation: str, problem: Problem, *, scatter: bool = True) -> bool:
  """True if the dense product is predicted to be faster than the best XLA form.

  Args:
    scatter: count the cost of making the weight dense in the call (training); False: it was made
      dense once, outside (frozen inference).
  Without a table for the device: when more than half of the matrix is stored, small blocks counted
  as the tiles they take up there.
  """
  table = table_for(problem.platform, problem.device_kind)
  if table is None:
    least = SMALLEST_TILE.get(problem.platform, 1)
    tile = math.prod(max(side, least) for side in problem.block)
    return 2 * problem.entries * tile > math.prod(problem.grid) * math.prod(problem.block)
  form = best_form(operation, problem)
  return (table.dense_microseconds(operation, problem, scatter)
          < table.sparse_microseconds(operation, form, problem))
