"""Kernels of recurrent cells are found by Flax's names, in the order of the layers."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from sparsejax.cell_paths import cell_kernels
from sparsejax.paths import flatten


@pytest.mark.parametrize('cell, letters', [
    (nn.LSTMCell, 'ifgo'), (nn.OptimizedLSTMCell, 'ifgo'), (nn.GRUCell, 'rzn'),
    (nn.SimpleCell, ('',))])
def test_kernels_of_the_stock_cells_are_found(cell, letters):
  model = nn.RNN(cell(3))           # names its cell 'cell'
  weights = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 2, 4)))['params']
  found = cell_kernels(flatten(weights), r'cell\d*')
  (name, sides), = found.items()
  assert sides['i'] == {k: f'{name}/i{k}/kernel' for k in letters}
  assert sides['h'] == {k: f'{name}/h{k}/kernel' for k in letters}


def test_layers_are_ordered_by_their_numbers():
  paths = [f'cell{n}/{side}n/kernel' for n in (10, 2, 0) for side in 'ih'] + ['head/kernel']
  assert list(cell_kernels(paths)) == ['cell0', 'cell2', 'cell10']


def test_cells_that_are_not_there_are_named():
  with pytest.raises(ValueError, match=r"cells=.* matches no recurrent cell.*name=.cell0."):
    cell_kernels(['LSTMCell_0/ii/kernel', 'LSTMCell_0/hi/kernel'])
  with pytest.raises(ValueError, match=r"gates of cell0 have inputs \['f'\] and state \[\]"):
    cell_kernels(['cell0/if/kernel'])


def test_both_sides_list_the_gates_in_one_order():
  """A file returns its leaves in any order, and pictures put the two sides beside each other."""
  paths = [f'cell0/{side}{gate}/kernel' for side, gates in (('h', 'ogif'), ('i', 'figo'))
           for gate in gates]
  found = cell_kernels(paths)['cell0']
  assert list(found['i']) == list(found['h']) == ['i', 'f', 'g', 'o']
  assert found['h']['o'] == 'cell0/ho/kernel'
  gru = cell_kernels([f'cell0/{side}{gate}/kernel' for side in 'hi' for gate in 'nzr'])['cell0']
  assert list(gru['i']) == list(gru['h']) == ['r', 'z', 'n']
