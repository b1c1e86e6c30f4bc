"""Rankings: their scores against formulas, what is held, and choices by exhaustion."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax import ranking
from sparsejax.paths import flatten

RNG = np.random.default_rng(0)
WEIGHTS = {'a': {'kernel': jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)},
           'b': {'kernel': jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32)}}
METHODS = {
    'l0': (sparsejax.l0_hard_concrete(0.1), ranking.gates()),
    'l0_example': (sparsejax.l0_hard_concrete(0.1, per='example', axis=-1), ranking.gates(-1)),
    'l0_tied': (sparsejax.l0_hard_concrete(0.1, tied=True, axis={'a/.*': -1, 'b/.*': -2}),
                ranking.gates({'a/.*': -1, 'b/.*': -2}, tied=True)),
    'vd': (sparsejax.sparse_variational_dropout(), ranking.variances()),
    'vd_clipped': (sparsejax.sparse_variational_dropout(clip_variance=True, noise='weight'),
                   ranking.variances()),
    'group_lasso': (sparsejax.group_lasso(0.1, threshold=10.0), ranking.norms()),
    'l1': (sparsejax.l1(0.1), ranking.magnitudes()),
}


def started(name):
  method, own = METHODS[name]
  params, state = method.init(jax.random.key(0), WEIGHTS)
  if 'log_alpha' in params:                       # some gates shut, some between, some open
    params['log_alpha'] = jax.tree.map(
        lambda a: jnp.linspace(-4.0, 4.0, a.size).reshape(a.shape), params['log_alpha'])
  if 'log_sigma2' in params:                      # some weights beyond the threshold
    params['log_sigma2'] = jax.tree.map(
        lambda s: jnp.linspace(-9.0, 9.0, s.size).reshape(s.shape), params['log_sigma2'])
  return method, own, params, state


# Variants of a method are dear for what they tell.
@pytest.mark.parametrize('name', ['l0', 'vd', 'group_lasso', *(
    pytest.param(name, marks=pytest.mark.slow)
    for name in ('l0_example', 'l0_tied', 'vd_clipped', 'l1'))])
def test_what_is_held_is_deployed_and_drawn_alike_and_the_rest_is_zero(name):
  method, own, params, state = started(name)
  scores = own.scores(params, state)
  # Every other one is kept, whatever the method would have done.
  kept = jax.tree.map(lambda s: jnp.arange(s.size).reshape(s.shape) % 2 == 0, scores)
  held = own.hold(params, state, kept)
  deployed = flatten(method.weights(*held))
  chosen = flatten(kept)
  for path, leaf in deployed.items():
    mask = chosen.get(path)
    if mask is None:                              # tied gates: those of a, along its other axis
      mask = chosen['a/kernel'].reshape(-1, 1)
    np.testing.assert_array_equal(leaf != 0, jnp.broadcast_to(mask, leaf.shape))
  for path, leaf in flatten(method.weights(*held, jax.random.key(1))).items():
    if name == 'l0_example':
      assert float(jnp.min(leaf.draw(1000))) == 1.0
      leaf = leaf.value
    if name == 'vd':
      assert float(jnp.max(leaf.var)) < 1e-12
      leaf = leaf.mean
    # The clipped log alpha of -8 leaves noise of e^-4 of a weight.
    rtol = 0.1 if name == 'vd_clipped' else 1e-6
    np.testing.assert_allclose(leaf, deployed[path], rtol=rtol, atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), own.scores(params, state), scores)


def grouped():
  """Returns a method with variables on rows and columns, its ranking, parameters and state."""
  groups = {'rows': {'a/kernel': -2}, 'units': {'a/kernel': -1, 'b/kernel': -2}}
  method = sparsejax.group_variables(
      sparsejax.partition(first=('a/kernel', sparsejax.sparse_variational_dropout(threshold=2.0)),
                          second=('b/kernel', sparsejax.sparse_variational_dropout())), groups)
  params, state = method.init(jax.random.key(0), WEIGHTS)
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda leaf: leaf + jnp.asarray(rng.normal(size=leaf.shape), jnp.float32),
                        params)
  return method, ranking.products(['first', 'second'], groups), params, state


def test_scores_of_products_are_those_of_the_draws_variance():
  _, own, params, state = grouped()
  scores = own.scores(params, state)
  rows, = (np.asarray(leaf).ravel() for leaf in jax.tree.leaves(params['mean']['rows']))
  units, = (np.asarray(leaf).ravel() for leaf in jax.tree.leaves(params['mean']['units']))
  row_variance, = (np.exp(2 * np.asarray(leaf).ravel())
                   for leaf in jax.tree.leaves(params['log_sigma']['rows']))
  unit_variance, = (np.exp(2 * np.asarray(leaf).ravel())
                    for leaf in jax.tree.leaves(params['log_sigma']['units']))
  for name, path, threshold in (('first', 'a', 2.0), ('second', 'b', 3.0)):
    theta = np.asarray(params['inner'][name]['theta'][path]['kernel'], np.float64)
    variance = np.exp(np.asarray(params['inner'][name]['log_sigma2'][path]['kernel'], np.float64))
    for (i, j), score in np.ndenumerate(np.asarray(scores[name][path]['kernel'])):
      factors = [(theta[i, j], variance[i, j])] + (
          [(rows[i], row_variance[i]), (units[j], unit_variance[j])] if path == 'a' else
          [(units[i], unit_variance[i])])
      mean = np.prod([m for m, _ in factors])
      second = np.prod([m**2 + v for m, v in factors])
      # The library's alpha has 1e-8 beside theta^2.
      np.testing.assert_allclose(score, threshold - np.log((second - mean**2) / mean**2), rtol=1e-3)


def test_what_is_held_of_products_is_the_product_of_means_without_noise():
  method, own, params, state = grouped()
  kept = jax.tree.map(lambda s: jnp.arange(s.size).reshape(s.shape) % 2 == 0,
                      own.scores(params, state))
  held = own.hold(params, state, kept)
  rows, units = (jax.tree.leaves(params['mean'][name])[0].reshape(-1) for name in ('rows', 'units'))
  theta = {name: flatten(params['inner'][name]['theta']) for name in ('first', 'second')}
  wanted = {'a/kernel': theta['first']['a/kernel'] * rows[:, None] * units[None],
            'b/kernel': theta['second']['b/kernel'] * units[:, None]}
  drawn = flatten(method.weights(*held, jax.random.key(1)))
  for (path, leaf), mask in zip(flatten(method.weights(*held)).items(), jax.tree.leaves(kept)):
    np.testing.assert_allclose(leaf, jnp.where(mask, wanted[path], 0.0), rtol=1e-6)
    gated = drawn[path]
    while hasattr(gated, 'value'):
      assert float(jnp.max(gated.parameters[1])) < 1e-6
      gated = gated.value
    assert float(jnp.max(gated.var)) < 1e-12


@pytest.mark.parametrize('groups', [(), ('words', 'hidden', 'gates')])
def test_a_recurrent_recipe_lands_on_a_density(groups):
  shapes = {'embed': {'embedding': (20, 6)}, 'head': {'kernel': (4, 2)}, 'cell0': {
      f'{side}{gate}': {'kernel': (n, 4)} for side, n in (('i', 6), ('h', 4)) for gate in 'ifgo'}}
  rng = np.random.default_rng(2)
  weights = jax.tree.map(lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32), shapes,
                         is_leaf=lambda leaf: isinstance(leaf, tuple))
  method = sparsejax.targeted(sparsejax.bayesian_rnn(0.5, groups=groups), 0.25, ramp_steps=1,
                              every=2, ranking=ranking.recurrent(groups), landing_step=4,
                              steering=False)
  params, state = method.init(jax.random.key(0), weights)
  for step in range(6):
    before = jax.tree.leaves({path: leaf for path, leaf in flatten(state).items()
                              if path.endswith('strength') and 'control' not in path})
    assert before == [0.5 if step < 5 else 0.0] * (3 + bool(groups))
    params, state = method.update(params, state, step=jnp.int32(step))
  total = sum(leaf.size for leaf in jax.tree.leaves(weights))
  found = jax.tree.leaves(method.weights(params, state))
  assert sum(int((leaf != 0).sum()) for leaf in found) == round(0.25 * total)
  assert float(method.penalty(params, state)) == 0.0


@pytest.mark.parametrize('name', ['l0', 'vd', 'group_lasso', 'l1'])
def test_scores_rank_as_the_formulas_do(name):
  _, own, params, state = started(name)
  w = np.asarray(WEIGHTS['a']['kernel'], np.float64)
  wanted = {
      'l0': lambda: np.linspace(-4, 4, 4) + 1e-3 * np.sqrt((w**2).mean(1)),
      'vd': lambda: (3 - np.linspace(-9, 9, 12) + np.log(w**2 + 1e-8).ravel()),
      'group_lasso': lambda: np.log(np.sqrt((w**2).mean(1)) / 10),
      'l1': lambda: np.log(np.abs(w)).ravel()}[name]()
  np.testing.assert_allclose(np.ravel(own.scores(params, state)['a']['kernel']), wanted, rtol=1e-5)


def test_scores_are_finite_at_zero_weights():
  for method, own in (*METHODS.values(), grouped()[:2]):
    zeros = jax.tree.map(jnp.zeros_like, WEIGHTS)
    for leaf in jax.tree.leaves(own.scores(*method.init(jax.random.key(0), zeros))):
      assert jnp.all(jnp.isfinite(leaf))


@pytest.mark.parametrize('wanted, sizes', [
    (6, {'a': [5, 1], 'b': [3]}),        # 5 and 3, the best of each, come nearest
    (8.4, {'a': [5, 1], 'b': [3]}),      # 8 is nearer than 9
    (8.6, {'a': [5, 1], 'b': [3]}),
    (100, {'a': [5, 1], 'b': [3]}),
])
def test_a_choice_comes_nearest_to_what_is_wanted(wanted, sizes):
  scores = {'a': jnp.array([2.0, 1.0]), 'b': jnp.array([-7.0])}
  sizes = jax.tree.map(jnp.asarray, sizes, is_leaf=lambda leaf: isinstance(leaf, list))

  def count(kept):
    return sum(jnp.sum(sizes[name] * kept[name]) for name in sizes)
  found = jax.jit(lambda wanted: ranking.chosen(scores, count, wanted))(wanted)
  assert float(count(found)) == (8 if wanted < 8.5 else 9)
  assert bool(found['b'][0]), 'an array without any would cut the network'


def test_of_equal_scores_the_first_stay_and_exactly_as_many_as_wanted():
  scores = {'a': jnp.zeros(50), 'b': jnp.zeros(50)}
  found = ranking.chosen(scores, lambda kept: sum(map(jnp.sum, kept.values())), 37)
  assert sum(map(int, map(jnp.sum, found.values()))) == 37
  assert found['a'][:36].all() and int(found['b'].sum()) == 1 and bool(found['b'][0])
