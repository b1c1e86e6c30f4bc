"""The table of methods and the laws on each row; a new method adds one row."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, special, stats

import sparsejax
from sparsejax import testing
from sparsejax.paths import flatten, fold, unflatten
from sparsejax.ranking import norms
from sparsejax.testing import check_regulariser, example_weights

# --- oracles: penalties in nats, in NumPy, from the papers' formulas ------------------------------


def l0_oracle(axis, tied=False):
  """Louizos et al. 2018, eq. 12 and the activity-weighted L2 term."""
  def oracle(params, state):
    shift = 2 / 3 * math.log(0.1 / 1.1)
    total = 0.0
    gates = {path: a.reshape(-1) for path, a in flatten(params['log_alpha']).items()}
    for path, w in flatten(params['weight']).items():
      log_alpha = next(iter(gates.values())) if tied else gates[path]
      rows = np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1)
      for a, row in zip(log_alpha, rows):
        in_use = 1 / (1 + math.exp(-(a - shift)))
        total += in_use * state['strength'] * row.size
        total += in_use * 0.5 * float(state.get('l2', 0.0)) * (row**2).sum()
    return total
  return oracle


def exact_kl(log_alpha):
  """KL from the log-uniform prior by the Poisson mixture of digammas, in float64."""
  rate = 0.5 * np.exp(-np.reshape(log_alpha, (-1, 1)))
  j = np.arange(2000)
  return 0.5 * (np.euler_gamma + 2 * math.log(2)
                + (stats.poisson.pmf(j, rate) * special.digamma(j + 0.5)).sum(1))


def approximate_kl(log_alpha):
  """Eq. 14 of Molchanov et al. 2017."""
  s = 1 / (1 + np.exp(-(1.8732 + 1.48695 * log_alpha)))
  return 0.63576 - 0.63576 * s + 0.5 * np.log1p(np.exp(-log_alpha))


def vd_oracle(kl):
  def oracle(params, state):
    total = 0.0
    for theta, log_sigma2 in zip(flatten(params['theta']).values(),
                                 flatten(params['log_sigma2']).values()):
      total += kl(np.clip(log_sigma2 - np.log(theta**2 + 1e-8), -8, 8)).sum()
    return state['strength'] * total
  return oracle


def group_lasso_oracle(axis):
  def oracle(params, state):
    total = 0.0
    for w in flatten(params).values():
      rows = np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1)
      total += sum(math.sqrt(row.size) * np.linalg.norm(row) for row in rows)
    return state['strength'] * total
  return oracle


def block_norms_oracle(b_in, b_out, gates=1):
  """Narang et al. 2017: the plain sum of block norms, edges ragged, no block across two gates."""
  def oracle(params, state):
    total = 0.0
    for w in flatten(params).values():
      for gate in np.split(w.reshape(-1, w.shape[-1]), gates, axis=1):
        total += sum(np.linalg.norm(gate[i:i + b_in, j:j + b_out])
                     for i in range(0, len(gate), b_in) for j in range(0, gate.shape[1], b_out))
    return state['group_lasso'] * total
  return oracle


def blockwise_oracle(oracle):
  """That of the method inside, on its (blocks, entries)."""
  return lambda params, state: oracle(params, state['blockwise'])


def l1_oracle(params, state):
  return state['strength'] * sum(np.abs(w).sum() for w in flatten(params).values())


def decay_oracle(params, state):
  return 0.5 * state['strength'] * sum((w**2).sum() for w in flatten(params).values())


def soft_sharing_oracle(shared=True):
  """Ullrich et al. 2017: -log p(w) summed, and the priors of the mixture, by SciPy."""
  def oracle(params, state):
    flat = flatten(params['mixture'])
    total = 0.0
    for group in {path.rpartition('/')[0] for path in flat}:
      own = {path.rpartition('/')[2]: leaf for path, leaf in flat.items()
             if path.rpartition('/')[0] == group}
      logit = own.get('zero_logit')
      zero = state['zero_mixing'] if logit is None else special.expit(logit)
      if logit is not None:
        total -= stats.beta.logpdf(zero, state['zero_alpha'], state['zero_beta'])
      mixing = np.append(zero, (1 - zero) * special.softmax(own['log_mixing']))
      means, deviations = np.append(0, own['means']), np.exp(-own['log_precisions'] / 2)
      for path, w in flatten(params['weight']).items():
        if shared or path.rpartition('/')[0] == group:
          terms = stats.norm.logpdf(w[..., None], means, deviations)
          total -= special.logsumexp(terms, axis=-1, b=mixing).sum()
      if 'shape' in state:
        shapes = np.append(state['zero_shape'], np.full(means.size - 1, state['shape']))
        rates = np.append(state['zero_rate'], np.full(means.size - 1, state['rate']))
        total -= stats.gamma.logpdf(deviations**-2.0, shapes, scale=1 / rates).sum()
    return state['strength'] * total
  return oracle


def random_code_oracle(params, state):
  """KL(N(theta, s^2) || N(0, prior^2)) of each block that is not coded, times its factor."""
  total = 0.0
  for path, theta in flatten(params['theta']).items():
    variance, prior = (np.exp(np.clip(flatten(params[name])[path], -30, 10))
                       for name in ('log_sigma2', 'log_sigma2_prior'))
    kl = 0.5 * (variance / prior + theta**2 / prior - 1 - np.log(variance / prior)).reshape(-1)
    leaf = state['leaves']
    for name in path.split('/'):
      leaf = leaf[name]
    for block, factor in enumerate(np.where(leaf['fixed'], 0, leaf['factor'])):
      total += factor * kl[block::len(leaf['factor'])].sum()
  return total


def no_cost(params, state):
  del params, state
  return 0.0


TIED = {'dense0/kernel': -1, 'conv/kernel': -1}


def example_codes():
  """Codes 0 to 5 of the leaves of `example_weights`; nobody has code 3."""
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda w: np.array([0, 1, 2, 4, 5])[rng.integers(5, size=w.shape)],
                      example_weights(jax.random.key(0)))


METHODS = {
    'l0': (sparsejax.l0_hard_concrete(0.1), l0_oracle(-2)),
    'l0_l2_output': (sparsejax.l0_hard_concrete(0.1, l2=0.7, axis=-1), l0_oracle(-1)),
    'l0_example': (sparsejax.l0_hard_concrete(0.1, per='example'), l0_oracle(-2)),
    'l0_scheduled': (sparsejax.l0_hard_concrete(optax.linear_schedule(0.1, 1.0, 5)), l0_oracle(-2)),
    'vd_local': (sparsejax.sparse_variational_dropout(), vd_oracle(approximate_kl)),
    'vd_weight': (sparsejax.sparse_variational_dropout(noise='weight'), vd_oracle(approximate_kl)),
    'vd_shared': (sparsejax.sparse_variational_dropout(noise='local_shared'),
                  vd_oracle(approximate_kl)),
    'vd_rows': (sparsejax.sparse_variational_dropout(noise='rows'), vd_oracle(approximate_kl)),
    'vd_clipped': (sparsejax.sparse_variational_dropout(0.5, clip_variance=True),
                   vd_oracle(approximate_kl)),
    'vd_exact': (sparsejax.sparse_variational_dropout(kl='exact', init_log_sigma2=-3.0),
                 vd_oracle(exact_kl)),
    'magnitude': (sparsejax.magnitude_pruning(0.5, every=3), no_cost),
    'magnitude_gradual': (sparsejax.magnitude_pruning(
        sparsejax.cubic_sparsity(0.8, 0, 8), every=2, allocation='global'), no_cost),
    'magnitude_erk': (sparsejax.magnitude_pruning(0.5, allocation='erk', granularity='column'),
                      no_cost),
    'magnitude_block': (sparsejax.magnitude_pruning(0.5, granularity=(2, 2)), no_cost),
    'magnitude_2_4': (sparsejax.magnitude_pruning(0.5, granularity='2:4'), no_cost),
    'static_mask': (sparsejax.static_mask(0.3, allocation='erk'), no_cost),
    'set': (sparsejax.sparse_evolutionary_training(0.3, every=3), no_cost),
    'rigl': (sparsejax.rigl(0.3, every=3, end=9), no_cost),
    'straight_through': (sparsejax.straight_through_magnitude(0.5), no_cost),
    'l1': (sparsejax.l1(0.3), l1_oracle),
    'group_lasso': (sparsejax.group_lasso(0.3, axis=-2), group_lasso_oracle(-2)),
    'targeted': (sparsejax.targeted(sparsejax.group_lasso(0.3, axis=-2), 0.4, ramp_steps=10,
                                    every=2, ranking=norms(), landing_step=5),
                 group_lasso_oracle(-2)),
    'l0_block': (sparsejax.blockwise(sparsejax.l0_hard_concrete(0.1), (4, 3)),
                 blockwise_oracle(l0_oracle(-2))),
    'group_lasso_block': (sparsejax.blockwise(sparsejax.group_lasso(0.3), (2, 3)),
                          blockwise_oracle(group_lasso_oracle(-2))),
    'block_pruning': (sparsejax.block_pruning(1.0, start=1, ramp=4, end=8, freq=2), no_cost),
    'block_pruning_group_lasso': (sparsejax.block_pruning(
        0.6, start=1, ramp=4, end=8, freq=2, block_size=(3, 4), group_lasso=0.3),
        block_norms_oracle(3, 4)),
    'block_pruning_proximal': (sparsejax.block_pruning(
        0.6, start=1, ramp=4, end=8, freq=2, block_size=2, gates=2, group_lasso=0.3,
        proximal_step=0.02), block_norms_oracle(2, 2, gates=2)),
    'block_sparse': (sparsejax.block_sparse((4, 3), density=0.5), no_cost),
    'block_sparse_magnitude': (sparsejax.block_sparse((4, 4), layout='magnitude', density=0.6,
                                                      pad=True), no_cost),
    'block_set': (sparsejax.block_set((2, 3), 0.5, every=3), no_cost),
    'block_rigl': (sparsejax.block_rigl((2, 3), 0.5, every=3, end=9), no_cost),
    'soft_sharing': (sparsejax.soft_weight_sharing(5, 0.9, strength=0.3), soft_sharing_oracle()),
    'soft_sharing_layers': (sparsejax.soft_weight_sharing(
        4, (9.0, 1.0), None, strength=0.3, shared=False, merge_below=1e-3),
        soft_sharing_oracle(shared=False)),
    'random_code': (sparsejax.minimal_random_code(
        4, 5, start=2, end=8, every=2, init_factor=0.7), random_code_oracle),
    'shared_codebook': (sparsejax.shared_codebook(example_codes()), no_cost),
    'weight_decay': (sparsejax.weight_decay(0.3), decay_oracle),
    'dropout': (sparsejax.dropout(0.5), no_cost),
    'dropout_batch': (sparsejax.dropout(0.5, per='batch', axis=-1), no_cost),
    'affine': (sparsejax.affine_weights(4, axis=-1), no_cost),
    'affine_unsigned': (sparsejax.affine_weights(4, signed=False), no_cost),
    'uniform': (sparsejax.uniform_weights(2, bound=1.0), no_cost),
    'power_of_two': (sparsejax.power_of_two_weights(3), no_cost),
    'ternary': (sparsejax.ternary_weights(0.7, axis=-1), no_cost),
    'trained_ternary': (sparsejax.trained_ternary_weights(0.3), no_cost),
    'binary': (sparsejax.binary_weights(), no_cost),
    'binary_connect': (sparsejax.binary_connect(), no_cost),
    'binary_connect_stochastic': (sparsejax.binary_connect(stochastic=True), no_cost),
}


# Variants of a method whose first row is checked in the fast job.
SLOW_ROWS = (
    'l0_l2_output', 'l0_scheduled', 'vd_clipped', 'vd_exact', 'magnitude_gradual', 'magnitude_erk',
    'magnitude_2_4', 'group_lasso_block', 'block_pruning_group_lasso', 'block_sparse_magnitude',
    'block_pruning_proximal', 'soft_sharing_layers', 'dropout_batch', 'affine_unsigned',
    'power_of_two', 'binary_connect_stochastic')


ROWS = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW_ROWS else name
        for name in METHODS]


@pytest.mark.parametrize('name', ROWS)
def test_laws(name):
  method, oracle = METHODS[name]
  # float32 sums of some 300 terms against float64
  check_regulariser(method, oracle=oracle, oracle_tolerance=2e-5)


@pytest.mark.parametrize('name', METHODS)
def test_bfloat16_stays(name):
  method, key = METHODS[name][0], jax.random.key(0)
  weights = example_weights(key, jnp.bfloat16)
  params, state = jax.eval_shape(method.init, key, weights)
  testing.check_shapes(method, weights, params, state, key)
  for path, leaf in flatten(params).items():
    # What a method adds (variances, gates, a mixture, scales) is float32 whatever the weights are.
    added = path.startswith(('log_alpha', 'log_sigma2', 'mixture', 'scale'))
    assert leaf.dtype == (jnp.float32 if added else jnp.bfloat16), path


@pytest.mark.debug_nans
@pytest.mark.parametrize('name', ROWS)
def test_gradients_make_no_nan_on_the_way(name):
  method, _ = METHODS[name]
  weights = {'dense0': {'kernel': jnp.zeros((8, 6))}}
  params, state = jax.jit(method.init)(jax.random.key(0), weights)

  def loss(params):
    drawn = method.weights(params, state, jax.random.key(1))
    floats = [leaf for leaf in jax.tree.leaves(drawn) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return sum(leaf.sum() for leaf in floats) + method.penalty(params, state, jax.random.key(1))
  # Not under jit, where only what comes out in the end is looked at.
  jax.block_until_ready(jax.grad(loss)(params))


def test_partition_obeys_the_laws():
  rules = {'gates': ('dense0/kernel', METHODS['l0'][0]),
           'noise': ('conv/kernel', METHODS['vd_local'][0])}

  def oracle(params, state):
    return (l0_oracle(-2)(params['gates'], state['gates'])
            + vd_oracle(approximate_kl)(params['noise'], state['noise']))
  check_regulariser(sparsejax.partition(**rules), oracle=oracle, oracle_tolerance=2e-5)


def test_tied_gates_obey_the_laws():
  weights = example_weights(jax.random.key(2))
  del weights['head']
  method = sparsejax.l0_hard_concrete(0.1, l2=0.2, axis=TIED, tied=True)
  check_regulariser(method, weights, oracle=l0_oracle(-1, tied=True), oracle_tolerance=2e-5)


def group_oracle(kl):
  """One Gaussian variable per entry of `mean`, whatever it multiplies."""
  def oracle(params, state):
    total = 0.0
    for mean, log_sigma in zip(flatten(params['mean']).values(),
                               flatten(params['log_sigma']).values()):
      total += kl(np.clip(2 * log_sigma - np.log(mean**2 + 1e-8), -8, 8)).sum()
    return state['strength'] * total
  return oracle


def test_group_variables_obey_the_laws():
  inner = sparsejax.partition(noise=('dense0/kernel', METHODS['vd_weight'][0]),
                              conv=('conv/kernel', METHODS['vd_shared'][0]))
  method = sparsejax.group_variables(
      inner, {'rows': {'dense0/kernel': -2, 'head/kernel': -2}, 'columns': {'dense0/kernel': -1},
              'filters': {'conv/kernel': -1}}, strength=0.7, kl='exact', init_log_sigma=-2.0)

  def oracle(params, state):
    own = sum(vd_oracle(approximate_kl)(params['inner'][rule], state['inner'][rule])
              for rule in ('noise', 'conv'))
    return own + group_oracle(exact_kl)(params, state)
  check_regulariser(method, oracle=oracle, oracle_tolerance=2e-5)


@pytest.mark.slow
def test_bayesian_rnn_obeys_the_laws():
  key = jax.random.key(1)
  shapes = {'embed/embedding': (5, 2), 'cell0/in/kernel': (2, 3), 'cell0/hn/kernel': (3, 3),
            'cell0/hn/bias': (3,), 'head/kernel': (3, 2)}
  weights = unflatten({path: jax.random.normal(fold(key, path), shape)
                       for path, shape in shapes.items()})

  def oracle(params, state):
    own = sum(vd_oracle(approximate_kl)(params['inner'][rule], state['inner'][rule])
              for rule in ('embedding', 'cells', 'head'))
    return own + group_oracle(approximate_kl)(params, state)
  check_regulariser(sparsejax.bayesian_rnn(), weights, oracle=oracle, oracle_tolerance=2e-5)


@pytest.mark.parametrize('name', ['l0', 'l0_example', 'vd_local', 'magnitude', 'group_lasso'])
def test_stacked_obeys_the_laws(name):
  weights = {'layers': {'kernel': jax.random.normal(jax.random.key(0), (3, 8, 4))}}
  method, oracle = METHODS[name]

  def each_layer(params, state):
    return sum(oracle(*jax.tree.map(lambda leaf: leaf[i], (params, state))) for i in range(3))
  check_regulariser(sparsejax.stacked(method), weights, oracle=each_layer, oracle_tolerance=2e-5)


# One row of each method; the variants of a method share its params.
CHAINED = ['l0', 'l0_example', 'vd_local', 'vd_weight', 'magnitude', 'l1', 'group_lasso',
           'weight_decay', 'dropout']


@pytest.mark.parametrize('outer', CHAINED)
def test_chain_of_any_two_rows_is_finite_or_refused_by_name(outer):
  weights = {'dense0': example_weights(jax.random.key(3))['dense0']}
  key = jax.random.key(4)
  for inner in CHAINED:
    both = sparsejax.chain(METHODS[outer][0], METHODS[inner][0])

    @jax.jit
    def one_step(weights, both=both):
      params, state = both.init(key, weights)

      def loss(params):
        drawn = both.weights(params, state, key)
        floats = [x for x in jax.tree.leaves(drawn) if jnp.issubdtype(x.dtype, jnp.floating)]
        return sum(x.astype(jnp.float32).sum() for x in floats) + both.penalty(params, state, key)
      return jax.grad(loss)(params), both.update(params, state, step=0, key=key)
    try:
      result = one_step(weights)
    except ValueError as error:
      named = any(word in str(error) for word in ('chain', 'axis', 'divide', 'granularity'))
      assert named, f'{outer} on {inner}: {error}'
      continue
    for leaf in jax.tree.leaves(result):
      assert np.all(np.isfinite(leaf)), f'{outer} on {inner}'


@pytest.mark.parametrize('log_alpha', [-3.0, 0.0, 3.0])
def test_exact_kl_oracle_agrees_with_quadrature(log_alpha):
  scale = math.exp(log_alpha / 2)
  mean, _ = integrate.quad(lambda e: math.log(abs(1 + scale * e)) * stats.norm.pdf(e), -12, 12,
                           points=[-1 / scale], limit=200)
  wanted = -0.5 * log_alpha + mean + 0.5 * (np.euler_gamma + math.log(2))
  np.testing.assert_allclose(exact_kl(log_alpha), wanted, rtol=1e-5)
