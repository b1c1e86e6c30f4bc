"""Static masks: exact counts, layer densities by path, uniform over places, errors by name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.paths import flatten
from sparsejax.regularisers.static_mask import kept_counts, random_masks

SHAPES = {'dense0/kernel': (30, 20), 'conv/kernel': (3, 3, 4, 6), 'head/kernel': (20, 3)}
WEIGHTS = {path.split('/')[0]: {'kernel': np.ones(shape, np.float32)}
           for path, shape in SHAPES.items()}


def counts(density, allocation='uniform'):
  """The weights kept per leaf, counted in what is deployed."""
  method = sparsejax.static_mask(density, allocation=allocation)
  params, state = jax.jit(method.init)(jax.random.key(3), WEIGHTS)
  deployed = sparsejax.finalise(method, params, state)
  return {path: int((leaf != 0).sum()) for path, leaf in flatten(deployed).items()}


def test_a_number_is_the_density_of_each_leaf():
  assert counts(0.13) == {'dense0/kernel': 78, 'conv/kernel': 28, 'head/kernel': 8}


def test_a_mapping_gives_each_leaf_its_own_and_at_least_one():
  densities = {'dense0/kernel': 0.0001, 'conv/kernel': 1.0, 'head/kernel': 0.25}
  assert counts(densities) == {'dense0/kernel': 1, 'conv/kernel': 216, 'head/kernel': 15}


def test_erk_shares_out_in_proportion_to_the_sum_of_the_shape():
  # 0.1 * 876 weights; sums of the shapes 50, 16, 23, so scale = 87.6 / 89 and no leaf reaches 1.
  wanted = {path: round(87.6 / 89 * sum(shape)) for path, shape in SHAPES.items()}
  assert counts(0.1, 'erk') == wanted == {
      'dense0/kernel': 49, 'conv/kernel': 16, 'head/kernel': 23}


def test_every_place_is_as_likely_as_every_other():
  weights = {'w': jnp.ones((4, 5))}
  draw = jax.jit(jax.vmap(functools.partial(random_masks, weights=weights, counts={'w': 6})))
  masks = np.asarray(draw(jax.random.split(jax.random.key(0), 2000))['w'])
  np.testing.assert_array_equal(masks.sum((1, 2)), 6)
  # Each of the 20 frequencies is Binomial(2000, 0.3) / 2000; five standard deviations.
  assert np.abs(masks.mean(0) - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 2000)


def test_leaves_draw_apart_and_keys_repeat():
  weights = {'a': jnp.ones((8, 8)), 'b': jnp.ones((8, 8))}
  method = sparsejax.static_mask(0.5)
  first, again, other = (method.init(jax.random.key(seed), weights)[1]['mask']
                         for seed in (0, 0, 1))
  np.testing.assert_array_equal(first['a'], again['a'])
  assert np.any(first['a'] != first['b']) and np.any(first['a'] != other['a'])


@pytest.mark.parametrize('density, message', [
    ({'dense0/kernel': 0.5, 'conv/kernel': 0.5}, 'density lacks head/kernel; leaves are'),
    ({**dict.fromkeys(SHAPES, 0.5), 'haed/kernel': 0.1},
     'density names haed/kernel, no leaf of this rule; leaves are dense0/kernel, conv'),
])
def test_a_mapping_names_the_leaves_and_no_other(density, message):
  with pytest.raises(ValueError, match=message):
    kept_counts(WEIGHTS, density, 'uniform')


@pytest.mark.parametrize('density, allocation, message', [
    (0.0, 'uniform', r'density=0.0 must be a number in \(0, 1\]'),
    (1.5, 'uniform', 'density=1.5 must be'), ('half', 'uniform', 'density=half must be'),
    ({'a/kernel': -0.1}, 'uniform', r"density\['a/kernel'\]=-0.1 must be"),
    (0.5, 'global', "allocation='global' is not 'uniform' or 'erk'")])
def test_options_that_mean_nothing_are_refused(density, allocation, message):
  with pytest.raises(ValueError, match=message):
    sparsejax.static_mask(density, allocation=allocation)
