"""Tile sizes of the Hopper kernels: the budget by hand, the heuristic on many shapes, the file."""
import itertools
import json

import pytest

from sparsejax.kernels.block_sparse import hopper
from sparsejax.kernels.block_sparse.cost import OPERATIONS
from sparsejax.kernels.block_sparse.backend import Problem
from sparsejax.kernels.block_sparse.hopper import Config

H100 = 'NVIDIA H100 80GB HBM3'


def problem(m=2048, side=4096, block=128, density=0.1, kind=H100):
  rows = side // block
  return Problem(m, (block, block), (rows, rows), max(1, round(density * rows**2)), 'bfloat16',
                 'gpu', kind)


def test_shared_memory_by_hand():
  # Each of 4 stages: 2 x 128 rows and 128 columns, 64 deep, two bytes: 48 KiB. On its way out: two
  # tiles of 64 rows of 128 bytes for each of 2 warpgroups: 32 KiB.
  found = hopper.shared_bytes('matmul', Config(128, 2, 64, 4), problem())
  assert 0 <= found - (4 * 48 + 32) * 1024 <= 8192
  # The gradient stacks 2 entries a warpgroup: 4 x 64 columns of x and 64 of g.
  found = hopper.shared_bytes('weight_gradient', Config(2, 2, 64, 3), problem(block=64))
  assert 0 <= found - (3 * 5 * 64 * 64 * 2 + 32 * 1024) <= 8192


@pytest.mark.parametrize('operation', OPERATIONS)
def test_the_heuristic_fits_everywhere(operation):
  for m, side, block, density in itertools.product(
      (1, 64, 100, 2048, 100_000), (768, 4096), (64, 128, 192, 256), (0.02, 0.5)):
    shape = problem(m, side, block, density)
    config = hopper.config_for(operation, shape)
    assert hopper.why_not(operation, config, shape) is None
    assert hopper.shared_bytes(operation, config, shape) <= 227 * 1024
    assert config.stages >= 2


def test_few_rows_are_not_padded_much():
  for m in (1, 64, 100, 128):
    config = hopper.heuristic('matmul', problem(m))
    assert config.tile_m * config.warpgroups < m + 64


def test_many_rows_make_large_tiles():
  config = hopper.heuristic('matmul', problem(8192, 8192))
  assert config.tile_m * config.warpgroups == 256


@pytest.mark.parametrize('config, why', [
    (Config(128, stages=6), 'fewer stages'), (Config(96), 'multiple of 64'),
    (Config(128, tile_k=96), 'tile_k'), (Config(256), 'registers'),
    (Config(128, warpgroups=4), 'registers'), (Config(0), 'below 1'),
])
def test_what_does_not_fit_is_named(config, why):
  assert why in hopper.why_not('matmul', config, problem())


def test_a_table_is_read_back_and_its_nearest_row_wins(monkeypatch):
  near, far = Config(64, 1, 64, 3), Config(64, 2, 64, 2)
  table = {('matmul', (128, 128), 1024): near, ('matmul', (128, 128), 64): far}
  text = hopper.to_json(table, H100, {'jax': '0.0'})
  assert hopper.from_json(text) == table
  monkeypatch.setattr(hopper, 'table_for', lambda kind: hopper.from_json(text))
  assert hopper.config_for('matmul', problem()) == near
  assert hopper.config_for('transposed', problem()) == hopper.heuristic('transposed', problem())


def test_a_row_that_does_not_fit_gives_way_to_the_heuristic(monkeypatch):
  monkeypatch.setattr(hopper, 'table_for',
                      lambda kind: {('matmul', (128, 128), 2048): Config(128, stages=9)})
  assert hopper.config_for('matmul', problem()) == hopper.heuristic('matmul', problem())


def test_a_table_of_another_version_is_an_error():
  text = hopper.to_json({}, H100, {})
  with pytest.raises(ValueError, match='format version 99.*measure it again'):
    hopper.from_json(text.replace('"format_version": 1', '"format_version": 99'))
  rows = [{'operation': 'matmul', 'block': [64, 64], 'm': 1, 'speed': 3}]
  with pytest.raises(ValueError, match='speed'):
    hopper.from_json(json.dumps({'format_version': 1, 'device': '', 'configs': rows}))


def test_no_table_is_shipped_that_was_not_measured():
  assert hopper.table_for('NVIDIA no such device') == {}
  assert hopper.table_name(H100) == 'hopper_nvidia_h100_80gb_hbm3.json'


def test_multiprocessors_of_the_smaller_boards():
  assert hopper.multiprocessors('NVIDIA H100 PCIe') == 114
  assert hopper.multiprocessors('NVIDIA H20') == 78
  assert hopper.multiprocessors('NVIDIA H200') == hopper.multiprocessors(H100) == 132
