"""The cost table on made-up machines whose costs are known."""
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.kernels.block_sparse import block_sparse_matmul, cost, xla
from sparsejax.kernels.block_sparse.arg_specs import MIXED, arguments
from sparsejax.kernels.block_sparse.backend import Problem

SIDES, ROWS = (8, 32, 128), (1, 64, 512)
SIZES = (2**16, 2**20, 2**24)
PROBLEM = Problem(100, (16, 64), (20, 10), 50, 'float32', 'cpu')


def power(a, b, scale=1.0):
  return lambda first, second: scale * first**a * second**b


def grid(law, firsts, seconds):
  return {(f, s): law(f, s) for f in firsts for s in seconds}


def table(per_entry=1e-3, dense=1e-6, cold=1.0):
  """A machine where an entry costs per_entry * side^1.5 * rows and a dense product per work.

  From 2^24 bytes on an entry costs `cold` times what it costs up to 2^20.
  """
  keys = [(operation, form) for operation in cost.OPERATIONS for form in (
      xla.GRADIENT_FORMS if operation == 'weight_gradient' else xla.FORMS)]
  # Forms in order cost more and more.
  factor = {form: 1 + i for i, form in enumerate(xla.FORMS)}
  return cost.Table(
      'a made-up machine', 1000, 2**20, 2**24,
      {key: grid(power(0, 0.5, 2.0 * factor[key[1]]), SIDES, ROWS) for key in keys},
      {key: grid(power(1.5, 1, per_entry * factor[key[1]]), SIDES, ROWS) for key in keys},
      {key: grid(power(1.5, 1, cold * per_entry * factor[key[1]]), SIDES, ROWS) for key in keys},
      {operation: grid(power(1, 1, dense), SIZES, ROWS) for operation in cost.OPERATIONS},
      {operation: grid(power(1, 1, 2 * dense), SIZES, ROWS) for operation in cost.OPERATIONS})


@pytest.mark.parametrize('at', [(8, 1), (8, 64), (20, 64), (11.3, 200), (128, 512), (32, 30)])
def test_a_power_law_is_interpolated_exactly(at):
  law = power(1.5, 0.7, 3.0)
  assert cost.interpolate(grid(law, SIDES, ROWS), at, 2) == pytest.approx(law(*at), rel=1e-12)


def test_beyond_the_grid_time_grows_with_the_work_and_below_it_the_edge_stands():
  points = grid(power(1.5, 0.7, 3.0), SIDES, ROWS)
  edge = points[128, 512]
  assert cost.interpolate(points, (256, 512), 2) == pytest.approx(edge * 4, rel=1e-12)
  assert cost.interpolate(points, (256, 1024), 2) == pytest.approx(edge * 8, rel=1e-12)
  assert cost.interpolate(points, (256, 512), 0) == pytest.approx(edge, rel=1e-12)
  assert cost.interpolate(points, (4, 1), 2) == pytest.approx(points[8, 1], rel=1e-12)


def test_one_point_is_a_grid():
  assert cost.interpolate({(8, 16): 5.0}, (8, 16), 1) == pytest.approx(5.0, rel=1e-12)


def test_predictions_are_those_of_the_machine():
  made = table()
  side = math.sqrt(16 * 64)
  # Inputs + outputs are 20 * 16 + 10 * 64 = 960 of the 1000 measured.
  wanted = 2.0 * 100**0.5 * 960 / 1000 + 1e-3 * side**1.5 * 100 * 50
  assert made.sparse_microseconds('matmul', 'gather', PROBLEM) == pytest.approx(wanted, rel=1e-9)
  work = 320 * 640 * 100
  assert made.dense_microseconds('matmul', PROBLEM, False) == pytest.approx(1e-6 * work, rel=1e-9)
  assert made.dense_microseconds('matmul', PROBLEM, True) == pytest.approx(2e-6 * work, rel=1e-9)


@pytest.mark.parametrize('entries, factor', [(2**4, 1), (2**12, 1), (2**14, 2), (2**16, 4),
                                             (2**19, 4)])
def test_blocks_beyond_the_caches_cost_more_by_the_logarithm_of_their_bytes(entries, factor):
  # A block of 8 x 8 float32 has 2^8 bytes: the caches hold 2^12 of them, a fourfold cost begins at
  # 2^16, and the geometric middle costs its square root.
  problem = Problem(100, (8, 8), (20, 10), entries, 'float32', 'cpu')
  warm, cold = (table(cold=c).sparse_microseconds('matmul', 'scan', problem) for c in (1.0, 4.0))
  fixed = table(per_entry=1e-30).sparse_microseconds('matmul', 'scan', problem)
  assert (cold - fixed) / (warm - fixed) == pytest.approx(factor, rel=1e-9)


