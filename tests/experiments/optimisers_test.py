"""Learning rates by path and moments that start anew."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from experiments import build, optimisers

PARAMS = {'weights': {'weight': {'kernel': jnp.ones((2, 3))},
                      'mixture': {'means': jnp.ones(3), 'log_precisions': jnp.ones(4),
                                  'log_mixing': jnp.ones(3)}}}
CONFIG = ml_collections.ConfigDict({
    'name': 'adam', 'learning_rate': 5e-4,
    'groups': {
        'means': {'leaves': '.*/mixture/means', 'learning_rate': 1e-4},
        'shapes': {'leaves': '.*/mixture/log_.*', 'learning_rate': 3e-3},
    },
})


def test_first_step_of_adam_is_the_learning_rate_of_each_group():
  rule = build.optimiser(CONFIG, 10)
  grads = jax.tree.map(lambda leaf: 0.01 * leaf, PARAMS)
  updates, _ = rule.update(grads, rule.init(PARAMS), PARAMS)
  found = jax.tree.map(lambda leaf: float(leaf.reshape(-1)[0]), updates)['weights']
  # the ratio 5 : 1 : 30 : 30 of Ullrich et al.'s script; Adam's epsilon is 1e-8 of 0.01
  for value, rate in ((found['weight']['kernel'], 5e-4), (found['mixture']['means'], 1e-4),
                      (found['mixture']['log_precisions'], 3e-3),
                      (found['mixture']['log_mixing'], 3e-3)):
    np.testing.assert_allclose(value, -rate, rtol=1e-5)


def test_groups_that_do_not_fit_are_named():
  rule = build.optimiser(ml_collections.ConfigDict(
      {'name': 'adam', 'learning_rate': 0.1, 'groups': {'a': {'leaves': 'nothing'}}}), 1)
  with pytest.raises(ValueError, match="rule 'a' .'nothing'. matches no parameter"):
    rule.init(PARAMS)
  with pytest.raises(ValueError, match='groups.a needs leaves'):
    build.optimiser(ml_collections.ConfigDict(
        {'name': 'adam', 'learning_rate': 0.1, 'groups': {'a': {'learning_rate': 0.2}}}), 1)
  with pytest.raises(ValueError, match='has no field'):
    build.optimiser(ml_collections.ConfigDict(
        {'name': 'adam', 'learning_rate': 0.1, 'groups': {'a': {'leaves': '.*', 'rate': 1}}}), 1)
  with pytest.raises(ValueError, match="'free' is reserved"):
    optimisers.grouped(optax.sgd(0.1), {'free': ('.*', optax.sgd(0.1))})
  with pytest.raises(ValueError, match='restart_epoch=0 is no whole step'):
    build.optimiser(ml_collections.ConfigDict(
        {'name': 'adam', 'learning_rate': 0.1, 'restart_epoch': 0}), 10)


def test_restart_forgets_moments_and_keeps_schedules():
  schedule = optax.linear_schedule(1.0, 0.0, 10)
  restarted = optimisers.restarted(optax.adam(schedule), 3)
  params = jnp.ones(2)
  state, step = restarted.init(params), jax.jit(restarted.update)
  for _ in range(3):
    _, state = step(jnp.array([1.0, -2.0]), state, params)
  updates, state = step(jnp.array([1e-3, 1e-3]), state, params)
  # A fresh Adam takes a step of the learning rate, which is 0.7 after three steps.
  np.testing.assert_allclose(updates, -0.7, rtol=1e-4)
  assert state.taken == 4
