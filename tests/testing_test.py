"""Each law is broken once, by a method that is right in all else, and the check says which."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax import testing
from sparsejax.regulariser import Regulariser
from sparsejax.structured import Gaussian, LowRank

GOOD = sparsejax.l1(0.1)
ONE = {'dense': {'kernel': jax.random.normal(jax.random.key(0), (6, 4))}}


def fails(method, match, weights=None, **options):
  with pytest.raises(AssertionError, match=match):
    testing.check_regulariser(method, ONE if weights is None else weights, **options)


def changed(function):
  """L1 with `function` on each weight that it returns."""
  return GOOD._replace(weights=lambda params, state, key=None: jax.tree.map(function, params))


def test_a_right_method_passes():
  testing.check_regulariser(GOOD, ONE, oracle=lambda params, state: 0.1 * np.abs(
      params['dense']['kernel']).sum())


def test_example_weights_hold_a_dead_input_and_a_dead_unit():
  weights = testing.example_weights(jax.random.key(0), jnp.bfloat16)
  kernel = np.asarray(weights['dense0']['kernel'], np.float32)
  assert not kernel.any(1).all() and not kernel.any(0).all()
  assert {leaf.dtype for leaf in jax.tree.leaves(weights)} == {jnp.dtype(jnp.bfloat16)}
  assert {leaf.ndim for leaf in jax.tree.leaves(weights)} == {2, 4}


# --- law 1 ----------------------------------------------------------------------------------------


def test_another_dtype():
  fails(changed(lambda w: w.astype(jnp.float16)), 'law 1: dense/kernel is .*float16')


def test_another_shape():
  fails(changed(lambda w: w[:1]), r'law 1: dense/kernel is \(\(1, 4\)')


def test_another_path():
  fails(GOOD._replace(weights=lambda params, state, key=None: {'dense': {}}),
        r"law 1: weights has the paths \[\], init was given \['dense/kernel'\]")


def test_a_shape_that_is_wrong_only_when_drawn():
  def weights(params, state, key=None):
    return params if key is None else jax.tree.map(lambda w: w[None], params)
  fails(GOOD._replace(weights=weights), r'law 1: dense/kernel is \(\(1, 6, 4\)')


def test_a_value_that_differs_under_jit():
  fails(changed(lambda w: w * (1.001 if isinstance(w, jax.core.Tracer) else 1.0)),
        'law 1: jit against eager')


def test_a_draw_that_mixes_the_members_of_a_population():
  @jax.custom_batching.custom_vmap
  def scale(w):
    return w

  @scale.def_vmap
  def _(axis_size, in_batched, w):
    return w + w[:1], True

  @jax.custom_jvp
  def drawn(w):
    return scale(w)
  drawn.defjvp(lambda primals, tangents: (drawn(*primals), tangents[0]))
  fails(changed(drawn), "law 1: vmap against a single run, member 'init'")


# --- law 2 ----------------------------------------------------------------------------------------


def test_a_deployed_value_that_changes():
  calls = itertools.count()
  fails(changed(lambda w: w + 1e-3 * next(calls)), 'law 2: .* is not deterministic')


def test_a_deployed_value_that_is_structured():
  fails(changed(lambda w: Gaussian(w, jnp.square(w))), 'law 2: .* must be plain arrays')


def test_a_finalise_that_says_otherwise():
  low_rank = {'dense': {'kernel': LowRank(jnp.ones((6, 1)), jnp.ones((1, 4)))}}
  fails(GOOD._replace(finalise=lambda params, state: low_rank),
        "law 2: finalise against weights.*'dense'")


def test_a_finalise_that_is_wrong_only_after_training():
  method = sparsejax.magnitude_pruning(0.5)
  fails(method._replace(finalise=lambda params, state: jax.device_get(params)),
        'law 2: finalise against weights')


# --- law 3 ----------------------------------------------------------------------------------------


def nan_at_zero(tree):
  return jnp.sqrt(sum(jnp.square(w).sum() for w in jax.tree.leaves(tree)))


@pytest.mark.parametrize('penalty, place', [
    (lambda params, state, key=None: nan_at_zero(params), 'zero weights'),
    # Large enough to overflow at 20, and only there.
    (lambda params, state, key=None: jnp.exp(
        10 * params['dense']['kernel']).sum().astype(jnp.float32), r'\+20.0'),
    (lambda params, state, key=None: jnp.exp(-10 * params['dense']['kernel']).sum(), '-20.0')])
def test_a_gradient_that_is_not_finite(penalty, place):
  fails(GOOD._replace(penalty=penalty),
        rf'law 3: the gradient at dense/kernel \(drawn\) is not finite with parameters at {place}')


def test_a_gradient_that_is_not_finite_only_when_deployed():
  def penalty(params, state, key=None):
    return nan_at_zero(params) if key is None else jnp.zeros(())
  fails(GOOD._replace(penalty=penalty), r'law 3: .* \(deployed\) is not finite')


# --- law 4 ----------------------------------------------------------------------------------------


def test_a_penalty_for_each_weight():
  def penalty(params, state, key=None):
    return jnp.abs(params['dense']['kernel'])
  fails(GOOD._replace(penalty=penalty), r'law 4: the penalty is float32 of shape \(6, 4\)')


def test_a_penalty_of_another_dtype():
  def penalty(params, state, key=None):
    return jnp.sum(params['dense']['kernel']).astype(jnp.bfloat16)
  fails(GOOD._replace(penalty=penalty), 'law 4: the penalty is bfloat16')


def test_a_penalty_that_is_infinite():
  fails(GOOD._replace(penalty=lambda params, state, key=None: jnp.float32(jnp.inf)),
        'law 4: the penalty is inf')


def test_a_penalty_that_its_oracle_denies():
  fails(GOOD, 'law 4: the penalty against its oracle',
        oracle=lambda params, state: 0.2 * np.abs(params['dense']['kernel']).sum())


# --- law 5 ----------------------------------------------------------------------------------------


def masking(weights, update):
  """A mask that is drawn once, at the first update."""
  def init(key, given):
    return given, {'mask': jax.tree.map(lambda w: jnp.ones(w.shape, bool), given)}
  return Regulariser(init, weights, update=update)


def masked(params, state, key=None):
  return jax.tree.map(lambda w, m: jnp.where(m, w, 0.0), params, state['mask'])


def small_ones(params, state):
  """The mask without the weights below 0.3, those already gone among them."""
  return jax.tree.map(lambda w, m: m & (jnp.abs(w) > 0.3), params, state['mask'])


def once(step, new, old):
  return jax.tree.map(lambda n, o: jnp.where(step == 0, n, o), new, old)


def test_a_mask_that_is_applied_passes():
  def update(params, state, *, step, weight_grads=None, key=None):
    return params, {'mask': once(step, small_ones(params, state), state['mask'])}
  testing.check_regulariser(masking(masked, update), ONE)


def test_weights_that_are_zeroed_once_are_revived_by_momentum():
  def update(params, state, *, step, weight_grads=None, key=None):
    mask = once(step, small_ones(params, state), state['mask'])
    zeroed = jax.tree.map(lambda w, m: jnp.where(m, w, 0.0), params, mask)
    return once(step, zeroed, params), {'mask': mask}
  fails(masking(lambda params, state, key=None: params, update),
        'law 5: .* revived pruned weights of dense/kernel in step [01]')


def test_weights_that_are_zeroed_in_each_update_are_revived_by_an_average():
  def update(params, state, *, step, weight_grads=None, key=None):
    mask = once(step, small_ones(params, state), state['mask'])
    return jax.tree.map(lambda w, m: jnp.where(m, w, 0.0), params, mask), {'mask': mask}
  fails(masking(lambda params, state, key=None: params, update),
        'law 5: an average revived pruned weights of dense/kernel in step 0')


def test_a_mask_that_forgets_is_found():
  def update(params, state, *, step, weight_grads=None, key=None):
    return params, {'mask': jax.tree.map(lambda w: jnp.abs(w) > 0.3, params)}
  fails(masking(masked, update), 'law 5: momentum and decay revived pruned weights')


def test_a_mask_may_grow_back_from_zero():
  """As in RigL: what was pruned at one step is 0 when it is taken in again at the next."""
  def update(params, state, *, step, weight_grads=None, key=None):
    old = state['mask']
    new = jax.tree.map(lambda m: jnp.roll(m, 1, 0), once(step, small_ones(params, state), old))
    grown = jax.tree.map(lambda w, n, o: jnp.where(n & ~o, 0.0, w), params, new, old)
    return grown, {'mask': new}
  testing.check_regulariser(masking(masked, update), ONE)


# --- law 6 ----------------------------------------------------------------------------------------


def with_update(update):
  return GOOD._replace(update=update)


def test_an_update_that_changes_a_dtype():
  def update(params, state, *, step, weight_grads=None, key=None):
    return params, {'strength': state['strength'].astype(jnp.float16)}
  fails(with_update(update),
        r"law 6: update changes \.state\['strength'\] from float32\(\) to float16")


def test_an_update_that_changes_a_shape():
  def update(params, state, *, step, weight_grads=None, key=None):
    return jax.tree.map(lambda w: w[:, :1], params), state
  fails(with_update(update), r"law 6: update changes .*'kernel'.*\(6, 4\) to float32\(6, 1\)")


def test_an_update_that_adds_to_the_state():
  def update(params, state, *, step, weight_grads=None, key=None):
    return params, {**state, 'seen': step}
  fails(with_update(update), "law 6: update changes the structure .*'seen'")


def test_a_counter_in_python():
  calls = itertools.count()

  def update(params, state, *, step, weight_grads=None, key=None):
    return params, {'strength': state['strength'] + 0.1 * next(calls)}
  fails(with_update(update), 'law 6: traced again, the training step is another program')


def test_noise_from_outside_the_key():
  rng = np.random.default_rng(0)

  def update(params, state, *, step, weight_grads=None, key=None):
    noise = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    return jax.tree.map(lambda w: w + noise, params), state
  fails(with_update(update), 'law 6: traced again')


def test_what_only_the_device_remembers():
  # A callback keeps its own count, which no trace shows and no file holds.
  calls = itertools.count()
  number = jax.ShapeDtypeStruct((), jnp.float32)

  def update(params, state, *, step, weight_grads=None, key=None):
    count = jax.pure_callback(lambda _: np.float32(next(calls)), number, state['strength'],
                              vmap_method='sequential')
    return params, {'strength': state['strength'] + count}
  fails(with_update(update), r"law 6: \.params\['dense'\]\['kernel'\] differs after a restart")
