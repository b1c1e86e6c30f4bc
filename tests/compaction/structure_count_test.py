"""Counting on toy networks with known zeros, by hand, and that what is gone changes no output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sparsejax.compaction.structure_count import structure_count
from sparsejax.paths import flatten


class Net(nn.Module):
  layers: int = 1

  @nn.compact
  def __call__(self, tokens):
    x = nn.Embed(5, 3, name='embed')(tokens)
    for layer in range(self.layers):
      x = nn.RNN(nn.LSTMCell(4, name=f'cell{layer}'), name=f'rnn{layer}')(x)
    return nn.Dense(2, name='head')(x)


TOKENS = jnp.array([[0, 1, 2, 3, 4, 0]])


def full(net=Net()):
  """Weights without a zero, as NumPy arrays."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(net.init, jax.random.key(0), TOKENS)['params']
  return jax.tree.map(lambda leaf: rng.uniform(0.5, 1.0, leaf.shape), shapes)


def masked():
  """A network of which is left what the tests below say."""
  w = full()
  embed, cell, head = w['embed']['embedding'], w['cell0'], w['head']['kernel']
  embed[[1, 4]] = 0                            # two words
  embed[:, 0] = 0                              # an input whose column is empty
  for k in 'ifgo':
    cell[f'i{k}']['kernel'][1] = 0             # an input that no gate reads
    cell[f'h{k}']['kernel'][3] = 0             # a hidden unit that no gate reads ...
  head[3] = 0                                  # ... nor the output layer
  head[2] = 0                                  # this one is read by the gates
  for side in 'ih':
    cell[f'{side}o']['kernel'][:, 0] = 0       # output gate of unit 0 is constant
    cell[f'{side}g']['kernel'][:, 3] = 0       # a gate of a unit that is gone
  return w


def test_full_network():
  count = structure_count(full())
  assert count.counts() == {'words': (5, 5), 'inputs': (3, 3), 'hidden': (4, 4), 'gates': (16, 16)}
  assert count.total == count.remaining == 5 * 3 + 4 * (3 * 4 + 4 * 4) + 4 * 2
  assert count.compression == 1.0


def test_known_zeros_by_hand():
  count = structure_count(masked())
  np.testing.assert_array_equal(count.words, [True, False, True, True, False])
  np.testing.assert_array_equal(count.inputs, [False, False, True])
  np.testing.assert_array_equal(count.hidden['cell0'], [True, True, True, False])
  np.testing.assert_array_equal(count.gates['cell0']['o'], [False, True, True, False])
  np.testing.assert_array_equal(count.gates['cell0']['g'], [True, True, True, False])
  assert count.counts()['gates'] == (11, 16)
  # Embedding: 3 words of 1 input. Gates i, f, g: (1 + 3) rows of 3 units, o of 2. Output: 2 rows.
  assert count.remaining == 3 * 1 + 3 * 4 * 3 + 4 * 2 + 2 * 2
  assert count.compression == count.total / count.remaining == 135 / 51


def test_what_is_gone_changes_no_output():
  weights = masked()
  count = structure_count(weights)
  cut = jax.tree.map(np.copy, weights)
  cut['embed']['embedding'][~count.words] = 0
  cut['embed']['embedding'][:, ~count.inputs] = 0
  dead = ~count.hidden['cell0']
  for name, layer in cut['cell0'].items():
    layer['kernel'][:, dead] = 0
    layer['kernel'][dead if name[0] == 'h' else ~count.inputs] = 0
    if 'bias' in layer:
      layer['bias'][dead] = 0
  cut['head']['kernel'][dead] = 0
  counted = sum(np.count_nonzero(leaf) for path, leaf in flatten(cut).items() if 'bias' not in path)
  assert counted == count.remaining
  run = jax.jit(lambda w: Net().apply({'params': w}, TOKENS))
  as_floats = [jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), w) for w in (weights, cut)]
  np.testing.assert_allclose(run(as_floats[0]), run(as_floats[1]), rtol=1e-6)


def test_a_unit_lives_as_long_as_the_next_layer_reads_it():
  w = full(Net(2))
  for k in 'ifgo':
    w['cell0'][f'h{k}']['kernel'][0] = 0
    w['cell0'][f'h{k}']['kernel'][1] = 0
    w['cell1'][f'i{k}']['kernel'][1] = 0
  count = structure_count(w)
  np.testing.assert_array_equal(count.hidden['cell0'], [True, False, True, True])
  assert count.hidden['cell1'].all() and count.counts()['hidden'] == (7, 8)


def test_nothing_left_and_no_embedding():
  empty = jax.tree.map(np.zeros_like, full())
  assert structure_count(empty).compression == float('inf')
  count = structure_count({'cell0': full()['cell0']}, embedding=None, head=None)
  assert count.words is None and 'words' not in count.counts()
  assert count.hidden['cell0'].all()      # who reads the states is not known
  assert count.total == 4 * (3 * 4 + 4 * 4)


def test_patterns_that_match_nothing_are_named():
  with pytest.raises(ValueError, match="head='out/kernel' matches 0 parameters .*head=None"):
    structure_count(full(), head='out/kernel')
  with pytest.raises(ValueError, match="cells='layer' matches no recurrent cell"):
    structure_count(full(), cells='layer')
