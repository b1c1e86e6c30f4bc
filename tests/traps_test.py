"""Traps met while building this, those that no other test file holds."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import sparsejax
from sparsejax.models import MLP
from sparsejax.paths import flatten
from sparsejax.training.fit import Recipe


class Recurrent(nn.Module):
  """An LSTM over (batch, time, features) and a head; the cell is named only if asked for."""

  cell_name: str | None = 'lstm'

  @nn.compact
  def __call__(self, x):
    cell = nn.LSTMCell(6, name=self.cell_name)
    return nn.Dense(3, name='head')(nn.RNN(cell, name='rnn')(x)[:, -1])


def recurrent_weights(cell_name):
  return Recurrent(cell_name).init(jax.random.key(0), jnp.ones((2, 3, 4)))['params']


def test_a_cell_without_a_name_is_not_under_its_rnn():
  # Flax puts the cell's parameters beside the RNN, so a rule for 'rnn/...' must not match nothing
  # in silence.
  weights = recurrent_weights(None)
  assert set(weights) == {'LSTMCell_0', 'head'}
  rule = sparsejax.partition(cell=('rnn/.*kernel', sparsejax.l1(0.1)))
  message = "rule 'cell' .* matches no parameter; .*LSTMCell_0/hf/kernel"
  with pytest.raises(ValueError, match=message):
    rule.init(jax.random.key(0), weights)
  named = sparsejax.partition(cell=('lstm/.*kernel', sparsejax.l1(0.1)))
  assert 'cell' in named.init(jax.random.key(0), recurrent_weights('lstm'))[0]


def read_units(weights):
  """Returns which hidden units any recurrent kernel or the head reads, bool (units,)."""
  kernels = [leaf for path, leaf in flatten(weights).items()
             if path.endswith('kernel') and leaf.shape[0] == 6]
  assert len(kernels) == 5
  return np.any([np.any(np.asarray(kernel) != 0, axis=1) for kernel in kernels], axis=0)


def test_single_weights_of_an_lstm_die_without_its_units_and_tied_gates_take_units():
  weights, key = recurrent_weights('lstm'), jax.random.key(0)
  leaves = 'lstm/h./kernel|head/kernel'
  single = sparsejax.partition(weights=(leaves, sparsejax.sparse_variational_dropout()))
  params, state = single.init(key, weights)
  noise = jax.tree.map(lambda s: jnp.where(jax.random.uniform(key, s.shape) < 0.7, 10.0, -20.0),
                       params['weights']['log_sigma2'])
  params['weights']['log_sigma2'] = noise
  deployed = single.weights(params, state)
  assert np.mean([np.mean(np.asarray(leaf) == 0) for path, leaf in flatten(deployed).items()
                  if path.startswith('lstm/h') and path.endswith('kernel')]) > 0.5
  assert read_units(deployed).all()

  tied = sparsejax.partition(units=(leaves, sparsejax.l0_hard_concrete(0.1, tied=True)))
  params, state = tied.init(key, weights)
  (home, log_alpha), = flatten(params['units']['log_alpha']).items()
  params['units']['log_alpha'] = jax.tree.map(
      lambda a: a.at[2].set(-4.0).at[5].set(-4.0), params['units']['log_alpha'])
  assert home == 'head/kernel' and log_alpha.shape == (6, 1)
  assert read_units(tied.weights(params, state)).tolist() == [True, True, False, True, True, False]


def test_an_average_is_off_unless_asked_for():
  # It lags a fast pruning schedule, and changes what sparse VD keeps.
  recipe = Recipe(MLP((3,)), sparsejax.partition(), optax.sgd(0.1), num_terms=1, batch_size=1)
  assert recipe.ema_decay == 0.0


def test_another_strength_needs_no_other_program():
  regulariser = sparsejax.partition(all=('.*', sparsejax.l1(0.1)))
  params, state = regulariser.init(jax.random.key(0), {'w': jnp.ones((2, 2))})
  traced = []

  @jax.jit
  def penalty(params, state):
    traced.append(True)
    return regulariser.penalty(params, state)

  for strength in (0.1, 0.5, 2.0):
    state['all']['strength'] = jnp.float32(strength)
    np.testing.assert_allclose(penalty(params, state), 4 * strength, rtol=1e-6)
  assert len(traced) == 1


def test_nothing_of_ours_loads_clu_or_tensorflow():
  code = ("import sys, experiments.run; bad = {'clu', 'tensorflow', 'torch', 'jaxopt'} & "
          "set(sys.modules); assert not bad, bad")
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
