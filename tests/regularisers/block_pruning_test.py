"""Block pruning: the schedule against values worked by hand, masks and norms against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.kernels.block_sparse import BlockSparse, block_sparse_matmul
from sparsejax.paths import flatten
from sparsejax.regularisers.block_pruning import (block_pruning, dense_quantile, gated_blocks,
                                                  shrunken, slopes, threshold)

KEY = jax.random.key(0)
TIMES = {'start': 100, 'ramp': 200, 'end': 400, 'freq': 100}
NOW = {'start': 0, 'ramp': 1, 'end': 2, 'freq': 1}


def normal(*shape, seed=5):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def boxes(shape, block, gates=1):
  """Index boxes of the blocks of a matrix, none across two gates: rows x columns, as lists."""
  width = shape[1] // gates
  return [(slice(i, min(i + block[0], shape[0])),
           slice(gate * width + j, gate * width + min(j + block[1], width)))
          for gate in range(gates)
          for i in range(0, shape[0], block[0]) for j in range(0, width, block[1])]


def pruned_at(w, limit, block, gates=1):
  """The mask of one update whose threshold is `limit`."""
  # At these times theta is 2 q / (2 + 3), and so is the threshold in step 0.
  q = limit / (0.4 * (block[0] * block[1]) ** 0.25)
  method = block_pruning(q, block_size=block, gates=gates, **NOW)
  params, state = method.init(KEY, {'w': jnp.asarray(w)})
  _, state = method.update(params, state, step=0)
  return np.asarray(state['mask']['w'])


# --- the schedule ---------------------------------------------------------------------------------


def test_threshold_at_steps_worked_by_hand():
  theta, phi = slopes(1.0, **TIMES)
  assert (theta, phi) == (0.25, 0.375)           # 2 * 100 / (2 * 100 + 3 * 200)
  steps = jnp.array([0, 99, 100, 150, 199, 200, 300, 399, 400, 10_000])
  wanted = [0, 0, 0.0025, 0.1275, 0.25, 0.25625, 0.63125, 1.0025, 1.0025, 1.0025]
  np.testing.assert_allclose(threshold(steps, theta, phi, **TIMES), wanted, rtol=1e-6)


def test_slopes_at_other_numbers_worked_by_hand():
  theta, phi = slopes(0.3, start=10, ramp=30, end=50, freq=5, ratio=2.0)
  np.testing.assert_allclose((theta, phi), (0.03, 0.06))   # 2 * 0.3 * 5 / (2 * 20 + 3 * 20)
  # (0.03 * 21 + 0.06 * 20) / 5
  np.testing.assert_allclose(
      threshold(49, theta, phi, start=10, ramp=30, end=50, freq=5), 0.366, rtol=1e-6)


@pytest.mark.parametrize('ratio', [1.0, 1.5, 2.0])
def test_threshold_starts_at_zero_rises_has_no_jump_and_ends_at_q(ratio):
  theta, phi = slopes(0.7, ratio=ratio, **TIMES)
  values = np.asarray(threshold(jnp.arange(600), theta, phi, **TIMES), np.float64)
  gains = np.diff(values)
  assert np.all(values[:100] == 0) and np.all(gains >= 0)
  # No step gains more than one on each line together, at the joint itself.
  assert gains.max() <= (theta + phi) / TIMES['freq'] * (1 + 1e-4)
  if ratio == 1.5:
    assert abs(values[-1] - 0.7) <= theta / TIMES['freq'] * (1 + 1e-4)


def test_times_may_be_arrays():
  q, start = jnp.array([0.5, 1.0]), jnp.array([0, 100])
  theta, phi = slopes(q, start=start, ramp=200, end=400, freq=100)
  both = threshold(jnp.int32(250), theta, phi, start=start, ramp=200, end=400, freq=100)
  for i in range(2):
    times = {'start': int(start[i]), 'ramp': 200, 'end': 400, 'freq': 100}
    np.testing.assert_allclose(both[i], threshold(250, *slopes(float(q[i]), **times), **times),
                               rtol=1e-6)


# --- the mask -------------------------------------------------------------------------------------


@pytest.mark.parametrize('block, gates', [((1, 1), 1), ((2, 3), 1), ((4, 4), 1), ((3, 2), 2)])
def test_mask_keeps_the_blocks_whose_largest_entry_reaches_the_threshold(block, gates):
  w = normal(7, 10)                              # ragged for every block but 1 x 1
  covers = boxes(w.shape, block, gates)
  limit = np.median([np.abs(w[box]).max() for box in covers]) + 1e-4
  wanted = np.zeros(w.shape, bool)
  for box in covers:
    wanted[box] = np.abs(w[box]).max() >= limit
  assert 0 < wanted.mean() < 1
  np.testing.assert_array_equal(pruned_at(w, limit, block, gates), wanted)


def test_sparsity_does_not_fall_with_the_threshold():
  w = normal(9, 9)
  densities = [pruned_at(w, limit, (2, 2)).mean() for limit in (0.3, 0.9, 1.5, 9.0)]
  assert densities == sorted(densities, reverse=True) and densities[-1] == 0


@pytest.mark.parametrize('shape, block, gates', [
    ((5, 7), (2, 3), 1), ((4, 6), (4, 4), 3), ((2, 2, 3, 5), (4, 2), 1), ((1, 3), (8, 8), 1)])
def test_blocks_round_trip(shape, block, gates):
  w = jnp.asarray(normal(*shape))
  blocks = gated_blocks('w', shape, block, gates)
  np.testing.assert_array_equal(blocks.kernel(blocks.tiles(w)), w)
  assert float(jnp.sum(blocks.tiles(w) != 0)) == w.size


def test_threshold_of_blocks_grows_by_the_fourth_root_of_their_size():
  for block, factor in ((1, 1.0), (2, 2**0.5), (4, 2.0)):
    for q, kept in ((0.98 / factor, True), (1.02 / factor, False)):
      # In step 0 the threshold for single weights is 0.4 times the argument.
      method = block_pruning(q / 0.4, block_size=block, **NOW)
      params, state = method.init(KEY, {'w': jnp.ones((4, 4))})
      _, state = method.update(params, state, step=0)
      assert np.asarray(state['mask']['w']).all() == kept


def test_mask_changes_every_freq_steps_from_start_to_end_and_freezes():
  w = {'w': jnp.asarray(normal(20, 20))}
  method = block_pruning(1.5, start=3, ramp=6, end=9, freq=2)
  params, state = method.init(KEY, w)
  update = jax.jit(method.update)
  changed, before = [], 400
  for step in range(14):
    params, state = update(params, state, step=jnp.int32(step))
    live = int(state['mask']['w'].sum())
    if live != before:
      changed.append(step)
    before = live
    np.testing.assert_array_equal(np.asarray(params['w'])[~np.asarray(state['mask']['w'])], 0)
    # Frozen, although everything is now below the threshold.
    params = jax.tree.map(lambda leaf: leaf * 0.9, params)
  assert changed == [3, 5, 7]


@pytest.mark.parametrize('rule', [optax.sgd(0.1, momentum=0.9, nesterov=True), optax.adam(0.1),
                                  optax.adamw(0.1, weight_decay=0.1)], ids=['sgd', 'adam', 'adamw'])
def test_pruned_weights_are_exactly_zero_after_every_update(rule):
  method = block_pruning(0.3, start=2, ramp=4, end=6, freq=1, block_size=2)
  params, state = method.init(KEY, {'w': jnp.asarray(normal(8, 8))})
  optimiser = rule.init(params)

  @jax.jit
  def step(params, state, optimiser, number):
    # The gradient of the stored weights themselves: it pushes what is masked as well.
    grads = jax.tree.map(lambda w: w - 0.3, params)
    moves, optimiser = rule.update(grads, optimiser, params)
    params, state = method.update(optax.apply_updates(params, moves), state, step=number)
    return params, state, optimiser
  gone = np.zeros((8, 8), bool)
  for number in range(12):
    params, state, optimiser = step(params, state, optimiser, jnp.int32(number))
    dead = ~np.asarray(state['mask']['w'])
    assert np.all(dead[gone]) and np.all(np.asarray(params['w'])[dead] == 0)
    gone = dead
  assert 0 < gone.mean() < 1


def test_masked_product_equals_the_block_sparse_product():
  w = normal(10, 14)
  mask = pruned_at(w, 1.6, (4, 4))
  assert 0 < mask.mean() < 1
  masked, x = w * mask, jnp.asarray(normal(3, 10))
  packed = BlockSparse.from_dense(masked, (4, 4), pad=True)
  assert packed.density() < 1
  np.testing.assert_allclose(block_sparse_matmul(x, packed), np.asarray(x) @ masked,
                             rtol=1e-5, atol=1e-5)


# --- group lasso ----------------------------------------------------------------------------------


@pytest.mark.parametrize('block, gates', [((2, 3), 1), ((4, 4), 2)])
def test_group_lasso_equals_a_loop_over_blocks_and_so_does_its_gradient(block, gates):
  w = normal(6, 10)
  covers = boxes(w.shape, block, gates)
  w[covers[1]] = 0.0
  value, wanted = 0.0, np.zeros_like(w)
  for box in covers:
    norm = np.linalg.norm(w[box])
    value += 0.3 * norm
    if norm:
      wanted[box] = 0.3 * w[box] / norm
  method = block_pruning(0.1, block_size=block, gates=gates, group_lasso=0.3, **NOW)
  params, state = method.init(KEY, {'w': jnp.asarray(w)})
  found, grads = jax.value_and_grad(method.penalty)(params, state)
  np.testing.assert_allclose(found, value, rtol=1e-5)
  np.testing.assert_allclose(grads['w'], wanted, rtol=1e-5, atol=1e-7)
  norms = [np.linalg.norm(np.asarray(grads['w'])[box]) for box in covers]
  np.testing.assert_allclose(norms, [0.0 if i == 1 else 0.3 for i in range(len(norms))], rtol=1e-5)


@pytest.mark.debug_nans
def test_group_lasso_has_a_gradient_of_zero_at_zero():
  method = block_pruning(0.1, block_size=2, group_lasso=0.3, **NOW)
  params, state = method.init(KEY, {'w': jnp.zeros((4, 4))})
  grads = jax.grad(method.penalty)(params, state)
  np.testing.assert_array_equal(grads['w'], 0)


def test_group_lasso_is_blockwise_group_lasso_without_the_root_of_the_size():
  weights = {'w': jnp.asarray(normal(6, 8))}
  ours = block_pruning(0.0, block_size=(3, 4), group_lasso=0.3, **NOW)
  theirs = sparsejax.blockwise(sparsejax.group_lasso(0.3 / 12**0.5), (3, 4))
  # Its square root has an epsilon of 1e-12 inside.
  np.testing.assert_allclose(ours.penalty(*ours.init(KEY, weights)),
                             theirs.penalty(*theirs.init(KEY, weights)), rtol=1e-6)


def test_proximal_step_shrinks_each_norm_by_its_amount_and_no_further_than_zero():
  w = normal(6, 8)
  w[:2, :2] = 0.01                               # a norm of 0.02
  w[2:4, 2:4] = 0.0
  blocks = gated_blocks('w', w.shape, (2, 2))
  method = block_pruning(0.0, block_size=2, group_lasso=2.0, proximal_step=0.05, **NOW)
  params, state = method.init(KEY, {'w': jnp.asarray(w)})
  assert not np.any(jax.grad(method.penalty)(params, state)['w'])
  after = np.asarray(method.update(params, state, step=0)[0]['w'])
  np.testing.assert_array_equal(after, shrunken(blocks, jnp.asarray(w), 0.1))
  for box in boxes(w.shape, (2, 2)):
    norm = np.linalg.norm(w[box])
    np.testing.assert_allclose(np.linalg.norm(after[box]), max(norm - 0.1, 0), rtol=1e-5, atol=1e-6)
    assert norm > 0.1 or not np.any(after[box])
    if norm > 0.1:
      np.testing.assert_allclose(after[box] / w[box], np.full((2, 2), 1 - 0.1 / norm), rtol=1e-4)


# --- q, numbers in the state, errors --------------------------------------------------------------


def test_dense_quantile_is_the_percentile_of_each_kind_of_layer():
  weights = {'cell0': {'hi': {'kernel': normal(5, 5), 'bias': normal(5)},
                       'ho': {'kernel': normal(5, 5)}}, 'head': {'kernel': 3 * normal(5, 4)}}
  found = dense_quantile(weights, {'recurrent': 'cell./h./kernel', 'linear': 'head/kernel'}, 80)
  flat = flatten(weights)
  both = np.concatenate([flat['cell0/hi/kernel'].ravel(), flat['cell0/ho/kernel'].ravel()])
  assert np.mean(np.abs(both) < found['recurrent']) == 0.8
  assert np.mean(np.abs(flat['head/kernel']) < found['linear']) == 0.8
  with pytest.raises(ValueError, match='matches no parameter'):
    dense_quantile(weights, {'recurrent': 'gru/.*'})
  with pytest.raises(ValueError, match='percentile=101'):
    dense_quantile(weights, {'recurrent': 'cell.*'}, 101)


def test_a_population_has_thresholds_of_its_own():
  weights = {'w': jnp.asarray(normal(12, 12))}
  method = block_pruning(1.0, start=0, ramp=1, end=2, freq=1, block_size=3)
  params, state = method.init(KEY, weights)
  qs = jnp.array([0.0, 0.7, 9.0])   # thresholds of 1.4 * 3**0.5 times as much
  _, after = jax.vmap(lambda q: method.update(params, {**state, 'q': q}, step=1))(qs)
  live = np.asarray(after['mask']['w']).mean((1, 2))
  assert live[0] == 1 and 0 < live[1] < 1 and live[2] == 0


def test_bad_input_is_named():
  with pytest.raises(ValueError, match='start=5 <= ramp=3'):
    block_pruning(0.1, start=5, ramp=3, end=9)
  with pytest.raises(ValueError, match='q=-1'):
    block_pruning(-1.0, **NOW)
  with pytest.raises(ValueError, match='block_size=0'):
    block_pruning(0.1, block_size=0, **NOW)
  with pytest.raises(ValueError, match='hi/bias .* leave it out of the rule'):
    block_pruning(0.1, **NOW).init(KEY, {'hi': {'bias': jnp.zeros(4)}})
  with pytest.raises(ValueError, match='the 10 outputs of w .* are not 4 gates'):
    block_pruning(0.1, gates=4, **NOW).init(KEY, {'w': jnp.zeros((4, 10))})
