"""Tile sizes of the Hopper kernels: what fits a device, a default, and tables of measured choices.

A table is data: `tables/hopper_<device kind>.json`, written by `python -m
benchmarks.hopper_block_sparse --stage=check_and_tune` on that device. Without one the heuristic
below decides; it counts shared memory, registers and tiles, and has not been timed.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from sparsejax.kernels.block_sparse.backend import Problem

FORMAT_VERSION = 1
SIDE = 64                       # wgmma multiplies 64 rows; 64 two-byte numbers fill a swizzled row
SHARED_BYTES = 232_448          # what one thread block may take, 227 KiB
SWIZZLE_BYTES = 128
ALIGNMENT = 1024                # the arrays begin at multiples of it, the barriers between them
STORE_ROWS = 64                 # rows of one tile on its way out
STORE_SLOTS = 2                 # such tiles of each warpgroup
# Float32 sums of one warpgroup, by how many multiply: with more, ptxas spills (CUDA 13, sm_90a).
ACCUMULATORS = {1: 192 * 128, 2: 192 * 128, 3: 192 * 64}
REGISTERS = 512                 # of one thread's share, if a multiprocessor ran one warpgroup
PRODUCER_REGISTERS = 40
CACHE_BYTES = 24 * 2**20        # rows of x that walk together take at most half of the L2 cache
MULTIPROCESSORS = {'H100 PCIe': 114, 'H20': 78}      # others have 132
HOPPER = ('H100', 'H200', 'GH200', 'H800', 'H20')


class Config(NamedTuple):
  """How one product is cut up.

  Attributes:
    tile_m: rows of the output that one warpgroup accumulates; in the gradient of the blocks it is
      the number of entries that one warpgroup stacks.
    warpgroups: those that multiply; one more loads. They split the rows of a tile, or its entries.
    tile_k: contracted elements of one step.
    stages: steps in flight.
    row_group: row tiles that are walked together over all columns, so that their x stays in L2.
    split: parts into which the gradient of the blocks cuts the rows of x, summed afterwards.
    balanced: give out columns by falling number of blocks, so that all multiprocessors end alike.
  """

  tile_m: int
  warpgroups: int = 2
  tile_k: int = 64
  stages: int = 4
  row_group: int = 8
  split: int = 1
  balanced: bool = True


def tile_of(side: int) -> int:
  """Returns the part of a block's side that one tile covers: 128, or 64 where 128 is no divisor."""
  return 128 if side % 128 == 0 else SIDE


def multiprocessors(device_kind: str) -> int:
  """Returns how many thread blocks run at once."""
  return next((count for name, count in MULTIPROCESSORS.items() if device_kind.endswith(name)), 132)


def shared_bytes(operation: str, config: Config, problem: Problem) -> int:
  """Returns the shared memory of a configuration; two-byte inputs, barriers and alignment counted.

  Args:
    operation: one of `cost.OPERATIONS`. problem: of the product itself, not turned.
  """
  if operation == 'weight_gradient':
    left = config.warpgroups * config.tile_m * tile_of(problem.block[0])
    right = tile_of(problem.block[1])
  else:
    left = config.warpgroups * config.tile_m
    right = tile_of(problem.block[1 if operation == 'matmul' else 0])
  steps = config.stages * (left + right) * config.tile_k * 2
  out = config.warpgroups * STORE_SLOTS * STORE_ROWS * SWIZZLE_BYTES
  return steps + out + 2 * 8 * config.stages + ALIGNMENT


def why_not(operation: str, config: Config, problem: Problem) -> str | None:
  """Returns why a configuration cannot run this problem, or None."""
  b_in, b_out = problem.block
  if min(config.tile_m, config.warpgroups, config.stages, config.row_group, config.split) < 1:
    return f'{config} has a number below 1'
  if operation == 'weight_gradient':
    rows, columns, depth = config.tile_m * tile_of(b_in), tile_of(b_out), config.tile_k
  else:
    side, depth = (b_out, b_in) if operation == 'matmul' else (b_in, b_out)
    rows, columns = config.tile_m, tile_of(side)
    if config.tile_m % SIDE:
      return f'tile_m={config.tile_m} must be a multiple of {SIDE}'
  if config.tile_k % SIDE or depth % config.tile_k:
    return f'tile_k={config.tile_k} must be a multiple of {SIDE} that divides {depth}'
  if config.warpgroups not in ACCUMULATORS or rows * columns > ACCUMULATORS[config.warpgroups]:
    return (f'{config.warpgroups} warpgroups that hold {rows} x {columns} float32 sums each do not '
            'fit into the registers')
  needed = shared_bytes(operation, config, problem)
  if needed > SHARED_BYTES:
    return f'it takes {needed} bytes of shared memory of {SHARED_BYTES}; take fewer stages'
  return None


