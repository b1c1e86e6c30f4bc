"""SET: what is dropped against NumPy, what is grown against the uniform distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax

RNG = np.random.default_rng(7)


def test_the_smallest_of_both_signs_go_and_none_of_them_returns():
  method = sparsejax.sparse_evolutionary_training({'w': 0.5}, fraction=0.25, every=1)
  params, state = method.init(jax.random.key(0), {'w': jnp.ones((10, 8))})
  live = np.asarray(state['mask']['w'])
  values = RNG.normal(size=(10, 8)).astype(np.float32)
  params, after = jax.jit(method.update)({'w': values}, state, step=0, key=jax.random.key(1))
  new = np.asarray(after['mask']['w'])
  smallest = np.sort(np.abs(values[live]))[:10]       # a quarter of 40
  np.testing.assert_array_equal(np.sort(np.abs(values[live & ~new])), smallest)
  assert (new & ~live).sum() == 10 and new.sum() == 40
  np.testing.assert_array_equal(params['w'], np.where(live & new, values, 0))


def test_every_dead_place_is_as_likely_to_grow():
  method = sparsejax.sparse_evolutionary_training(0.4, fraction=0.5, every=1)
  params, state = method.init(jax.random.key(0), {'w': jnp.ones((5, 6))})
  dead = ~np.asarray(state['mask']['w'])                # 18 of 30; 6 of the 12 live ones move

  def grown(key):
    return method.update(params, state, step=0, key=key)[1]['mask']['w'] & dead
  frequency = np.asarray(jax.jit(jax.vmap(grown))(
      jax.random.split(jax.random.key(2), 2000))).mean(0)[dead]
  # Binomial(2000, 1/3) / 2000 each; five standard deviations.
  assert np.abs(frequency - 1 / 3).max() < 5 * np.sqrt(2 / 9 / 2000)


def test_the_fraction_may_be_a_schedule():
  method = sparsejax.sparse_evolutionary_training(
      0.5, fraction=lambda step: 0.4 / (1 + step), every=1)
  params, state = method.init(jax.random.key(0), {'w': jnp.ones((10, 10))})
  assert state['fraction'] == np.float32(0.4)
  update = jax.jit(method.update)
  for step, moved in enumerate((10, 7, 5)):             # 0.4 / 2, / 3, / 4 of 50
    before = state['mask']['w']
    params, state = update(params, state, step=step, key=jax.random.key(step))
    assert np.sum(state['mask']['w'] & ~before) == moved


def test_an_update_without_key_is_refused():
  method = sparsejax.sparse_evolutionary_training(0.5, every=1)
  params, state = method.init(jax.random.key(0), {'w': jnp.ones((4, 4))})
  with pytest.raises(ValueError, match='grows weights at random; give update the key'):
    method.update(params, state, step=0)
