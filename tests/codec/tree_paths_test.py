"""Flattening for a file: paths, empty dicts, and refusals that name the place."""
import jax
import numpy as np
import pytest
from flax.core import freeze

from sparsejax.codec import tree_paths


def test_flatten_joins_and_unflatten_inverts():
  tree = {'b': {'x': np.ones(2), 'none': {}}, 'a': np.zeros((1, 3))}
  leaves, empty = tree_paths.flatten(tree)
  assert list(leaves) == ['a', 'b/x'] and empty == ['b/none']
  back = tree_paths.unflatten(leaves, empty)
  assert jax.tree.structure(back) == jax.tree.structure(tree)
  assert tree_paths.unflatten(*tree_paths.flatten({})) == {}


@pytest.mark.parametrize('tree, message', [
    ({'a': {'b/c': np.ones(1)}}, "key 'b/c' under 'a'"),
    ({'': np.ones(1)}, "key '' at the top"),
    ({'a': {3: np.ones(1)}}, "key 3 under 'a' is a int"),
    ({'a\ud800': np.ones(1)}, 'not valid Unicode'),
    ({'a': [np.ones(1)]}, 'a is a list'),
    ({'a': {'b': 1.0}}, 'a/b is a float'),
    ({'a': freeze({'b': np.ones(1)})}, 'a is a FrozenDict'),
    (np.ones(1), 'weights is a ndarray'),
    ({'a': np.ones(1, np.complex64)}, 'a has dtype .*complex64'),
    ({'a': np.ones(1, '>f4')}, 'a has dtype .*>f4.*native byte order'),
    ({'a': np.array(['x'])}, 'a has dtype'),
])
def test_what_a_file_cannot_hold_is_refused_by_name(tree, message):
  with pytest.raises(ValueError, match=message):
    tree_paths.flatten(tree)


def test_typed_random_keys_are_refused():
  with pytest.raises(ValueError, match='noise has dtype'):
    tree_paths.flatten({'noise': jax.random.key(0)})
