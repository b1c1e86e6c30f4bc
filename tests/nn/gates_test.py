"""Tests of HardConcreteGate against closed forms and SciPy's logistic distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from sparsejax.nn import HardConcreteGate

KEY = jax.random.key(0)


def with_log_alpha(*values):
  return {'params': {'log_alpha': jnp.array(values)}}


def test_frequencies_of_zero_and_one_match_the_logistic_distribution():
  n = 4000
  v = with_log_alpha(-2.0, 0.0, 3.0)
  x = jnp.ones((2, 3))
  z = jax.vmap(lambda k: HardConcreteGate().apply(v, x, rngs={'noise': k}))(
      jax.random.split(KEY, n))
  # z = 0 iff the logistic noise is at most beta logit(-gamma / (zeta - gamma)) - log_alpha.
  limit = 2 / 3 * special.logit(0.1 / 1.2) - np.array([-2.0, 0.0, 3.0])
  for zeros, p in zip(np.asarray(z == 0).mean(0), stats.logistic.cdf(limit), strict=True):
    assert abs(zeros - p) < 5 * np.sqrt(p * (1 - p) / n) + 1 / n
  limit = 2 / 3 * special.logit(1.1 / 1.2) - np.array([-2.0, 0.0, 3.0])
  for ones, p in zip(np.asarray(z == 1).mean(0), stats.logistic.sf(limit), strict=True):
    assert abs(ones - p) < 5 * np.sqrt(p * (1 - p) / n) + 1 / n


def test_deterministic_gates_are_equation_13():
  v = with_log_alpha(-3.0, 0.5, 4.0)
  z = HardConcreteGate(deterministic=True).apply(v, jnp.ones((2, 3)))
  expected = np.clip(special.expit([-3.0, 0.5, 4.0]) * 1.2 - 0.1, 0, 1)
  np.testing.assert_allclose(z, expected, rtol=1e-6)
  assert z[0] == 0 and z[2] == 1


def test_sown_loss_is_strength_times_the_expected_l0_norm_once():
  v = with_log_alpha(-3.0, 0.5, 4.0)
  gate = HardConcreteGate(strength=0.7)
  expected = special.expit(np.array([-3.0, 0.5, 4.0]) - 2 / 3 * np.log(0.1 / 1.1)).sum()
  for _ in range(2):
    _, changed = gate.apply(v, jnp.ones((2, 3)), rngs={'noise': KEY}, mutable=['losses'])
    np.testing.assert_allclose(changed['losses']['expected_l0'], 0.7 * expected, rtol=1e-6)
    v = {**v, **changed}
  np.testing.assert_allclose(gate.apply(v, method='expected_l0'), expected, rtol=1e-6)


def test_init_has_the_axis_and_the_location_of_the_drop_rate():
  v = HardConcreteGate(axis=1, drop_rate=0.2).init(KEY, jnp.ones((2, 1000, 3)))
  assert set(v) == {'params'}
  log_alpha = v['params']['log_alpha']
  assert log_alpha.shape == (1000,)
  assert abs(log_alpha.mean() - np.log(4)) < 5 * 0.01 / np.sqrt(1000)


def test_update_clips_and_clamp_none_leaves_free():
  v = with_log_alpha(-9.0, 0.0, 9.0)
  _, new = HardConcreteGate().apply(v, step=0, method='update', mutable=['params'])
  np.testing.assert_allclose(new['params']['log_alpha'], [np.log(0.01), 0, np.log(100)], rtol=1e-6)
  _, new = HardConcreteGate(clamp=None).apply(v, step=0, method='update', mutable=['params'])
  np.testing.assert_array_equal(new['params']['log_alpha'], v['params']['log_alpha'])


def test_gradient_of_the_loss_is_finite_at_extremes():
  gate = HardConcreteGate()

  def loss(v):
    z, changed = gate.apply(v, jnp.ones((2, 3)), rngs={'noise': KEY}, mutable=['losses'])
    return z.sum() + changed['losses']['expected_l0']

  grads = jax.grad(loss)(with_log_alpha(-100.0, 0.0, 100.0))
  assert jnp.isfinite(grads['params']['log_alpha']).all()


@pytest.mark.parametrize('arguments, message', [
    ({'gamma': 0.1}, 'gamma < 0, 1 < zeta'),
    ({'drop_rate': 1.0}, 'between 0 and 1'),
    ({'axis': 2}, 'gate axis 2 does not exist'),
])
def test_wrong_arguments_are_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    HardConcreteGate(**arguments).init(KEY, jnp.ones((2, 3)))


def test_missing_noise_is_named():
  with pytest.raises(ValueError, match="HardConcreteGate are drawn .* 'noise'"):
    HardConcreteGate().apply(with_log_alpha(0.0, 0.0, 0.0), jnp.ones((2, 3)))
