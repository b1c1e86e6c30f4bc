"""Soft weight-sharing: the properties of the paper's mixture, and the collapse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.compaction.kept import Kept, slice_like
from sparsejax.paths import flatten
from sparsejax.regularisers.soft_weight_sharing import mixtures, soft_weight_sharing
from sparsejax.structured import densify

KEY = jax.random.key(0)
WEIGHTS = {
    'dense0': {'kernel': 0.3 * jax.random.normal(KEY, (6, 5)), 'bias': jnp.zeros(5)},
    'head': {'kernel': 0.3 * jax.random.normal(jax.random.key(1), (5, 3))},
}


def test_mixture_starts_as_in_the_paper():
  params, state = soft_weight_sharing().init(KEY, WEIGHTS)
  assert params['weight'] is WEIGHTS
  mixture = mixtures(params, state)['']
  np.testing.assert_allclose(mixture.means, [0, *np.linspace(-0.6, 0.6, 16)], atol=1e-7)
  np.testing.assert_allclose(mixture.log_precisions, 2.7726, atol=1e-4)
  np.testing.assert_allclose(np.exp(mixture.log_mixing), [0.99, *[0.01 / 16] * 16], rtol=1e-5)


def test_mixing_weights_are_normalised_whatever_is_trained():
  method = soft_weight_sharing(5, 0.9)
  params, state = method.init(KEY, WEIGHTS)
  free = jnp.array([50.0, -3.0, 0.5, 200.0])
  for shift in (0.0, 1000.0):
    params['mixture']['log_mixing'] = free + shift
    found = np.exp(np.asarray(mixtures(params, state)[''].log_mixing, np.float64))
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(found[0], 0.9, rtol=1e-6)


def test_the_component_at_zero_is_pinned():
  method = soft_weight_sharing(3, 0.9)
  params, state = method.init(KEY, WEIGHTS)
  # There is nothing to train but the free means and mixing weights, and three precisions.
  assert {k: v.shape for k, v in params['mixture'].items()} == {
      'means': (2,), 'log_mixing': (2,), 'log_precisions': (3,)}
  learned, _ = soft_weight_sharing(3, (9.0, 1.0)).init(KEY, WEIGHTS)
  np.testing.assert_allclose(jax.nn.sigmoid(learned['mixture']['zero_logit']), 0.9, rtol=1e-6)


def trained(method, weights=WEIGHTS):
  params, state = method.init(KEY, weights)
  mixture = dict(params['mixture'])
  mixture['means'] = jnp.array([-0.3, 0.2, 0.5])
  mixture['log_precisions'] = jnp.full(4, 6.0)
  return {**params, 'mixture': mixture}, state


def test_collapse_leaves_few_values_and_exact_zeros():
  method = soft_weight_sharing(4, 0.9)
  params, state = trained(method)
  found = densify(sparsejax.finalise(method, params, state))
  values = np.unique(np.concatenate([leaf.reshape(-1) for leaf in flatten(found).values()]))
  assert set(values.tolist()) <= {np.float32(v) for v in (-0.3, 0.0, 0.2, 0.5)}
  assert np.all(found['dense0']['bias'] == 0)
  # each weight by the rule itself, in float64: the largest of pi_k N(w; mu_k, 1 / lambda_k)
  w = np.asarray(WEIGHTS['head']['kernel'], np.float64)[..., None]
  means = np.array([0, -0.3, 0.2, 0.5])
  score = np.log([0.9, *[0.1 / 3] * 3]) - 0.5 * np.exp(6.0) * (w - means)**2
  np.testing.assert_allclose(found['head']['kernel'], means[score.argmax(-1)], atol=1e-7)
  again = method.weights({**params, 'weight': jax.tree.map(jnp.asarray, found)}, state)
  for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(found), strict=True):
    np.testing.assert_array_equal(a, b)


def test_training_weights_are_the_weights():
  method = soft_weight_sharing(4)
  params, state = method.init(KEY, WEIGHTS)
  assert method.weights(params, state, KEY) is WEIGHTS


def test_a_mixture_for_each_layer():
  method = soft_weight_sharing(4, shared=False)
  params, state = method.init(KEY, WEIGHTS)
  assert sorted(mixtures(params, state)) == ['dense0', 'head']
  alone = [soft_weight_sharing(4) for _ in range(2)]
  parts = [{name: tree} for name, tree in WEIGHTS.items()]
  wanted = sum(m.penalty(*m.init(KEY, part)) for m, part in zip(alone, parts, strict=True))
  np.testing.assert_allclose(method.penalty(params, state), wanted, rtol=1e-6)


def test_strength_scales_the_hyper_priors_too():
  once, twice = soft_weight_sharing(strength=1.0), soft_weight_sharing(strength=2.0)
  one = once.penalty(*once.init(KEY, WEIGHTS))
  np.testing.assert_allclose(twice.penalty(*twice.init(KEY, WEIGHTS)), 2 * one, rtol=1e-6)
  without = soft_weight_sharing(hyper_priors=None, strength=1.0)
  assert without.penalty(*without.init(KEY, WEIGHTS)) < one


def test_widths_move_the_hyper_priors():
  priors = ((5e3, 2.0), (2.5e2, 0.1))
  # b = a width^2: widths of 0.02 are the paper's priors
  _, plain = soft_weight_sharing(3, hyper_priors=priors).init(KEY, WEIGHTS)
  method = soft_weight_sharing(3, hyper_priors=priors, zero_width=0.02,
                               width=lambda step: 0.02 / (1 + step))
  params, state = method.init(KEY, WEIGHTS)
  for name in plain:
    np.testing.assert_allclose(state[name], plain[name], rtol=1e-6)
  _, state = method.update(params, state, step=2)
  np.testing.assert_allclose([state['zero_rate'], state['rate']], [2.0, 0.1 / 16], rtol=1e-6)


def test_cutting_units_leaves_the_mixture_alone():
  params, state = soft_weight_sharing(4, shared=False).init(KEY, WEIGHTS)
  shapes = {path: leaf.shape for path, leaf in flatten(WEIGHTS).items()}
  axes = {path: tuple(np.arange(max(1, length - 1)) for length in shape)
          for path, shape in shapes.items()}
  small = slice_like(params, Kept(axes, shapes, {}, {}, (), ()))
  assert small['weight']['dense0']['kernel'].shape == (5, 4)
  for before, after in zip(jax.tree.leaves(params['mixture']), jax.tree.leaves(small['mixture']),
                           strict=True):
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(('arguments', 'words'), [
    ({'num_components': 1}, 'num_components=1'),
    ({'zero_prior': 0.0}, 'zero_prior=0'),
    ({'zero_prior': 1.0}, 'zero_prior=1.0'),
    ({'zero_prior': (1.0, -2.0)}, 'zero_prior'),
    ({'hyper_priors': ((1.0, 2.0),)}, 'hyper_priors'),
    ({'hyper_priors': ((1.0, 2.0), (0.0, 1.0))}, 'hyper_priors'),
    ({'strength': -1.0}, 'strength'),
    ({'init_std': 0.0}, 'init_std'),
    ({'width': -0.1}, 'width=-0.1'),
    ({'width': 0.1, 'hyper_priors': None}, 'width moves a hyper-prior'),
])
def test_wrong_arguments_are_named(arguments, words):
  with pytest.raises(ValueError, match=words):
    soft_weight_sharing(**arguments)
