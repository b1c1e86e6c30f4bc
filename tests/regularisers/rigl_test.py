"""RigL against a NumPy loop of the paper's algorithm, and in the trainer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.models.lenet import MLP
from sparsejax.training import fit

RNG = np.random.default_rng(9)


def paper(live, values, grads, moved):
  """Algorithm 1 on flat lists of places, without ties: the new live places."""
  places = sorted(np.flatnonzero(live), key=lambda i: abs(values[i]))
  survivors = set(places[moved:])
  free = sorted(set(range(len(values))) - survivors, key=lambda i: -abs(grads[i]))
  return survivors | set(free[:moved])


def test_updates_are_those_of_the_paper():
  method = sparsejax.rigl(0.4, fraction=0.5, every=2, end=8)
  params, state = method.init(jax.random.key(0), {'w': jnp.ones((5, 12))})
  update = jax.jit(method.update)
  returned = 0
  for step in range(10):
    live = np.asarray(state['mask']['w']).reshape(-1)
    values = np.where(live, RNG.normal(size=60), 0).astype(np.float32)
    grads = RNG.normal(size=60).astype(np.float32)
    params, after = update({'w': values.reshape(5, 12)}, state, step=jnp.int32(step),
                           weight_grads={'w': grads.reshape(5, 12)})
    taken = step + 1
    decayed = 0.25 * (1 + np.cos(np.pi * min(taken / 8, 1)))
    # One rounding in float32 of a cosine near -1 at the end of the decay.
    np.testing.assert_allclose(after['fraction'], decayed, atol=1e-7)
    wanted = set(np.flatnonzero(live))
    if taken % 2 == 0 and taken < 8:
      wanted = paper(live, values, grads, round(decayed * 24))    # 24 of 60 are live
      dropped = set(sorted(np.flatnonzero(live), key=lambda i: abs(values[i]))[
          :round(decayed * 24)])
      returned += len(dropped & wanted)
    new = np.asarray(after['mask']['w']).reshape(-1)
    assert set(np.flatnonzero(new)) == wanted
    np.testing.assert_array_equal(np.asarray(params['w']).reshape(-1),
                                  np.where(live & new, values, 0))
    state = after
  assert returned > 0     # some of what was dropped had the larger gradients


def test_training_grows_the_inputs_that_matter():
  # Only the first 3 of 24 pixels tell the class; the random mask starts with few of them.
  images = RNG.integers(0, 256, (120, 4, 6, 1)).astype(np.uint8)
  informative = images.reshape(120, -1)[:, :3].astype(np.float64) @ np.array([1, -2, 1])
  labels = (informative > 0).astype(np.int32)
  method = sparsejax.partition(kernel=('head/kernel', sparsejax.rigl(0.15, every=5, end=40)))
  recipe = fit.Recipe(MLP((), 2), method, optax.adam(0.02), 120, 60)
  state = fit.start(recipe, jax.random.key(3), images)

  def informed(state):
    return np.asarray(state.method_state['kernel']['mask']['head']['kernel'])[:3].sum()
  started, epoch = informed(state), fit.jit_epoch(recipe)
  for _ in range(25):
    state, losses = epoch(state, jnp.asarray(images), jnp.asarray(labels))
  assert np.all(np.isfinite(losses))
  assert started <= 2 and informed(state) >= 5
  deployed = sparsejax.finalise(method, state.params, state.method_state)
  assert (deployed['head']['kernel'] != 0).sum() == 7      # round(0.15 * 48)


def test_an_update_without_gradients_is_refused():
  method = sparsejax.rigl(0.5, every=1, end=9)
  params, state = method.init(jax.random.key(0), {'w': jnp.ones((4, 4))})
  assert method.needs_weight_grads
  with pytest.raises(ValueError, match='rigl grows weights by their gradients; give update'):
    method.update(params, state, step=0, key=jax.random.key(0))
