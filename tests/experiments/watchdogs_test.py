"""What watchdogs tell of made-up runs, and that they keep quiet about sound ones."""
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from experiments import watchdogs


def config(method, epochs=40, **fields):
  return ml_collections.ConfigDict({'epochs': epochs, 'regulariser': {
      'own': {'leaves': 'dense[01]/kernel', 'method': method, 'strength': 0.1, **fields}}})


def rows(**densities):
  """Rows from densities by epoch, {'e4': 0.5}; another rule's kernel is dense in all of them."""
  return [{'epoch': int(epoch[1:]), 'density/dense0/kernel': value, 'density/dense1/kernel': value,
           'density/head/kernel': 1.0} for epoch, value in densities.items()]


def gates(value):
  return {'own': {'log_alpha': {'dense0': {'kernel': jnp.full((20, 1), value)}}}}


def posterior(log_alpha):
  theta = np.full((5, 4), 0.1, np.float32)
  return {'own': {'theta': {'dense0': {'kernel': theta}}, 'log_sigma2': {
      'dense0': {'kernel': log_alpha + 2 * np.log(theta)}}}}


GATES, VARIATIONAL = 'l0_hard_concrete', 'sparse_variational_dropout'


@pytest.mark.parametrize('method, seen, params, message', [
    (GATES, rows(e10=1.0, e20=1.0), gates(0.0),
     r"rule 'own': no gate has closed in 20 of 40 epochs; raise its strength \(0.1\)"),
    (VARIATIONAL, rows(e2=0.5, e4=0.01), posterior(2.0),
     "rule 'own': its KL left 1 % of the weights after 4 of 40 epochs"),
    (GATES, rows(e10=0.9), gates(np.log(100.0)),
     "rule 'own': after 10 of 40 epochs 100 % of its log alphas are past 4.61"),
    (VARIATIONAL, rows(e10=0.9), posterior(-9.0),
     'after 10 of 40 epochs 100 % of its log alphas are past -8, .*; raise init_log_sigma2'),
])
def test_what_went_wrong_is_named(method, seen, params, message):
  found = watchdogs.warnings(config(method), seen, params)
  assert len(found) == 1
  with pytest.raises(ValueError, match=message):
    raise ValueError(found[0])


@pytest.mark.parametrize('method, seen, params', [
    (GATES, rows(e10=1.0, e19=1.0), gates(0.0)),               # half of the epochs are not over
    (GATES, rows(e10=1.0, e20=0.99), gates(0.0)),
    (GATES, rows(e10=0.1, e40=0.01), gates(-np.log(100.0))),    # shut gates rest at their bound
    (VARIATIONAL, rows(e4=0.5, e5=0.01), posterior(9.0)),       # later it may
    (VARIATIONAL, rows(e9=0.9), posterior(-9.0)),
    ('magnitude_pruning', rows(e1=0.0, e40=1.0), {'own': {}}),
    (GATES, [], gates(np.log(100.0))),
])
def test_sound_runs_are_let_alone(method, seen, params):
  assert watchdogs.warnings(config(method), seen, params) == []


def test_bounds_are_those_of_the_rule():
  seen = rows(e10=0.9)
  assert watchdogs.warnings(config(GATES, clamp=None), seen, gates(9.0)) == []
  assert watchdogs.warnings(config(VARIATIONAL, clip=None), seen, posterior(-9.0)) == []
  assert len(watchdogs.warnings(config(VARIATIONAL, clip=3.0), seen, posterior(-4.0))) == 1
