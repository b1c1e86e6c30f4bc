"""Sparse variational dropout: the summed KL and its derivative, noise, thresholds, a posterior."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import linen as nn
from numpyro.infer import MCMC, NUTS
from scipy import special

import sparsejax
from sparsejax.linear_rules import VARIANCE_EPSILON
from sparsejax.regularisers import variational_dropout
from sparsejax.regularisers.log_uniform import KL_FORMS
from sparsejax.regularisers.variational_dropout import sparse_variational_dropout, total_kl
from sparsejax.structured import Gaussian

FORMS = sorted(KL_FORMS)


def numpy_kl(log_alpha, form):
  """The KL of one weight in float64: eq. 14, or the Poisson mean of the exact form."""
  if form == 'approximation':
    return (0.63576 - 0.63576 * special.expit(1.87320 + 1.48695 * log_alpha)
            + 0.5 * np.log1p(np.exp(-log_alpha)))
  if form == 'first':
    return (0.64 - 0.64 * special.expit(1.5 * (log_alpha + 1.3))
            + 0.5 * np.log1p(np.exp(-log_alpha)))
  rate = 0.5 * np.exp(-log_alpha)
  j = np.arange(6000)
  probability = np.exp(-rate + j * np.log(rate) - special.gammaln(j + 1))
  return 0.5 * (np.euler_gamma + 2 * np.log(2) + probability @ special.digamma(j + 0.5))


# --- the summed KL --------------------------------------------------------------------------------


@pytest.mark.parametrize('form', FORMS)
def test_total_kl_sums_the_clipped_kl_of_each_weight(form):
  theta = np.array([[0.5, -2.0, 0.01], [1.0, 30.0, 1e-6]])
  log_sigma2 = np.array([[-3.0, 1.0, -9.0], [0.0, -9.0, 4.0]])
  log_alpha = log_sigma2 - np.log(theta**2 + 1e-8)
  assert (np.abs(log_alpha) > 8).sum() == 2  # one beyond each bound
  expected = sum(numpy_kl(a, form) for a in np.clip(log_alpha, -8, 8).ravel())
  found = total_kl(jnp.asarray(theta, jnp.float32), jnp.asarray(log_sigma2, jnp.float32), form, 8.0)
  assert found.shape == ()
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('clip', [8.0, None])
def test_total_kl_derivative_matches_autodiff_and_differences(form, clip):
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    theta = jnp.asarray(rng.normal(size=(6, 5)) * 10.0**rng.integers(-3, 2, (6, 5)))
    log_sigma2 = jnp.asarray(rng.uniform(-9, 3, (6, 5)))

    def plain(theta, log_sigma2):
      value = log_sigma2 - jnp.log(theta**2 + 1e-8)
      value = value if clip is None else jnp.clip(value, -clip, clip)
      return KL_FORMS[form](value).sum()

    def ours(theta, log_sigma2):
      return total_kl(theta, log_sigma2, form, clip)
    expected = jax.jit(jax.grad(plain, (0, 1)))(theta, log_sigma2)
    found = jax.jit(jax.grad(ours, (0, 1)))(theta, log_sigma2)
    for x, y in zip(found, expected, strict=True):
      np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(ours(theta, log_sigma2), plain(theta, log_sigma2), rtol=1e-12)

    # Along one direction; curvature terms are O(h^2) = 1e-12 relative to those of order one.
    h, direction = 1e-6, jnp.asarray(rng.normal(size=(6, 5)))
    scale = 1e-2 * jnp.abs(theta) * direction  # relative steps, for theta near zero
    inside = jnp.abs(jnp.abs(log_sigma2 - jnp.log(theta**2 + 1e-8)) - 8) > 1e-3
    scale, direction = scale * inside, direction * inside
    difference = (plain(theta + h * scale, log_sigma2 + h * direction)
                  - plain(theta - h * scale, log_sigma2 - h * direction)) / (2 * h)
    slope = jnp.vdot(found[0], scale) + jnp.vdot(found[1], direction)
    # Values of about 100 with 1e-16 rounding over 2e-6; the exact form's series stops at 1e-7.
    np.testing.assert_allclose(slope, difference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('form', FORMS)
def test_kl_falls_with_the_variance_and_rises_with_the_mean(form):
  theta = jnp.array([-2.0, -0.1, 0.3, 1.0])
  log_sigma2 = jnp.array([-4.0, -5.0, 0.0, 2.0])
  by_theta, by_log_sigma2 = jax.grad(total_kl, (0, 1))(theta, log_sigma2, form, 8.0)
  assert (by_log_sigma2 < 0).all()
  assert (by_theta * jnp.sign(theta) > 0).all()


@pytest.mark.parametrize('form', FORMS)
def test_nothing_pulls_a_weight_beyond_the_clip(form):
  theta, log_sigma2 = jnp.array([1.0, 1e-3, 0.5]), jnp.array([-9.0, 0.0, -1.0])
  slopes = jax.grad(total_kl, (0, 1))(theta, log_sigma2, form, 8.0)
  for slope in slopes:
    assert slope[0] == slope[1] == 0 != slope[2]


@pytest.mark.debug_nans
@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('clip', [8.0, None])
def test_derivative_is_finite_at_zero_and_extreme_weights(form, clip):
  theta = jnp.array([0.0, 0.0, 1e-20, 1e4, -1e4])
  log_sigma2 = jnp.array([-10.0, 10.0, -30.0, -30.0, 30.0])
  value, slopes = jax.value_and_grad(total_kl, (0, 1))(theta, log_sigma2, form, clip)
  assert np.isfinite(value) and all(np.isfinite(slope).all() for slope in slopes)
  np.testing.assert_array_equal(slopes[0][:2], 0)


def test_without_noise_the_kl_is_minus_half_log_alpha_and_a_constant():
  # At log alpha = -20 the rest is of order alpha = 2e-9.
  for form, constant in (('exact', 0.5 * (np.euler_gamma + np.log(2))), ('approximation', 0.63576)):
    kl = total_kl(jnp.array([1.0]), jnp.array([-20.0]), form, None)
    np.testing.assert_allclose(kl, 10 + constant, rtol=1e-6)


def test_penalty_is_strength_times_the_sum_over_leaves():
  tree = {'a': {'kernel': jnp.full((2, 3), 0.5)}, 'b': {'kernel': jnp.full((3, 1), -1.0)}}
  for form in FORMS:
    method = sparse_variational_dropout(0.7, kl=form, init_log_sigma2=-2.0)
    penalty = method.penalty(*method.init(jax.random.key(0), tree))
    expected = 0.7 * (6 * numpy_kl(-2 - np.log(0.25), form) + 3 * numpy_kl(-2.0, form))
    assert penalty.shape == ()
    np.testing.assert_allclose(penalty, expected, rtol=1e-5)


# --- noise ----------------------------------------------------------------------------------------


def numpy_outputs(name, x, kernel):
  """Each layer as a NumPy contraction without bias, for means and for variances."""
  if name == 'dense':
    return x @ kernel
  if name == 'general':
    return np.einsum('nab,abcd->ncd', x, kernel)
  # Convolution of (n, 5, 5, c) by (3, 3, c, o), stride 2, one row and column of zeros around.
  x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  rows = [[np.einsum('nabc,abco->no', x[:, i:i + 3, j:j + 3], kernel) for j in (0, 2, 4)]
          for i in (0, 2, 4)]
  return np.stack([np.stack(row, axis=1) for row in rows], axis=1)


LAYERS = {
    'dense': (nn.Dense(3), (2, 4), (4, 3)),
    'conv': (nn.Conv(2, (3, 3), strides=2, padding=1), (2, 5, 5, 2), (3, 3, 2, 2)),
    'general': (nn.DenseGeneral((2, 3), axis=(-2, -1)), (2, 3, 2), (3, 2, 2, 3)),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(LAYERS))
def test_local_noise_has_the_moments_of_drawn_weights(name):
  """Both against NumPy: outputs are Gaussian, so Var of a variance is 2 var^2 / n."""
  n = 100_000
  layer, x_shape, kernel_shape = LAYERS[name]
  rng = np.random.default_rng(0)
  x, theta = rng.normal(size=x_shape), rng.normal(size=kernel_shape)
  log_sigma2 = rng.uniform(-3, 0, size=kernel_shape)
  bias = rng.normal(size=kernel_shape[2:] if name == 'general' else kernel_shape[-1:])
  mean = numpy_outputs(name, x, theta) + bias
  variance = numpy_outputs(name, x**2, np.exp(log_sigma2))
  x = jnp.asarray(x, jnp.float32)
  params = {'theta': {'kernel': jnp.asarray(theta, jnp.float32)},
            'log_sigma2': {'kernel': jnp.asarray(log_sigma2, jnp.float32)}}
  bias = jnp.asarray(bias, jnp.float32)

  for noise, extra in (('local', VARIANCE_EPSILON), ('weight', 0.0)):
    method = sparse_variational_dropout(noise=noise)
    _, state = method.init(jax.random.key(0), params['theta'])

    def output(key, method=method, state=state):
      kernel = method.weights(params, state, key)['kernel']
      return sparsejax.apply(layer, {'params': {'kernel': kernel, 'bias': bias}}, x,
                             rngs={'noise': jax.random.fold_in(key, 1)})

    @jax.jit
    def moments(keys, output=output):
      def add(total, keys):
        centred = jax.vmap(output)(keys) - jnp.asarray(mean, jnp.float32)[None]
        return (total[0] + centred.sum(0), total[1] + jnp.square(centred).sum(0)), None
      zero = jnp.zeros(mean.shape)
      return jax.lax.scan(add, (zero, zero), keys.reshape(100, -1))[0]
    first, second = moments(jax.random.split(jax.random.key(7), n))
    variance_error = 5 * variance * np.sqrt(2 / n) + extra + 1e-4 * variance  # 1e-4: float32 sums
    np.testing.assert_array_less(np.abs(first) / n, 5 * np.sqrt(variance / n) + 1e-4)
    np.testing.assert_array_less(np.abs(second / n - variance), variance_error)


def test_one_key_draws_one_weight_and_leaves_differ():
  tree = {name: {'kernel': jnp.zeros((4, 5))} for name in ('a', 'b')}
  method = sparse_variational_dropout(noise='weight', init_log_sigma2=0.0)
  params, state = method.init(jax.random.key(0), tree)
  one = method.weights(params, state, jax.random.key(1))
  jax.tree.map(np.testing.assert_array_equal, one,
               method.weights(params, state, jax.random.key(1)))
  other = method.weights(params, state, jax.random.key(2))
  assert (one['a']['kernel'] != one['b']['kernel']).all()
  assert (one['a']['kernel'] != other['a']['kernel']).all()


def test_without_variance_the_deterministic_network_comes_back():
  rng = np.random.default_rng(2)
  tree = {'kernel': jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)}
  x = jnp.asarray(rng.normal(size=(5, 4)), jnp.float32)
  layer = nn.Dense(3, use_bias=False)
  plain = layer.apply({'params': tree}, x)
  for noise in ('local', 'weight'):
    method = sparse_variational_dropout(noise=noise, init_log_sigma2=-60.0)
    params, state = method.init(jax.random.key(0), tree)
    drawn = method.weights(params, state, jax.random.key(1))
    outputs = sparsejax.apply(layer, {'params': drawn}, x, rngs={'noise': jax.random.key(2)})
    # Under the square root of the variance stands 1e-8: 15 draws within six deviations of 1e-4.
    error = 6 * np.sqrt(VARIANCE_EPSILON) if noise == 'local' else 0
    np.testing.assert_allclose(outputs, plain, atol=error + 1e-6)


def test_clipped_variance_is_rebuilt_from_the_clipped_ratio():
  theta, log_sigma2 = jnp.array([[1.0, 1e-3, 2.0]]), jnp.array([[-12.0, 3.0, -1.0]])
  params = {'theta': {'kernel': theta}, 'log_sigma2': {'kernel': log_sigma2}}
  for clip_variance in (False, True):
    method = sparse_variational_dropout(clip=8.0, clip_variance=clip_variance)
    _, state = method.init(jax.random.key(0), params['theta'])
    box = method.weights(params, state, jax.random.key(1))['kernel']
    expected = np.exp(np.asarray(log_sigma2))
    if clip_variance:
      square = np.asarray(theta)**2 + 1e-8
      expected = np.clip(expected / square, np.exp(-8), np.exp(8)) * square
    np.testing.assert_allclose(box.var, expected, rtol=1e-5)


@pytest.mark.parametrize('clip_variance', [False, True])
def test_rows_looked_up_have_the_moments_of_the_posterior(clip_variance):
  theta, log_sigma2 = jnp.array([[1.0, 1e-3, 2.0]]), jnp.array([[-12.0, 3.0, -1.0]])
  params = {'theta': {'embedding': theta}, 'log_sigma2': {'embedding': log_sigma2}}
  method = sparse_variational_dropout(noise='rows', clip_variance=clip_variance)
  _, state = method.init(jax.random.key(0), params['theta'])
  n = 10_000

  @jax.jit
  @jax.vmap
  def row(key):
    drawn = {'params': method.weights(params, state, key)}
    return sparsejax.apply(nn.Embed(1, 3), drawn, jnp.zeros((), jnp.int32))

  rows = np.asarray(row(jax.random.split(jax.random.key(1), n)), np.float64)
  variance = np.exp(np.asarray(log_sigma2[0], np.float64))
  if clip_variance:
    square = np.asarray(theta[0])**2 + 1e-8
    variance = np.clip(variance / square, np.exp(-8), np.exp(8)) * square
  np.testing.assert_array_less(abs(rows.mean(0) - theta[0]), 5 * np.sqrt(variance / n))
  np.testing.assert_array_less(abs(rows.var(0) / variance - 1), 5 * np.sqrt(2 / n))


def test_shared_noise_is_the_local_one_with_a_mark():
  tree = {'kernel': jnp.ones((2, 3))}
  boxes = []
  for noise in ('local', 'local_shared'):
    method = sparse_variational_dropout(noise=noise)
    params, state = method.init(jax.random.key(0), tree)
    boxes.append(method.weights(params, state, jax.random.key(1))['kernel'])
  assert not boxes[0].shared and boxes[1].shared
  np.testing.assert_array_equal(boxes[0].var, boxes[1].var)


# --- what is deployed -----------------------------------------------------------------------------


def posterior(seed=3):
  rng = np.random.default_rng(seed)
  shapes = {'layers_0': {'kernel': (4, 6), 'bias': (6,)},
            'layers_2': {'kernel': (6, 3), 'bias': (3,)}}
  theta = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s), jnp.float32), shapes,
                       is_leaf=lambda s: isinstance(s, tuple))
  log_sigma2 = jax.tree.map(lambda t: jnp.asarray(rng.uniform(-6, 8, t.shape), jnp.float32), theta)
  return {'theta': theta, 'log_sigma2': log_sigma2}


def test_deployed_network_is_the_masked_plain_one():
  params = posterior()
  method = sparse_variational_dropout()
  _, state = method.init(jax.random.key(0), params['theta'])
  deployed = method.weights(params, state)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
  model = nn.Sequential([nn.Dense(6), nn.relu, nn.Dense(3)])
  outputs = sparsejax.apply(model, {'params': deployed}, x)  # no key: there is nothing to draw
  np.testing.assert_array_equal(outputs, sparsejax.apply(model, {'params': deployed}, x))

  def masked(theta, log_sigma2):
    theta, log_sigma2 = np.asarray(theta, np.float64), np.asarray(log_sigma2, np.float64)
    return np.where(log_sigma2 - np.log(theta**2 + 1e-8) < 3, theta, 0)
  first, second = (jax.tree.map(masked, params['theta'][n], params['log_sigma2'][n])
                   for n in ('layers_0', 'layers_2'))
  assert 0 < (first['kernel'] == 0).sum() < first['kernel'].size
  hidden = np.maximum(np.asarray(x) @ first['kernel'] + first['bias'], 0)
  np.testing.assert_allclose(outputs, hidden @ second['kernel'] + second['bias'],
                             rtol=1e-5, atol=1e-5)
  finalised = sparsejax.finalise(method, params, state)
  jax.tree.map(np.testing.assert_array_equal, finalised, deployed)


def test_threshold_reads_the_unclipped_ratio():
  theta = {'kernel': jnp.ones((3,))}
  log_sigma2 = {'kernel': jnp.array([7.5, 8.5, 9.5])}  # log alpha, as theta is one
  method = sparse_variational_dropout(threshold=9.0, clip=8.0)
  _, state = method.init(jax.random.key(0), theta)
  deployed = method.weights({'theta': theta, 'log_sigma2': log_sigma2}, state)
  np.testing.assert_array_equal(deployed['kernel'], [1, 1, 0])
  found = variational_dropout.log_alphas({'theta': theta, 'log_sigma2': log_sigma2})
  np.testing.assert_allclose(found['kernel'], [7.5, 8.5, 9.5], rtol=1e-6)


def test_a_higher_threshold_never_removes_more():
  params = posterior()
  removed = []
  for threshold in np.linspace(-6, 12, 19):
    method = sparse_variational_dropout(threshold=float(threshold))
    _, state = method.init(jax.random.key(0), params['theta'])
    deployed = method.weights(params, state)
    removed.append(sum(int((leaf == 0).sum()) for leaf in jax.tree.leaves(deployed)))
  assert (np.diff(removed) <= 0).all() and removed[0] > removed[-1]


# --- numbers, types, errors -----------------------------------------------------------------------


def test_weights_keep_bfloat16_and_the_variance_is_float32():
  tree = {'kernel': jnp.ones((3, 2), jnp.bfloat16)}
  for noise in ('local', 'weight'):
    method = sparse_variational_dropout(noise=noise)
    params, state = method.init(jax.random.key(0), tree)
    assert params['log_sigma2']['kernel'].dtype == jnp.float32
    drawn = method.weights(params, state, jax.random.key(1))['kernel']
    assert drawn.dtype == jnp.bfloat16 and drawn.shape == (3, 2)
    if noise == 'local':
      assert isinstance(drawn, Gaussian) and drawn.var.dtype == jnp.float32
    assert method.weights(params, state)['kernel'].dtype == jnp.bfloat16
    slopes = jax.grad(method.penalty)(params, state)
    assert method.penalty(params, state).dtype == jnp.float32
    assert slopes['theta']['kernel'].dtype == jnp.bfloat16


def test_state_follows_schedules_and_keeps_written_numbers():
  schedule = optax.linear_schedule(0.0, 1.0, 10)
  method = sparse_variational_dropout(schedule, threshold=3.0)
  params, state = method.init(jax.random.key(0), {'kernel': jnp.ones((2, 2))})
  state = {**state, 'threshold': jnp.float32(2.5)}  # as a controller writes it
  for k in range(12):
    np.testing.assert_allclose(state['strength'], schedule(k), rtol=1e-6)
    params, state = method.update(params, state, step=k)
  assert state['threshold'] == 2.5


def test_a_traced_strength_works_under_jit_and_vmap():
  tree = {'kernel': jnp.ones((2, 2))}

  def penalty(strength):
    method = sparse_variational_dropout(strength)
    return method.penalty(*method.init(jax.random.key(0), tree))
  swept = jax.jit(jax.vmap(penalty))(jnp.array([0.0, 0.5, 2.0]))
  np.testing.assert_allclose(swept, [penalty(0.0), penalty(0.5), penalty(2.0)], rtol=1e-6)


@pytest.mark.parametrize('arguments, message', [
    ({'strength': -0.1}, 'strength=-0.1'),
    ({'strength': float('inf')}, 'strength=inf'),
    ({'noise': 'global'}, "noise='global'"),
    ({'kl': 'wrong'}, "kl='wrong'"),
    ({'clip': None, 'clip_variance': True}, 'clip_variance=True'),
])
def test_wrong_arguments_raise_and_say_which(arguments, message):
  with pytest.raises(ValueError, match=message):
    sparse_variational_dropout(**arguments)


# --- a posterior ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_posterior_of_one_slope_matches_nuts():
  """Linear regression with one slope, y = w x + noise, against NUTS and against quadrature.

  Under the improper prior the posterior has no finite mass either: 1 / |w| is not integrable at 0,
  where the likelihood is positive, and a chain of NUTS would drift into that pole sooner or later.
  NUTS runs on a proper stand-in, the log-uniform prior cut to [0.05, 20], which has the same shape
  where the data put the slope: the likelihood is N(w; 1, 0.2^2), five deviations from 0, and holds
  less than 1e-5 of the mass near the cut. There the two posteriors differ by the variational gap:
  the exact mean and variance are those of N(w; m, s^2) / w, by quadrature below.
  """
  m, s = 1.0, 0.2
  rng = np.random.default_rng(0)
  x = rng.normal(size=20)
  x /= np.linalg.norm(x)  # sum x^2 = 1, so noise of deviation s makes the slope N(m, s^2)
  y = m * x + rng.normal(size=20) * s
  y += (m - x @ y) * x    # the least-squares slope is exactly m
  x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)

  def model():
    w = numpyro.sample('w', dist.LogUniform(0.05, 20.0))
    numpyro.sample('y', dist.Normal(w * x, s).to_event(1), obs=y)
  mcmc = MCMC(NUTS(model), num_warmup=500, num_samples=8000, progress_bar=False)
  mcmc.run(jax.random.key(0))
  w = np.asarray(mcmc.get_samples()['w'], np.float64)
  effective = numpyro.diagnostics.effective_sample_size(w[None])
  mean_error = 5 * w.std() / np.sqrt(effective)
  std_error = 5 * w.std() / np.sqrt(2 * effective)

  grid = np.linspace(0.05, 3, 20_000)
  density = np.exp(-0.5 * ((grid - m) / s)**2) / grid
  density /= density.sum()
  mean = density @ grid
  std = np.sqrt(density @ (grid - mean)**2)
  assert abs(w.mean() - mean) < mean_error and abs(w.std() - std) < std_error
  method = sparse_variational_dropout(kl='exact', init_log_sigma2=-4.0)
  params, state = method.init(jax.random.key(0), {'kernel': jnp.ones((1, 1))})

  def bound(params):
    """Minus the evidence bound: a quadratic likelihood has its mean in closed form."""
    theta, variance = params['theta']['kernel'][0, 0], jnp.exp(params['log_sigma2']['kernel'][0, 0])
    squares = jnp.square(y - theta * x).sum() + variance * jnp.square(x).sum()
    return squares / (2 * s**2) + method.penalty(params, state)
  optimiser = optax.adam(optax.cosine_decay_schedule(0.02, 1500))

  @jax.jit
  def fit(params):
    def step(carry, _):
      params, moments = carry
      updates, moments = optimiser.update(jax.grad(bound)(params), moments)
      return (optax.apply_updates(params, updates), moments), None
    return jax.lax.scan(step, (params, optimiser.init(params)), None, length=1500)[0][0]
  params = fit(params)
  theta = float(params['theta']['kernel'][0, 0])
  sigma = float(jnp.exp(0.5 * params['log_sigma2']['kernel'][0, 0]))
  # The Gaussian family misses the skew: third derivatives of log w shift the mean by s^4 / m^3
  # and the deviation by as much; three times that, for the next orders and Adam's last steps.
  gap = 3 * s**4 / m**3
  assert abs(m - mean) > gap + mean_error  # without the prior's pull this test would fail
  assert abs(theta - mean) < gap and abs(sigma - std) < gap
  assert abs(theta - w.mean()) < gap + mean_error and abs(sigma - w.std()) < gap + std_error
