"""The papers' count of a recurrent network in the ledger, on weights whose zeros are known."""
import numpy as np

from experiments.structure import ledger_keys
from sparsejax import ledger
from sparsejax.ledger.schema import STRUCTURE_DENOMINATOR

CONFIG = {'model': {'name': 'recurrent_classifier'}}


def weights_of(head):
  """A GRU of 3 units on 2 inputs without a zero but for the given kernel of the output layer."""
  cell = {f'i{gate}': {'kernel': np.ones((2, 3)), 'bias': np.zeros(3)} for gate in 'rzn'}
  cell |= {f'h{gate}': {'kernel': np.ones((3, 3))} for gate in 'rzn'}
  return {'cell0': cell, 'head': {'kernel': np.asarray(head, float), 'bias': np.zeros(2)}}


def test_the_weights_of_a_unit_that_nothing_reads_are_taken_away():
  weights = weights_of([[1, 1], [0, 1], [0, 0]])
  for gate in 'rzn':
    weights['cell0'][f'h{gate}']['kernel'][2] = 0
  # Of each gate 2 x 2 weights of the inputs and 2 x 2 of the state are left, of the head 3.
  assert ledger_keys(CONFIG, weights) == {
      'structure_total': 3 * (6 + 9) + 6, 'structure_kept': 3 * (4 + 4) + 3,
      'compression_structure': 51 / 27,
      'compression_structure_denominator': STRUCTURE_DENOMINATOR}


def test_where_nothing_is_kept_there_is_no_ratio(ledger_of):
  weights = weights_of(np.zeros((3, 2)))
  for gate in 'rzn':
    weights['cell0'][f'h{gate}']['kernel'][:] = 0
  keys = ledger_keys(CONFIG, weights)
  assert keys == {'structure_total': 51, 'structure_kept': 0}
  ledger.validate(ledger_of() | keys)


def test_other_networks_have_no_such_count():
  assert ledger_keys({'model': {'name': 'mlp'}}, {'head': {'kernel': np.ones((2, 2))}}) == {}