def test_json_brings_the_table_back():
  made = table()
  text = cost.to_json(made, commit='abc')
  assert json.loads(text)['provenance'] == {'commit': 'abc'}
  back = cost.from_json(text)
  assert back.device == made.device and back.width == made.width
  assert (back.warm_bytes, back.cold_bytes) == (made.warm_bytes, made.cold_bytes)
  for name in cost.GRIDS:
    before, after = getattr(made, name), getattr(back, name)
    assert before.keys() == after.keys()
    for key in before:
      assert before[key].keys() == after[key].keys()
      for at, value in before[key].items():
        assert after[key][at] == pytest.approx(value, abs=5.1e-5)     # written to four digits


def test_another_version_of_the_format_is_refused():
  text = cost.to_json(table()).replace('"format_version":2', '"format_version":7')
  with pytest.raises(ValueError, match='format version 7, not 2; measure it again: python -m'):
    cost.from_json(text)


def test_the_cheapest_form_wins_and_dense_where_it_pays(monkeypatch):
  monkeypatch.setattr(cost, 'table_for', lambda *device: table())
  for operation in cost.OPERATIONS:
    assert cost.best_form(operation, PROBLEM) == 'gather'
    assert cost.dense_pays(operation, PROBLEM) and cost.dense_pays(operation, PROBLEM,
                                                                   scatter=False)
  # Between the cost of dense alone (20 us) and with the scatter (41 us) lies the sparse one.
  monkeypatch.setattr(cost, 'table_for', lambda *device: table(per_entry=1e-5))
  sparse = table(per_entry=1e-5).sparse_microseconds('matmul', 'gather', PROBLEM)
  assert 20.5 < sparse < 40.9
  assert not cost.dense_pays('matmul', PROBLEM)
  assert cost.dense_pays('matmul', PROBLEM, scatter=False)


def test_forms_whose_scratch_is_unbounded_are_out():
  large = PROBLEM._replace(m=10**6)
  assert xla.scratch_bytes(large) == 4 * 50 * 10**6 * 80
  assert cost.xla_forms('matmul', large) == ('scan', 'scan_t')
  assert cost.xla_forms('weight_gradient', large) == ('scan',)
  assert set(cost.xla_forms('matmul', PROBLEM)) == {'gather', 'gather_t', 'scan', 'scan_t'}


def test_a_device_without_a_table_goes_by_density():
  half = PROBLEM._replace(platform='no such', entries=100)
  assert cost.table_for('no such', 'Device 1') is None
  assert not cost.dense_pays('matmul', half)
  assert cost.dense_pays('matmul', half._replace(entries=101))


@pytest.mark.parametrize('platform', ['tpu', 'gpu'])
def test_small_blocks_count_as_the_tiles_they_take_up(platform):
  # 20 x 20 blocks of 8 x 8; a half is 12,800 entries: 0.8 tiles of 128 x 128, 3.1 of 64 x 64.
  problem = Problem(8, (8, 8), (20, 20), 1, 'float32', platform, 'no such')
  fits = 160 * 160 // 2 // {'tpu': 128, 'gpu': 64}[platform] ** 2
  assert cost.dense_pays('matmul', problem._replace(entries=fits + 1))
  if fits:
    assert not cost.dense_pays('matmul', problem._replace(entries=fits))


@pytest.mark.parametrize('dense, taken', [(1e-9, True), (1e3, False)])
def test_what_the_table_says_is_what_runs(dense, taken, monkeypatch):
  monkeypatch.setattr(cost, 'table_for', lambda *device: table(dense=dense))
  args = arguments(MIXED, integers=True)
  text = str(jax.make_jaxpr(lambda x, w: block_sparse_matmul(x, w))(args.x, args.weight))
  # Only the dense product multiplies by the whole padded matrix, 80 x 120.
  assert ('f32[80,120]' in text) is taken
  y = block_sparse_matmul(args.x, args.weight)
  np.testing.assert_array_equal(np.asarray(y), np.asarray(args.x, np.float64) @ args.dense)
  assert y.dtype == jnp.float32
