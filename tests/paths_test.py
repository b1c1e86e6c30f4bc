"""Paths and keys: round trips, and keys that depend on the name alone, in every process."""

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.paths import flatten, fold, map_leaves, unflatten
from sparsejax.structured import LowRank

TREE = {'a': {'kernel': np.arange(6.0).reshape(2, 3), 'bias': np.zeros(3)}, 'b': np.ones(2)}


def data(key):
  return np.asarray(jax.random.key_data(key)).tolist()


def test_flatten_joins_the_path_and_unflatten_undoes_it():
  flat = flatten(TREE)
  assert sorted(flat) == ['a/bias', 'a/kernel', 'b']
  assert flat['a/kernel'] is TREE['a']['kernel']
  again = unflatten(flat)
  assert jax.tree.structure(again) == jax.tree.structure(TREE)
  assert again['a']['kernel'] is TREE['a']['kernel']


def test_a_structured_weight_is_one_leaf():
  weight = LowRank(jnp.ones((4, 1)), jnp.ones((1, 3)))
  assert flatten({'a': {'kernel': weight}}) == {'a/kernel': weight}


def test_map_leaves_passes_the_path_and_the_leaves_of_all_trees():
  other = {'a': {'kernel': 2.0, 'bias': 3.0}, 'b': 4.0}
  got = map_leaves(lambda path, leaf, factor: (path, leaf.sum() * factor), TREE, other)
  assert got == {'a': {'kernel': ('a/kernel', 30.0), 'bias': ('a/bias', 0.0)}, 'b': ('b', 8.0)}


def test_fold_uses_the_published_crc_32():
  # 0xCBF43926 is the check value of CRC-32 in the catalogues of checksums.
  key = jax.random.key(3)
  assert data(fold(key, '123456789')) == data(jax.random.fold_in(key, 0xCBF43926))


def test_fold_separates_names_and_passes_none():
  key = jax.random.key(3)
  names = ['dense0/kernel', 'dense1/kernel', 'dense0/bias', 'gates', '']
  assert len({str(data(fold(key, name))) for name in names}) == len(names)
  assert fold(None, 'gates') is None
