"""Blockwise methods against loops over slices of the kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.paths import flatten
from sparsejax.testing import check_regulariser, example_weights

KEY = jax.random.key(0)


def slices(kernel, block):
  matrix = np.asarray(kernel).reshape(-1, kernel.shape[-1])
  return [matrix[i:i + block[0], j:j + block[1]] for i in range(0, matrix.shape[0], block[0])
          for j in range(0, matrix.shape[1], block[1])]


def test_l0_gates_open_and_shut_whole_blocks():
  weights = example_weights(jax.random.key(1))
  method = sparsejax.blockwise(sparsejax.l0_hard_concrete(0.1), (4, 3))
  params, state = method.init(KEY, weights)
  # Block k of each leaf gets a gate of its own value; -5 and below are exactly 0 when deployed.
  logits = {path: np.linspace(-6, 6, a.size).reshape(a.shape)
            for path, a in flatten(params['log_alpha']).items()}
  assert {path: a.size for path, a in logits.items()} == {
      'dense0/kernel': 4, 'conv/kernel': 18, 'head/kernel': 4}
  params['log_alpha'] = sparsejax.paths.unflatten(logits)
  deployed = method.weights(params, state)
  for path, kernel in flatten(weights).items():
    gates = np.clip(1.2 / (1 + np.exp(-logits[path].reshape(-1))) - 0.1, 0, 1)
    for gate, got, given in zip(gates, slices(flatten(deployed)[path], (4, 3)),
                                slices(kernel, (4, 3))):
      np.testing.assert_allclose(got, gate * given, atol=1e-6)
  np.testing.assert_array_equal(deployed['dense0']['kernel'][:4, :3], 0)


def test_a_group_lasso_charges_each_block_of_the_kernel():
  weights = example_weights(jax.random.key(2))
  method = sparsejax.blockwise(sparsejax.group_lasso(0.3), (4, 2))
  # sqrt(8) for the entries of a block; float32 sums of 8 squares.
  wanted = 0.3 * np.sqrt(8) * sum(np.linalg.norm(block) for kernel in flatten(weights).values()
                                  for block in slices(kernel, (4, 2)))
  np.testing.assert_allclose(method.penalty(*method.init(KEY, weights)), wanted, rtol=1e-6)


def test_a_draw_drops_whole_blocks():
  weights = {'w': jnp.ones((8, 6))}
  method = sparsejax.blockwise(sparsejax.dropout(0.5, per='batch'), 2)
  params, state = method.init(KEY, weights)
  drawn = method.weights(params, state, jax.random.key(3))['w']
  values = [set(block.reshape(-1).tolist()) for block in slices(drawn, (2, 2))]
  assert all(value in ({0.0}, {2.0}) for value in values) and {0.0} in values and {2.0} in values


def test_gradients_of_the_weights_come_to_the_method_in_its_form():
  # RigL inside: it grows the weight whose gradient is largest, in the place of the kernel it has.
  method = sparsejax.blockwise(sparsejax.rigl({'w': 0.5}, fraction=0.25, every=1, end=99), (2, 3))
  assert method.needs_weight_grads
  params, state = method.init(KEY, {'w': jnp.ones((4, 6))})
  live = np.asarray(method.weights(params, state)['w']) != 0
  dead = tuple(np.argwhere(~live)[0])
  grads = np.zeros((4, 6), np.float32)
  grads[dead] = 9.0
  params, state = jax.jit(method.update)(params, state, step=0, weight_grads={'w': grads})
  params = jax.tree.map(jnp.ones_like, params)
  assert method.weights(params, state)['w'][dead] == 1.0


def test_it_goes_with_the_other_combinations():
  inner = sparsejax.blockwise(sparsejax.group_lasso(0.3), 2)
  weights = {'layers': {'kernel': jax.random.normal(KEY, (3, 8, 4))}}

  def oracle(params, state):
    del state
    blocks = params['layers']['kernel'].reshape(-1, 4)
    return 0.3 * 2 * np.linalg.norm(blocks, axis=1).sum()
  check_regulariser(sparsejax.stacked(inner), weights, oracle=oracle, oracle_tolerance=2e-5)


def test_masks_of_the_method_inside_stay_its_own_business():
  check_regulariser(sparsejax.blockwise(
      sparsejax.magnitude_pruning(0.5, granularity='row', every=3), 2))


def test_what_has_no_blocks_is_refused_by_name():
  method = sparsejax.blockwise(sparsejax.l0_hard_concrete(0.1), (2, 5))
  with pytest.raises(ValueError, match=r'2 x 5 do not divide dense0/kernel \(8, 6\)'):
    method.init(KEY, {'dense0': {'kernel': jnp.ones((8, 6))}})
  with pytest.raises(ValueError, match=r'dense0/bias \(6,\) with 0 input axes is no matrix'):
    method.init(KEY, {'dense0': {'bias': jnp.ones(6)}})
  for inner in (sparsejax.l0_hard_concrete(0.1, per='example'),
                sparsejax.sparse_variational_dropout(noise='local')):
    method = sparsejax.blockwise(inner, 2)
    params, state = method.init(KEY, {'w': jnp.ones((4, 4))})
    with pytest.raises(ValueError, match='draws a Ga.* at w, which has no blocks; use noise='):
      method.weights(params, state, KEY)
    assert method.weights(params, state)['w'].shape == (4, 4)
