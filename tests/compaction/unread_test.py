"""What nobody reads becomes zero: by hand, against `compact`, and behind a flatten."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.compaction.compact import compact
from sparsejax.compaction.couplings import norm_writes
from sparsejax.compaction.unread import without_unread
from sparsejax.models.lenet import MLP, LeNet5Caffe
from sparsejax.paths import flatten


def test_a_unit_whose_readers_are_zero_is_zero_and_so_is_what_only_it_read():
  weights = {'dense0': {'kernel': np.ones((3, 4)), 'bias': np.ones(4)},
             'dense1': {'kernel': np.ones((4, 3)), 'bias': np.ones(3)},
             'head': {'kernel': np.array([[1.0, 0], [0, 0], [2, 3]]), 'bias': np.ones(2)}}
  weights['dense1']['kernel'][0] = [0, 5, 0]          # unit 0 is read by the unread unit 1 alone
  found = without_unread(jax.tree.map(jnp.asarray, weights), MLP((4, 3), 2).couplings())
  weights['dense1']['kernel'][:, 1] = 0
  weights['dense0']['kernel'][:, 0] = 0
  jax.tree.map(np.testing.assert_array_equal, found, weights)


@pytest.mark.slow  # the programs of a convolutional network
def test_a_network_keeps_its_function_and_the_compact_one_as_many_weights():
  rng = np.random.default_rng(0)
  model = LeNet5Caffe(widths=(3, 4, 5))
  x = jnp.asarray(rng.normal(size=(2, 28, 28, 1)), jnp.float32)
  weights = model.init(jax.random.key(0), x)['params']
  for name, axis in (('conv1', 2), ('dense', 0), ('head', 0)):
    kernel = weights[name]['kernel']
    gates = rng.uniform(size=kernel.shape[axis]) < 0.4
    # A bias of 0 and positive outputs keep units from being constant, which is the other rule.
    weights[name]['kernel'] = kernel * jnp.expand_dims(
        gates, [i for i in range(kernel.ndim) if i != axis])
  found = without_unread(weights, model.couplings({'params': weights}))
  assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, weights)
  np.testing.assert_array_equal(model.apply({'params': found}, x),
                                model.apply({'params': weights}, x))

  def kept(tree):
    return sum(int(jnp.sum(leaf != 0)) for leaf in flatten(tree).values() if leaf.ndim >= 2)
  small = compact(model, {'params': weights}).variables['params']
  assert kept(small) == kept(found) < kept(weights)


def test_what_is_no_weight_of_the_tree_is_passed_over():
  couplings = MLP((4,), 2).couplings()
  writes = (*couplings[-1].writes, *norm_writes('norm0', 'dense0/kernel'))
  normed = couplings[-1].__class__('dense0', writes, couplings[-1].reads)
  weights = {'dense0': {'kernel': jnp.ones((3, 4))},
             'head': {'kernel': jnp.ones((4, 2)).at[1].set(0)}}
  found = without_unread(weights, (couplings[0], normed))
  np.testing.assert_array_equal(found['dense0']['kernel'],
                                jnp.ones((3, 4)).at[:, 1].set(0))
