"""The hard-concrete distribution against SciPy, Monte Carlo and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions.batch_util import vmap_over
from numpyro.distributions.kl import kl_divergence
from numpyro.infer import MCMC, NUTS, SVI, TraceMeanField_ELBO
from scipy import integrate, stats

from sparsejax.distributions import HardConcrete
from sparsejax.regularisers import hard_concrete

# log_alpha, beta, gamma, zeta
CASES = [
    (0.0, 2 / 3, -0.1, 1.1),
    (1.3863, 2 / 3, -0.1, 1.1),
    (-2.4, 2 / 3, -0.1, 1.1),
    (0.5, 1.7, -0.3, 1.05),
    (-1.0, 0.3, -0.01, 1.2),
]
FLOAT32 = 2e-6  # about 16 roundings of numbers near 1, in sums of positive terms


BELOW_ONE = np.nextafter(1.0, 0.0)
sample = jax.jit(lambda gate, key, shape: gate.sample(key, shape), static_argnums=2)


def gates(cases=CASES):
  """The cases as one batch."""
  return HardConcrete(*(jnp.array(column) for column in zip(*cases, strict=True)))


def exact_cdf(z, log_alpha, beta, gamma, zeta):
  """P(gate <= z) by the logistic variable behind it, in float64."""
  t = (np.clip(z, 0, 1) - gamma) / (zeta - gamma)
  inside = stats.logistic.cdf(beta * np.log(t / (1 - t)) - log_alpha)
  return np.where(z < 0, 0.0, np.where(z >= 1, 1.0, inside))


def exact_expectation(function, case):
  """E[function(gate)], by adaptive quadrature over u of the sampling formula."""
  log_alpha, beta, gamma, zeta = case

  def gate(u):
    s = 1 / (1 + np.exp(-(np.log(u / (1 - u)) + log_alpha) / beta))
    return min(1.0, max(0.0, s * (zeta - gamma) + gamma))
  ends = exact_cdf(np.array([0.0, 1.0 - 1e-12]), *case)
  parts = [(0.0, ends[0]), (ends[0], ends[1]), (ends[1], 1.0)]
  return sum(
      integrate.quad(lambda u: function(gate(u)), low + 1e-15, high - 1e-15, epsabs=1e-11)[0]
      for low, high in parts)


def test_atoms_and_cdf_match_the_logistic_variable():
  z = np.concatenate([np.linspace(-0.5, 1.5, 101), [0.0, 1.0]]).astype(np.float32)
  cdf = jax.jit(lambda gates, z: gates.cdf(z))(gates(), jnp.repeat(z[:, None], len(CASES), 1))
  zero, one = gates().prob_zero, gates().prob_one
  for i, case in enumerate(CASES):
    np.testing.assert_allclose(cdf[:, i], exact_cdf(z.astype(np.float64), *case), atol=FLOAT32)
    np.testing.assert_allclose(zero[i], exact_cdf(0.0, *case), atol=FLOAT32)
    np.testing.assert_allclose(one[i], 1 - exact_cdf(BELOW_ONE, *case), atol=FLOAT32)
    log_alpha, *limits = case
    np.testing.assert_allclose(
        1 - zero[i], hard_concrete.nonzero_probability(log_alpha, *limits), atol=FLOAT32)
    np.testing.assert_allclose(
        one[i], hard_concrete.one_probability(log_alpha, *limits), atol=FLOAT32)


def test_density_is_the_derivative_of_the_cdf_and_the_mass_is_one():
  z, h = np.linspace(0.02, 0.98, 25), 1e-5
  middles = (np.arange(4000) + 0.5) / 4000
  points = np.concatenate([z, middles, [0.0, 1.0]]).astype(np.float32)
  log_prob = jax.jit(lambda gates, z: gates.log_prob(z))(
      gates(), jnp.repeat(points[:, None], len(CASES), 1))
  log_prob = np.asarray(log_prob, np.float64)
  for i, case in enumerate(CASES):
    slope = (exact_cdf(z + h, *case) - exact_cdf(z - h, *case)) / (2 * h)
    # The O(h^2) term of the difference is below 1e-5 here; the rest is float32.
    np.testing.assert_allclose(np.exp(log_prob[:25, i]), slope, rtol=3e-5)
    np.testing.assert_allclose(log_prob[-2, i], np.log(exact_cdf(0.0, *case)), rtol=1e-5)
    np.testing.assert_allclose(log_prob[-1, i], np.log1p(-exact_cdf(BELOW_ONE, *case)), rtol=1e-5)
    # The midpoint rule: h^2 / 24 times f'(1) - f'(0), below 100 for these cases.
    mass = np.exp(log_prob[25:-2, i]).mean() + np.exp(log_prob[-2:, i]).sum()
    np.testing.assert_allclose(mass, 1, atol=1e-5)


def test_moments_match_adaptive_quadrature():
  """The last case is nearly certain: its variance must not be lost against its mean."""
  cases = [*CASES, (12.0, 2 / 3, -0.1, 1.1)]
  found = jax.jit(lambda g: (g.mean, g.variance))(gates(cases))
  for i, case in enumerate(cases):
    rest = exact_expectation(lambda z: 1 - z, case)
    variance = exact_expectation(lambda z, rest=rest: (1 - z - rest)**2, case)
    np.testing.assert_allclose(found[0][i], 1 - rest, rtol=1e-5)
    np.testing.assert_allclose(found[1][i], variance, rtol=1e-4 if i == len(CASES) else 1e-5)


def test_samples_have_these_moments_and_this_cdf():
  n = 400_000
  gate = gates()
  z = np.asarray(sample(gate, jax.random.key(3), (n,)), np.float64)
  assert z.shape == (n, len(CASES))
  error = 5 * np.sqrt(np.asarray(gate.variance) / n) + 2 * hard_concrete.U_MARGIN
  np.testing.assert_array_less(np.abs(z.mean(0) - gate.mean), error)
  # A variable in [0, 1] has Var((z - m)^2) <= Var(z): fourth powers are below squares.
  np.testing.assert_array_less(np.abs(z.var(0) - gate.variance), error)
  for point in (0.0, 0.1, 0.5, 0.9):
    p = np.asarray(gate.cdf(point))
    error = 5 * np.sqrt(p * (1 - p) / n) + 2 * hard_concrete.U_MARGIN
    np.testing.assert_array_less(np.abs((z <= point).mean(0) - p), error)


def test_icdf_inverts_the_cdf_between_the_atoms():
  gate = HardConcrete(0.3)
  q = jnp.linspace(0.01, 0.99, 99)
  z = gate.icdf(q)
  assert np.all(np.asarray(z)[np.asarray(q) <= gate.prob_zero] == 0)
  assert np.all(np.asarray(z)[np.asarray(q) >= 1 - gate.prob_one] == 1)
  inside = (z > 0) & (z < 1)
  assert 20 < inside.sum() < 99
  np.testing.assert_allclose(gate.cdf(z)[inside], q[inside], atol=FLOAT32)


def numerical_gradient(function, arguments, h):
  """Central differences of a scalar function of a vector."""
  unit = np.eye(len(arguments))
  return np.array([
      (function(arguments + h * e) - function(arguments - h * e)) / (2 * h) for e in unit])


def test_gradients_of_log_prob_match_finite_differences():
  arguments, values = np.array([0.4, 0.7, -0.12, 1.15]), np.array([0.0, 0.3, 0.95, 1.0])
  with jax.enable_x64(True):
    @jax.jit
    def log_prob(a, z):
      return HardConcrete(*a).log_prob(z)
    by_arguments, by_value = jax.jit(jax.vmap(jax.grad(log_prob, (0, 1)), (None, 0)))(
        jnp.asarray(arguments), jnp.asarray(values))
    # Differences: h^2 = 1e-10 times third derivatives (up to 2 / 0.05^3), and 1e-16 / h.
    for i, z in enumerate(values):
      expected = numerical_gradient(lambda a, z=z: log_prob(a, z), arguments, 1e-5)
      np.testing.assert_allclose(by_arguments[i], expected, rtol=1e-5, atol=1e-5)
    for i in (1, 2):
      slope, = numerical_gradient(lambda z: log_prob(arguments, z[0]), values[i:i + 1], 1e-5)
      np.testing.assert_allclose(by_value[i], slope, rtol=1e-5)


def test_pathwise_gradients_of_samples_match_those_of_the_moments():
  """E[g(z)] is differentiable and g(z) is continuous, so both gradients agree."""
  arguments = jnp.array([0.4, 0.7, -0.12, 1.15])

  def square(a, key):
    return jnp.square(HardConcrete(*a).sample(key))
  keys = jax.random.split(jax.random.key(5), 200_000)
  each = np.asarray(jax.jit(jax.vmap(jax.grad(square), (None, 0)))(arguments, keys), np.float64)
  exact = jax.jit(jax.grad(
      lambda a: HardConcrete(*a).variance + HardConcrete(*a).mean**2))(arguments)
  error = 5 * each.std(0) / np.sqrt(len(keys)) + 1e-5
  np.testing.assert_array_less(np.abs(each.mean(0) - exact), error)


def test_gradients_stay_finite_for_extreme_gates():
  def everything(log_alpha):
    gate, other = HardConcrete(log_alpha), HardConcrete(0.0)
    z = gate.sample(jax.random.key(0), (1000,)).sum()
    logs = gate.log_prob(jnp.array([0.0, 0.5, 1.0]))
    return jnp.stack([gate.mean, gate.variance, gate.entropy(), z, *logs,
                      kl_divergence(gate, other), kl_divergence(other, gate)])
  log_alpha = jnp.array([-60.0, -20.0, 20.0, 60.0])
  assert np.isfinite(jax.jit(jax.vmap(everything))(log_alpha)).all()
  assert np.isfinite(jax.jit(jax.vmap(jax.jacrev(everything)))(log_alpha)).all()


def test_entropy_and_divergence_match_monte_carlo():
  n = 200_000
  p = HardConcrete(jnp.array([-1.0, 0.5, 2.0]))
  q = HardConcrete(0.7, 0.9, -0.2, 1.05)
  @jax.jit
  def logs(p, q, key):
    z = p.sample(key, (n,))
    return p.log_prob(z), q.log_prob(z)
  log_p, log_q = (np.asarray(log, np.float64) for log in logs(p, q, jax.random.key(9)))
  for exact, each in ((p.entropy(), -log_p), (kl_divergence(p, q), log_p - log_q)):
    assert exact.shape == (3,)
    error = 5 * each.std(0) / np.sqrt(n) + 1e-5
    np.testing.assert_array_less(np.abs(each.mean(0) - exact), error)


def test_divergence_vanishes_only_between_equals_and_broadcasts():
  divergences = jax.jit(lambda p, q: kl_divergence(p, q))  # jit needs a plain function
  p, q = HardConcrete(jnp.array([[0.0], [1.0]])), HardConcrete(jnp.array([0.0, 1.0, 3.0]))
  both = np.asarray(divergences(p, q))
  assert both.shape == (2, 3)
  np.testing.assert_allclose([both[0, 0], both[1, 1]], 0, atol=FLOAT32)
  assert (both > -FLOAT32).all() and both[0, 1] > 0.01
  expanded = divergences(HardConcrete(0.0).expand((4,)), HardConcrete(1.0))
  np.testing.assert_allclose(expanded, np.full(4, both[0, 1]), rtol=1e-5)
  summed = divergences(HardConcrete(jnp.zeros(3)).to_event(1),
                       HardConcrete(jnp.ones(3)).to_event(1))
  np.testing.assert_allclose(summed, 3 * both[0, 1], rtol=1e-5)


def test_no_divergence_from_a_bernoulli_variable():
  with pytest.raises(NotImplementedError):
    kl_divergence(HardConcrete(0.0), dist.Bernoulli(0.5))


def test_shapes():
  gate = HardConcrete(jnp.zeros((3, 1)), beta=jnp.full((4,), 0.5))
  assert gate.batch_shape == (3, 4) and gate.event_shape == ()
  key = jax.random.key(0)

  def shape(function, *arguments):
    return jax.eval_shape(function, *arguments).shape  # shapes need no compilation
  assert shape(gate.sample, key) == (3, 4)
  assert shape(lambda k: gate.sample(k, (5, 2)), key) == (5, 2, 3, 4)
  for name in ('mean', 'variance', 'prob_zero', 'prob_one'):
    assert shape(lambda name=name: getattr(gate, name)) == (3, 4)
  assert shape(gate.entropy) == (3, 4)
  for function in (gate.log_prob, gate.cdf, gate.icdf):
    assert shape(function, 0.5) == (3, 4)
    assert shape(function, jnp.zeros((5, 3, 4))) == (5, 3, 4)
    assert shape(function, jnp.zeros((5, 1, 4))) == (5, 3, 4)
  wide = HardConcrete(jnp.zeros(4)).expand((3, 4))
  assert shape(lambda k: wide.sample(k, (2,)), key) == (2, 3, 4)
  assert shape(wide.log_prob, jnp.zeros((2, 3, 4))) == (2, 3, 4)
  rows = HardConcrete(jnp.zeros((3, 4))).to_event(1)
  assert rows.batch_shape == (3,) and shape(rows.log_prob, jnp.ones((3, 4))) == (3,)
  assert HardConcrete.infer_shapes((3, 1), (4,)) == ((3, 4), ())


def test_expanded_samples_are_independent():
  z = HardConcrete(0.0).expand((2, 50_000)).sample(jax.random.key(1))
  # A correlation of independent pairs is within 5 / sqrt(n).
  assert abs(np.corrcoef(np.asarray(z))[0, 1]) < 5 / np.sqrt(50_000)


def test_a_sample_is_that_of_the_regulariser():
  log_alpha = jnp.array([-1.0, 0.0, 2.0])
  z = HardConcrete(log_alpha).sample(jax.random.key(4), (7,))
  np.testing.assert_array_equal(z, hard_concrete.sample(jax.random.key(4), (7, 3), log_alpha))


def test_it_is_a_pytree_that_jit_and_vmap_accept():
  log_alpha = jnp.array([-1.0, 0.0, 2.0])
  gate = HardConcrete(log_alpha, gamma=-0.2)
  leaves, structure = jax.tree.flatten(gate)
  again = jax.tree.unflatten(structure, leaves)
  assert again.batch_shape == (3,)
  np.testing.assert_array_equal(again.mean, gate.mean)

  value = jnp.array([0.0, 0.5, 1.0])
  def logs(gate, value):
    return gate.log_prob(value), gate.cdf(value), gate.mean
  eager = logs(gate, value)
  made = jax.vmap(lambda a: HardConcrete(a, gamma=-0.2))(log_alpha)
  axes = vmap_over(made, log_alpha=0, beta=0, gamma=0, zeta=0)
  # Elementwise formulas: other compilations differ by a few roundings.
  for other in (jax.jit(logs)(gate, value), jax.vmap(logs, (axes, 0))(made, value)):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=3e-6, atol=3e-7), eager, other)


@pytest.mark.parametrize('name, value', [
    ('beta', 0.0), ('beta', -1.0), ('gamma', 0.0), ('gamma', 0.1), ('zeta', 1.0), ('zeta', 0.9),
    ('log_alpha', float('nan')),
])
def test_arguments_out_of_range_raise(name, value):
  arguments = {'log_alpha': 0.0, name: value}
  with pytest.raises(ValueError, match=f'invalid {name} parameter.*gamma < 0 < 1 < zeta'):
    HardConcrete(**arguments, validate_args=True)
  HardConcrete(**arguments, validate_args=False)


def test_values_outside_the_support_warn_and_have_no_density():
  gate = HardConcrete(0.0, validate_args=True)
  with pytest.warns(UserWarning, match='Out-of-support'):
    # Inside the stretched interval the formula is finite, so only the support can refuse.
    assert gate.log_prob(1.05) == -np.inf
  assert bool(gate.support(0.0)) and bool(gate.support(1.0)) and not bool(gate.support(1.0001))


# --- inside NumPyro models ------------------------------------------------------------------------


def gated_regression(x, y):
  """Two inputs of weight 1, each behind a gate; only the first matters."""
  with numpyro.plate('inputs', 2):
    gates = numpyro.sample('gates', HardConcrete(-1.0))
  numpyro.sample('y', dist.Normal(x @ gates, 0.5).to_event(1), obs=y)


def gate_guide(x, y):
  del x, y
  log_alpha = numpyro.param('log_alpha', jnp.zeros(2))
  with numpyro.plate('inputs', 2):
    numpyro.sample('gates', HardConcrete(log_alpha))


def regression_data():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(64, 2)).astype(np.float32)
  return jnp.asarray(x), jnp.asarray(x[:, 0] + 0.5 * rng.normal(size=64).astype(np.float32))


@pytest.mark.slow
def test_svi_opens_the_gate_that_matters_and_closes_the_other():
  x, y = regression_data()
  svi = SVI(gated_regression, gate_guide, numpyro.optim.Adam(0.05),
            TraceMeanField_ELBO(num_particles=4))
  result = svi.run(jax.random.key(0), 300, x, y, progress_bar=False)
  gates = HardConcrete(result.params['log_alpha'])
  assert np.isfinite(result.losses).all()
  assert np.mean(result.losses[-50:]) < np.mean(result.losses[:50])
  assert gates.mean[0] > 0.8 and gates.mean[1] < 0.3


@pytest.mark.slow
def test_the_elbo_and_its_gradient_are_unbiased():
  """Against the closed form: a quadratic in the gates needs only their moments."""
  x, y = regression_data()
  prior = HardConcrete(-1.0)

  def exact(log_alpha):
    gates = HardConcrete(log_alpha)
    squares = jnp.square(y - x @ gates.mean).sum() + (jnp.square(x) @ gates.variance).sum()
    normaliser = y.size * jnp.log(0.5 * jnp.sqrt(2 * jnp.pi))
    return squares / (2 * 0.5**2) + normaliser + kl_divergence(gates, prior).sum()

  log_alpha = jnp.array([0.5, -0.5])
  elbo = TraceMeanField_ELBO(num_particles=1)
  def loss(a, key):
    return elbo.loss(key, {'log_alpha': a}, gated_regression, gate_guide, x, y)
  keys = jax.random.split(jax.random.key(2), 5_000)
  values, slopes = jax.jit(jax.vmap(jax.value_and_grad(loss), (None, 0)))(log_alpha, keys)
  expected, slope = jax.value_and_grad(exact)(log_alpha)
  values, slopes = np.asarray(values, np.float64), np.asarray(slopes, np.float64)
  root = np.sqrt(len(keys))
  assert abs(values.mean() - expected) < 5 * values.std() / root
  np.testing.assert_array_less(np.abs(slopes.mean(0) - slope), 5 * slopes.std(0) / root)


def test_nuts_is_refused_by_name():
  x, y = regression_data()
  mcmc = MCMC(NUTS(gated_regression), num_warmup=2, num_samples=2, progress_bar=False)
  with pytest.raises(ValueError, match='atoms at 0 and 1.*TraceMeanField_ELBO'):
    mcmc.run(jax.random.key(0), x, y)