def config_for(operation: str, problem: Problem) -> Config:
  """Returns the configuration of the device's table for this product, or the heuristic's."""
  table = table_for(problem.device_kind)
  near = [(abs(math.log(m / problem.m)), config) for (name, block, m), config in table.items()
          if name == operation and block == problem.block]
  if near:
    config = min(near, key=lambda found: found[0])[1]
    if why_not(operation, config, problem) is None:
      return config
  return heuristic(operation, problem)


def heuristic(operation: str, problem: Problem) -> Config:
  """Returns a configuration that fits, by counting tiles: enough of them, and otherwise large ones.

  A tile of r rows and c columns reads (r + c) numbers for r c products, so it pays to be large; but
  each multiprocessor should get some of them, and few rows should not be padded much.
  """
  if operation == 'weight_gradient':
    return _gradient_heuristic(problem)
  walk = problem if operation == 'matmul' else problem.transposed
  tile_n = tile_of(walk.block[1])
  columns = walk.grid[1] * walk.block[1] // tile_n
  inputs = walk.grid[0] * walk.block[0]
  choices = [(2, 128), (2, 64), (1, 64)]
  for warpgroups, tile_m in choices:
    rows = warpgroups * tile_m
    tiles = -(-problem.m // rows) * columns
    if 2 * tiles >= 3 * multiprocessors(problem.device_kind) and rows <= problem.m:
      break
  else:
    warpgroups, tile_m = (2, 64) if problem.m > SIDE else (1, 64)
  rows = warpgroups * tile_m
  config = Config(tile_m, warpgroups, row_group=max(1, CACHE_BYTES // (2 * rows * inputs)))
  return _with_stages(operation, config, problem)


def _gradient_heuristic(problem: Problem) -> Config:
  stacked = 128 // tile_of(problem.block[0])
  warpgroups = 2
  tiles = (-(-problem.entries // (stacked * warpgroups)) * math.prod(problem.block)
           // (tile_of(problem.block[0]) * tile_of(problem.block[1])))
  # Cutting the rows costs a pass over the sums for each part: at most 4, of 8 steps at least.
  wanted = -(-2 * multiprocessors(problem.device_kind) // tiles)
  split = max(1, min(wanted, 4, problem.m // (8 * SIDE)))
  return _with_stages('weight_gradient', Config(stacked, warpgroups, split=split), problem)


def _with_stages(operation: str, config: Config, problem: Problem) -> Config:
  for stages in (6, 5, 4, 3, 2):
    config = config._replace(stages=stages)
    if why_not(operation, config, problem) is None:
      return config
  raise AssertionError(f'no configuration fits {problem}: {why_not(operation, config, problem)}')


Key = tuple[str, tuple[int, int], int]


def to_json(configs: dict[Key, Config], device: str, provenance: Mapping[str, Any]) -> str:
  """Returns a table as a file's text; `provenance` says when and with what it was measured."""
  rows = [{'operation': operation, 'block': list(block), 'm': m, **config._asdict()}
          for (operation, block, m), config in sorted(configs.items())]
  contents = {'format_version': FORMAT_VERSION, 'device': device, 'provenance': dict(provenance),
              'configs': rows}
  return json.dumps(contents, indent=1) + '\n'


def from_json(text: str) -> dict[Key, Config]:
  """Reads what `to_json` wrote.

  Raises:
    ValueError: for another version of the format, or fields that are not known.
  """
  contents = json.loads(text)
  if contents.get('format_version') != FORMAT_VERSION:
    raise ValueError(f'the table of tiles has format version {contents.get("format_version")}, not '
                     f'{FORMAT_VERSION}; measure it again: python -m '
                     'benchmarks.hopper_block_sparse --stage=check_and_tune')
  configs: dict[Key, Config] = {}
  for row in contents['configs']:
    fields = dict(row)
    b_in, b_out = fields.pop('block')
    key = (fields.pop('operation'), (b_in, b_out), fields.pop('m'))
    if set(fields) != set(Config._fields):
      raise ValueError(f'the row of {key} has the fields {sorted(fields)}, not '
                       f'{sorted(Config._fields)}')
    configs[key] = Config(**fields)
  return configs


def table_name(device_kind: str) -> str:
  """Returns the file name of a device's table."""
  return f'hopper_{device_kind.lower().replace(" ", "_")}.json'


@functools.cache
def table_for(device_kind: str) -> dict[Key, Config]:
  """Returns the shipped table of a device, empty where none was measured."""
  file = importlib.resources.files('sparsejax.kernels.block_sparse') / 'tables' / (
      table_name(device_kind))
  return from_json(file.read_text()) if file.is_file() else {}
