"""The contract and its combinations: who owns which leaf, which key it gets, what is passed on."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import core
from flax import linen as nn

import sparsejax
from sparsejax import regulariser as contract
from sparsejax.paths import flatten, fold
from sparsejax.regulariser import Regulariser, chain, finalise, partition, stacked

WEIGHTS = {
    'dense0': {'kernel': jnp.arange(12.0).reshape(4, 3) - 5, 'bias': jnp.ones(3)},
    'dense1': {'kernel': jnp.arange(12.0).reshape(4, 3) / 7 - 1, 'bias': jnp.zeros(3)},
    'head': {'kernel': jnp.full((3, 2), 0.5)},
}
KEY = jax.random.key(11)
STEP = jnp.int32(0)


def assert_same(got, wanted):
  """The same paths and the same bits."""
  got, wanted = flatten(got), flatten(wanted)
  assert got.keys() == wanted.keys()
  for path, leaf in wanted.items():
    np.testing.assert_array_equal(got[path], leaf, err_msg=path)


def scaling(factor):
  """Weights are `factor` times the params."""
  return Regulariser(lambda key, weights: (weights, {}),
                     lambda params, state, key=None: jax.tree.map(lambda w: factor * w, params))


def recording():
  """Plain weights; the state holds the last weight gradients that came in."""
  def init(key, weights):
    return weights, {'seen': jax.tree.map(jnp.zeros_like, weights)}

  def update(params, state, *, step, weight_grads=None, key=None):
    return params, {'seen': weight_grads}
  return Regulariser(init, lambda params, state, key=None: params, update=update,
                     needs_weight_grads=True)


# --- partition ------------------------------------------------------------------------------------


def test_a_rule_without_a_match_lists_the_parameters_and_suggests_one():
  method = partition(gates=('dense0/kernal', sparsejax.l1(0.1)))
  with pytest.raises(ValueError) as error:
    method.init(KEY, WEIGHTS)
  text = str(error.value)
  assert "rule 'gates' ('dense0/kernal') matches no parameter" in text
  assert all(path in text for path in flatten(WEIGHTS))
  assert "did you mean 'dense0/kernel'?" in text


def test_a_pattern_must_match_the_whole_path():
  with pytest.raises(ValueError, match='matches no parameter'):
    partition(gates=('dense0', sparsejax.l1(0.1))).init(KEY, WEIGHTS)


def test_a_leaf_of_two_rules_names_both_and_the_leaf():
  method = partition(second=('.*/kernel', sparsejax.l1(0.1)),
                     first=('head/.*', sparsejax.l1(0.1)))
  with pytest.raises(ValueError, match="head/kernel is claimed by the rules 'first' and 'second'"):
    method.init(KEY, WEIGHTS)


def test_the_order_of_rules_changes_no_draw():
  rules = {'noise': ('dense./kernel', sparsejax.dropout(0.5, per='batch')),
           'gates': ('head/kernel', sparsejax.l0_hard_concrete(0.1))}
  one, other = partition(**rules), partition(**dict(reversed(rules.items())))
  results = []
  for method in (one, other):
    params, state = method.init(KEY, WEIGHTS)
    results.append({'params': params, 'drawn': method.weights(params, state, KEY)})
  assert_same(*results)


def test_keys_differ_by_rule_and_path_and_follow_the_checksum():
  leaf = jnp.ones((64, 2))
  weights = {'a': {'kernel': leaf}, 'b': {'kernel': leaf}, 'c': {'kernel': leaf}}
  rule = sparsejax.dropout(0.5, per='batch')
  method = partition(one=('[ab]/kernel', rule), two=('c/kernel', rule))
  drawn = method.weights(*method.init(KEY, weights), KEY)
  rows = {path: tuple(np.asarray(w)[:, 0]) for path, w in flatten(drawn).items()}
  assert len(set(rows.values())) == 3
  key = jax.random.fold_in(jax.random.fold_in(KEY, zlib.crc32(b'one')), zlib.crc32(b'b/kernel'))
  kept = np.asarray(jax.random.uniform(key, (64,))) >= 0.5
  np.testing.assert_array_equal(rows['b/kernel'], 2.0 * kept)


def test_free_is_reserved_trained_as_it_is_and_absent_when_empty():
  with pytest.raises(ValueError, match="'free' is reserved"):
    partition(free=('.*', sparsejax.l1(0.1)))
  params, state = partition(all=('.*', sparsejax.l1(0.1))).init(KEY, WEIGHTS)
  assert sorted(params) == sorted(state) == ['all']
  method = partition(gates=('dense0/kernel', sparsejax.l1(0.1)))
  params, state = method.init(KEY, WEIGHTS)
  assert sorted(params) == ['free', 'gates'] and sorted(state) == ['gates']
  assert sorted(flatten(params['free'])) == ['dense0/bias', 'dense1/bias', 'dense1/kernel',
                                             'head/kernel']
  assert_same(method.weights(params, state, KEY), WEIGHTS)
  assert_same(finalise(method, params, state), WEIGHTS)


def test_frozen_dicts_and_partitioned_leaves_are_unwrapped():
  method = partition(gates=('dense0/kernel', sparsejax.l0_hard_concrete(0.1)))
  params, state = method.init(KEY, WEIGHTS)
  boxed = jax.tree.map(lambda w: nn.Partitioned(w, names=(None,) * w.ndim), WEIGHTS)
  for given in (core.freeze(WEIGHTS), boxed, core.freeze(boxed)):
    got, _ = method.init(KEY, given)
    assert_same(got, params)
    assert jax.tree.structure(got) == jax.tree.structure(params)


def test_partitions_nest():
  inner = partition(small=('dense0/kernel', sparsejax.l1(2.0)),
                    large=('dense1/kernel', sparsejax.weight_decay(3.0)))
  method = partition(body=('dense./.*', inner), head=('head/kernel', sparsejax.l1(5.0)))
  params, state = method.init(KEY, WEIGHTS)
  assert sorted(params['body']) == ['free', 'large', 'small']
  assert_same(method.weights(params, state, KEY), WEIGHTS)
  wanted = (2 * np.abs(WEIGHTS['dense0']['kernel']).sum()
            + 1.5 * np.square(WEIGHTS['dense1']['kernel']).sum() + 5 * 3.0)
  np.testing.assert_allclose(method.penalty(params, state), wanted, rtol=1e-6)


def test_partition_hands_each_rule_its_weight_gradients():
  method = partition(seen=('dense0/.*', recording()), plain=('head/.*', sparsejax.l1(0.1)))
  assert method.needs_weight_grads
  assert not partition(plain=('head/.*', sparsejax.l1(0.1))).needs_weight_grads
  params, state = method.init(KEY, WEIGHTS)
  grads = jax.tree.map(lambda w: w + 100, WEIGHTS)
  _, state = method.update(params, state, step=STEP, weight_grads=grads, key=KEY)
  assert_same(state['seen']['seen'], {'dense0': grads['dense0']})


def test_partition_update_leaves_its_arguments_alone():
  method = partition(gates=('dense0/kernel', sparsejax.l0_hard_concrete(
      optax.linear_schedule(0.0, 1.0, 10))))
  params, state = method.init(KEY, WEIGHTS)
  before = jax.device_get((params, state))
  _, new = method.update(params, state, step=STEP)
  assert_same({'params': params, 'state': state}, {'params': before[0], 'state': before[1]})
  np.testing.assert_allclose(new['gates']['strength'], 0.1, rtol=1e-6)


# --- chain ----------------------------------------------------------------------------------------


def test_a_sees_what_b_draws_also_in_its_penalty():
  b = sparsejax.dropout(0.5, axis=-1, per='batch')
  method = chain(sparsejax.l1(2.0), b)
  weights = {'dense0': {'kernel': WEIGHTS['dense0']['kernel']}}
  params, state = method.init(KEY, weights)
  drawn = b.weights(params, state['b'], fold(KEY, 'b'))
  assert np.any(drawn['dense0']['kernel'] != weights['dense0']['kernel'])
  assert_same(method.weights(params, state, KEY), drawn)
  np.testing.assert_allclose(method.penalty(params, state, KEY),
                             2 * np.abs(drawn['dense0']['kernel']).sum(), rtol=1e-6)
  # Without a key, the deployed ones.
  assert_same(method.weights(params, state), weights)


def test_both_penalties_count():
  weights = {'head': {'kernel': jnp.full((3, 2), 0.5)}}
  method = chain(sparsejax.l1(2.0), sparsejax.weight_decay(4.0))
  np.testing.assert_allclose(method.penalty(*method.init(KEY, weights), KEY),
                             2 * 3.0 + 2 * 6 * 0.25, rtol=1e-6)


def test_gradients_reach_what_b_would_prune():
  weights = {'head': {'kernel': jnp.full((3, 2), 0.5)}}
  method = chain(sparsejax.l1(2.0), sparsejax.group_lasso(0.0, threshold=10.0))
  params, state = method.init(KEY, weights)
  assert not np.any(method.weights(params, state)['head']['kernel'])      # all deployed as zero
  grads = jax.grad(method.penalty)(params, state, KEY)
  np.testing.assert_allclose(grads['head']['kernel'], 2.0, rtol=1e-6)
  drawn = jax.grad(lambda p: method.weights(p, state, KEY)['head']['kernel'].sum())(params)
  np.testing.assert_array_equal(drawn['head']['kernel'], 1.0)


@pytest.mark.parametrize('compiled', [False, True])
def test_what_a_changes_is_kept_where_b_passes_it_through(compiled):
  a = sparsejax.l0_hard_concrete(0.1, clamp=(1e-2, 1e2))
  method = chain(a, sparsejax.l1(0.3))
  params, state = method.init(KEY, {'head': {'kernel': jnp.ones((3, 2))}})
  params = {**params, 'log_alpha': jax.tree.map(lambda a: a + 50, params['log_alpha'])}
  update = jax.jit(method.update) if compiled else method.update
  new, _ = update(params, state, step=STEP, key=KEY)
  np.testing.assert_allclose(new['log_alpha']['head']['kernel'], np.log(1e2), rtol=1e-6)
  assert_same(new['weight'], params['weight'])


@pytest.mark.parametrize('inner', [sparsejax.dropout(0.5, per='batch'),
                                   sparsejax.sparse_variational_dropout(noise='weight')])
def test_what_a_changes_is_refused_where_b_transforms_it(inner):
  method = chain(sparsejax.l0_hard_concrete(0.1), inner)
  params, state = method.init(KEY, {'head': {'kernel': jnp.ones((3, 2))}})
  with pytest.raises(ValueError, match='a.update changes log_alpha/head/kernel, which b transform'):
    method.update(params, state, step=STEP, key=KEY)
  free = chain(sparsejax.l0_hard_concrete(0.1, clamp=None), inner)
  free.update(*free.init(KEY, {'head': {'kernel': jnp.ones((3, 2))}}), step=STEP, key=KEY)


def test_weight_gradients_are_pulled_back_through_a():
  method = chain(scaling(3.0), recording())
  params, state = method.init(KEY, {'head': {'kernel': jnp.ones((3, 2))}})
  grads = {'head': {'kernel': jnp.arange(6.0).reshape(3, 2)}}
  _, state = method.update(params, state, step=STEP, weight_grads=grads, key=KEY)
  np.testing.assert_allclose(state['b']['seen']['head']['kernel'], 3 * grads['head']['kernel'])


def test_weight_gradients_reach_a_as_they_are():
  method = chain(recording(), scaling(3.0))
  assert method.needs_weight_grads
  params, state = method.init(KEY, {'head': {'kernel': jnp.ones((3, 2))}})
  grads = {'head': {'kernel': jnp.arange(6.0).reshape(3, 2)}}
  _, state = method.update(params, state, step=STEP, weight_grads=grads, key=KEY)
  assert_same(state['a']['seen'], grads)


@pytest.mark.parametrize('inner, kind', [
    (sparsejax.sparse_variational_dropout(noise='local'), 'Gaussian'),
    (sparsejax.dropout(0.5, per='example'), 'Gated')])
def test_noise_inside_a_layer_cannot_be_chained_upon(inner, kind):
  method = chain(sparsejax.l1(0.1), inner)
  params, state = method.init(KEY, {'head': {'kernel': jnp.ones((3, 2))}})
  for call in (method.weights, method.penalty):
    with pytest.raises(ValueError, match=f"b draws a {kind} at head/kernel.*noise='weight'"):
      call(params, state, KEY)
  method.weights(params, state)          # deployed, there is no noise


def test_a_chain_inside_a_partition_sees_its_leaves_alone():
  both = chain(sparsejax.l0_hard_concrete(0.1), sparsejax.weight_decay(2.0))
  method = partition(gates=('head/kernel', both))
  params, state = method.init(KEY, WEIGHTS)
  drawn = method.weights(params, state, KEY)
  own_params, own_state = both.init(fold(KEY, 'gates'), {'head': WEIGHTS['head']})
  own = both.weights(own_params, own_state, fold(KEY, 'gates'))
  assert_same(drawn, {**WEIGHTS, **own})
  np.testing.assert_allclose(method.penalty(params, state), both.penalty(own_params, own_state))
  assert_same(finalise(method, params, state), method.weights(params, state))


def test_a_chain_finalises_by_a():
  a = sparsejax.l1(0.1)._replace(
      finalise=lambda params, state: {'packed': np.asarray(params['head']['kernel']).sum()})
  method = chain(a, sparsejax.group_lasso(0.1, threshold=10.0))
  params, state = method.init(KEY, {'head': {'kernel': jnp.ones((3, 2))}})
  assert finalise(method, params, state) == {'packed': 0.0}    # b had thresholded it


# --- stacked --------------------------------------------------------------------------------------


def layer(tree, *index):
  return jax.tree.map(lambda leaf: leaf[index], tree)


def test_a_stack_is_a_loop_over_its_layers():
  one = sparsejax.l0_hard_concrete(optax.linear_schedule(0.5, 1.5, 10), l2=0.3)
  method = stacked(one)
  weights = {'cell': {'kernel': jax.random.normal(jax.random.key(1), (3, 4, 2))}}
  params, state = jax.jit(method.init)(KEY, weights)
  assert params['log_alpha']['cell']['kernel'].shape == (3, 4, 1)
  assert state['strength'].shape == (3,)
  drawn = jax.jit(method.weights)(params, state, KEY)
  keys = jax.random.split(KEY, 3)
  single, cost = jax.jit(one.weights), jax.jit(one.penalty)
  total = 0.0
  for i in range(3):
    np.testing.assert_allclose(
        drawn['cell']['kernel'][i],
        single(layer(params, i), layer(state, i), keys[i])['cell']['kernel'], rtol=1e-6)
    total += float(cost(layer(params, i), layer(state, i)))
  np.testing.assert_allclose(jax.jit(method.penalty)(params, state, KEY), total, rtol=1e-6)
  assert len({tuple(np.asarray(drawn['cell']['kernel'] / weights['cell']['kernel'])[i, :, 0])
              for i in range(3)}) == 3                       # a draw of its own for each layer
  _, state = jax.jit(method.update)(params, state, step=STEP, key=KEY)
  np.testing.assert_allclose(state['strength'], [0.6] * 3, rtol=1e-6)
  deployed = finalise(method, params, state)
  for i in range(3):
    wanted = single(layer(params, i), layer(state, i))['cell']['kernel']
    np.testing.assert_allclose(deployed['cell']['kernel'][i], wanted, rtol=1e-6)


def test_a_stack_of_stacks():
  one = sparsejax.dropout(0.5, axis=-1, per='batch')
  method = stacked(one, axes=2)
  weights = {'cell': {'kernel': jnp.ones((2, 3, 1, 5))}}
  params, state = method.init(KEY, weights)
  assert state['rate'].shape == (2, 3)
  drawn = method.weights(params, state, KEY)['cell']['kernel']
  outer = jax.random.split(KEY, 2)
  for i in range(2):
    inner = jax.random.split(outer[i], 3)
    for j in range(3):
      wanted = one.weights(layer(params, i, j), layer(state, i, j), inner[j])['cell']['kernel']
      np.testing.assert_array_equal(drawn[i, j], wanted)
  assert finalise(method, params, state)['cell']['kernel'].shape == (2, 3, 1, 5)
  with pytest.raises(ValueError, match='no axis to run over'):
    stacked(one, axes=0)


def test_each_layer_of_a_stack_is_pruned_by_itself():
  method = stacked(sparsejax.magnitude_pruning(0.75))
  scale = jnp.array([1.0, 100.0, 1e-3]).reshape(3, 1, 1)
  weights = {'cell': {'kernel': jax.random.normal(jax.random.key(1), (3, 8, 4)) * scale}}
  params, state = method.init(KEY, weights)
  assert state['mask']['cell']['kernel'].shape == (3, 8, 4) and state['sparsity'].shape == (3,)
  params, state = jax.jit(method.update)(params, state, step=STEP)
  np.testing.assert_array_equal(state['mask']['cell']['kernel'].sum((1, 2)), [8, 8, 8])


def test_a_stack_splits_weight_gradients_by_layer():
  method = stacked(recording())
  assert method.needs_weight_grads
  weights = {'cell': {'kernel': jnp.zeros((3, 2, 2))}}
  grads = {'cell': {'kernel': jnp.arange(12.0).reshape(3, 2, 2)}}
  _, state = method.update(*method.init(KEY, weights), step=STEP, weight_grads=grads)
  assert_same(state['seen'], grads)


# --- numbers --------------------------------------------------------------------------------------


def test_numbers_start_at_step_0_as_float32():
  state = contract.initial_numbers(a=1, b=0.5, c=optax.linear_schedule(2.0, 4.0, 4), d=np.arange(3))
  assert {name: leaf.dtype for name, leaf in state.items()} == dict.fromkeys('abcd', jnp.float32)
  assert [float(state[name]) for name in 'abc'] == [1.0, 0.5, 2.0]
  assert state['d'].shape == (3,)
  # A traced number is carried, not read.
  traced = jax.jit(lambda strength: contract.initial_numbers(strength=strength))(jnp.arange(2))
  np.testing.assert_array_equal(traced['strength'], [0.0, 1.0])


def test_after_k_updates_a_number_is_schedule_of_k():
  numbers = {'moving': optax.exponential_decay(2.0, 3, 0.5), 'fixed': 0.5}
  state = {**contract.initial_numbers(**numbers), 'mask': jnp.ones(2)}
  advance = jax.jit(lambda state, step: contract.advance_numbers(state, step, **numbers))
  for k in range(1, 6):
    state = advance(state, jnp.int32(k - 1))
    np.testing.assert_allclose(state['moving'], 2.0 * 0.5 ** (k / 3), rtol=1e-6)
    assert state['moving'].dtype == jnp.float32
  assert state['fixed'] == 0.5 and state['mask'].shape == (2,)


def test_a_number_that_is_no_schedule_belongs_to_whoever_writes_it():
  state = {'strength': jnp.float32(7.0)}       # a controller's, not the 0.5 of the rule
  assert contract.advance_numbers(state, STEP, strength=0.5) is state


@pytest.mark.parametrize('bad', [-0.1, float('nan'), float('inf'), np.array([0.1, -0.1]),
                                 jnp.array([[0.0], [-1.0]]), np.float32(-1.0)])
def test_a_bad_strength_is_named(bad):
  with pytest.raises(ValueError, match=r'(?s)^threshold=.* must be finite and not negative'):
    contract.require_nonnegative(strength=1.0, threshold=bad)


def test_what_cannot_be_read_yet_is_not_judged():
  contract.require_nonnegative(a=0.0, b=np.zeros(2), c=lambda step: -1.0)

  @jax.jit
  def build(strength):
    return sparsejax.l1(strength).init(KEY, {'w': jnp.ones(2)})[1]['strength']
  assert build(-2.0) == -2.0


def test_the_parts_a_method_need_not_write():
  plain = Regulariser(lambda key, weights: (weights, {}), lambda params, state, key=None: params)
  assert plain.penalty({}, {}, KEY) == 0.0 and plain.penalty({}, {}).dtype == jnp.float32
  assert plain.update(WEIGHTS, {}, step=STEP) == (WEIGHTS, {})
  deployed = finalise(plain, WEIGHTS, {})
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(deployed))
