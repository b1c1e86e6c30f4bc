"""Slicing of optimiser states, gates and averages along with the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.compaction.kept import Kept, slice_like

ROWS, COLUMNS = np.array([0, 2]), np.array([1, 2, 4])


def kept_of(**axes):
  """{path with '__' for '/': (shape, kept indices)}."""
  named = {path.replace('__', '/'): value for path, value in axes.items()}
  return Kept({p: k for p, (_, k) in named.items()}, {p: s for p, (s, _) in named.items()},
              {}, {}, (), ())


KEPT = kept_of(dense0__kernel=((4, 5), (ROWS, COLUMNS)), dense0__bias=((5,), (COLUMNS,)))


def matrix(offset=0.0):
  return jnp.arange(20.0).reshape(4, 5) + offset


def test_reads_as_a_mapping():
  assert set(KEPT) == {'dense0/kernel', 'dense0/bias'} and len(KEPT) == 2
  assert KEPT['dense0/bias'][0] is COLUMNS


def test_adam_over_a_partition():
  params = {'rule': {'weight': {'dense0': {'kernel': matrix()}},
                     'log_alpha': {'dense0': {'kernel': jnp.arange(4.0).reshape(4, 1)}}},
            'free': {'dense0': {'bias': jnp.arange(5.0)}}}
  optimiser = optax.adam(0.1)
  state = optimiser.init(params)
  _, state = optimiser.update(jax.tree.map(lambda p: p + 1, params), state, params)
  sliced = slice_like(state, KEPT)
  assert jax.tree.structure(sliced) == jax.tree.structure(state)
  assert sliced[0].count == 1
  for moment, before in ((sliced[0].mu, state[0].mu), (sliced[0].nu, state[0].nu)):
    weight, gate = (np.asarray(before['rule'][n]['dense0']['kernel']) for n in ('weight',
                                                                               'log_alpha'))
    np.testing.assert_array_equal(moment['rule']['weight']['dense0']['kernel'],
                                  weight[[0, 2]][:, [1, 2, 4]])
    np.testing.assert_array_equal(moment['rule']['log_alpha']['dense0']['kernel'], gate[[0, 2]])
    np.testing.assert_array_equal(moment['free']['dense0']['bias'],
                                  np.asarray(before['free']['dense0']['bias'])[[1, 2, 4]])
  # the sliced state goes on with the sliced parameters
  small = slice_like(params, KEPT)
  updates, _ = optimiser.update(small, sliced, small)
  assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, small)


def test_other_leaves_pass_unchanged():
  tree = {'strength': jnp.ones(()), 'key': jax.random.key(3), 'dense0': {'kernel': jnp.ones(4)},
          'xdense0': {'kernel': jnp.ones((4, 5))}, 'list': [matrix(), None]}
  sliced = slice_like(tree, KEPT)
  assert sliced['dense0']['kernel'].shape == (4,)            # another rank
  assert sliced['xdense0']['kernel'].shape == (4, 5)         # ends in letters, not in a path
  assert sliced['list'][0].shape == (4, 5)
  assert jax.random.key_data(sliced['key']).tolist() == jax.random.key_data(tree['key']).tolist()


def test_the_longest_path_wins():
  kept = kept_of(head__kernel=((4, 5), (ROWS, COLUMNS)),
                 block__head__kernel=((4, 5), (np.arange(4), np.array([3]))))
  tree = {'head': {'kernel': matrix()}, 'block': {'head': {'kernel': matrix()}}}
  sliced = slice_like({'mu': tree}, kept)['mu']
  assert sliced['head']['kernel'].shape == (2, 3)
  np.testing.assert_array_equal(sliced['block']['head']['kernel'], matrix()[:, 3:4])


def test_kind_and_dtype_stay():
  tree = {'a': {'dense0': {'kernel': np.ones((4, 5), bool)}},
          'b': {'dense0': {'kernel': jnp.ones((4, 5), jnp.bfloat16)}}}
  sliced = slice_like(tree, KEPT)
  assert isinstance(sliced['a']['dense0']['kernel'], np.ndarray)
  assert sliced['a']['dense0']['kernel'].dtype == bool
  assert sliced['b']['dense0']['kernel'].dtype == jnp.bfloat16


def test_a_leaf_that_does_not_broadcast_is_refused():
  with pytest.raises(ValueError, match=r'gate/dense0/kernel \(2, 5\) belongs to dense0/kernel'):
    slice_like({'gate': {'dense0': {'kernel': jnp.ones((2, 5))}}}, KEPT)
