"""Three posteriors over one tiny regression network: by NUTS, by mean-field VI, by sparse VD.

The network is f(x) = v . tanh(W x + b) + c, the targets are N(f(x), noise^2). All three infer the
noise too, under the same prior, HalfNormal(1) in units of the standardised targets. What differs:

* `run_nuts`: samples of the exact posterior under N(0, 1 / fan in) kernels and N(0, 1) biases.
* `mean_field`: independent Gaussians for every weight and log noise, the same priors (ELBO).
* `sparse_vd`: independent Gaussians for W and v under the log-uniform prior, by this library's
  regulariser with one drawn weight a pass; b and c are point estimates, as in the paper; the
  factor of log noise is that of `mean_field`.

Weights have symmetries (hidden units can be exchanged, signs flipped together), so chains that
have found the same function may sit at different weights. Chains are compared by what they predict.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, init_to_sample
from numpyro.infer.autoguide import AutoNormal

import sparsejax
from sparsejax.paths import Tree, flatten

Array = jax.Array

PARTICLES = 8            # draws of the ELBO's gradient a step, alike in both variational methods
LEARNING_RATE = 0.01     # of Adam, falling to 0 as a half cosine
NOISE_SD = 0.1           # of log noise in the first variational factor


class Draws(NamedTuple):
  """What a posterior predicts: functions (S, m) at the test inputs, noise sds (S,), in seconds."""
  functions: np.ndarray
  sds: np.ndarray
  seconds: float


class Chains(NamedTuple):
  """Samples {site: (chains, draws, ...)} of NUTS, how its trajectories went, and how long it took.

  `steps` is the mean number of leapfrog steps of a draw, `accepted` the mean acceptance.
  """
  samples: dict[str, Array]
  divergences: int
  steps: float
  accepted: float
  seconds: float


def network(weights: Tree, inputs: Array) -> Array:
  """Returns f (n,) of inputs (n, d) for weights {'hidden': ..., 'head': ...} of kernels, biases."""
  hidden, head = weights['hidden'], weights['head']
  units = jnp.tanh(inputs @ hidden['kernel'] + hidden['bias'][None])
  return (units @ head['kernel'])[:, 0] + head['bias']


def shapes(inputs: int, hidden: int) -> Tree:
  """Shapes of the weights of `network`."""
  return {'hidden': {'kernel': (inputs, hidden), 'bias': (hidden,)},
          'head': {'kernel': (hidden, 1), 'bias': (1,)}}


def network_model(inputs: Array, targets: Array | None = None, hidden: int = 10) -> None:
  """The NumPyro model: Gaussian weights, HalfNormal(1) noise, Gaussian targets."""
  def weight(site, shape):
    return numpyro.sample(site, dist.Normal(jnp.zeros(shape), _prior_sd(shape)).to_event())
  weights = {layer: {name: weight(f'{layer}/{name}', shape) for name, shape in sizes.items()}
             for layer, sizes in shapes(inputs.shape[1], hidden).items()}
  noise = numpyro.sample('noise', dist.HalfNormal(1.0))
  numpyro.sample('targets', dist.Normal(network(weights, inputs), noise), obs=targets)


def run_nuts(model: Callable[..., None], key: Array, *data: Any, warmup: int, draws: int,
             chains: int) -> Chains:
  """Samples any NumPyro model, one chain after the other; chains start at draws of the prior.

  Args:
    model: called as model(*data). warmup, draws: of each chain.
  """
  start = time.perf_counter()
  sampler = MCMC(NUTS(model, init_strategy=init_to_sample), num_warmup=warmup, num_samples=draws,
                 num_chains=chains, chain_method='sequential', progress_bar=False)
  sampler.run(key, *data, extra_fields=('diverging', 'num_steps', 'accept_prob'))
  samples = jax.block_until_ready(sampler.get_samples(group_by_chain=True))
  extra = sampler.get_extra_fields()
  return Chains(samples, int(extra['diverging'].sum()), float(extra['num_steps'].mean()),
                float(extra['accept_prob'].mean()), time.perf_counter() - start)


def predictions(samples: dict[str, Array], inputs: Array) -> Array:
  """f (..., m) at inputs (m, d) for samples of `network_model` with any leading axes."""
  lead = samples['noise'].ndim
  function = functools.partial(_from_sites, inputs=inputs)
  for _ in range(lead):
    function = jax.vmap(function)
  return jax.jit(function)({site: value for site, value in samples.items() if site != 'noise'})


def mixing(quantity: Array) -> tuple[float, float]:
  """Returns (largest split R-hat, smallest effective sample size) of (chains, draws, ...)."""
  host = np.asarray(quantity, np.float64)
  return float(np.max(split_gelman_rubin(host))), float(np.min(effective_sample_size(host)))


def mean_field(key: Array, inputs: Array, targets: Array, test_inputs: Array, *, hidden: int,
               steps: int, draws: int) -> Draws:
  """NumPyro's AutoNormal on `network_model`, trained on the ELBO; draws of what it predicts."""
  start = time.perf_counter()
  model = functools.partial(network_model, hidden=hidden)
  guide = AutoNormal(model, init_scale=NOISE_SD, init_loc_fn=init_to_sample)
  svi = SVI(model, guide, optax.adam(_learning_rate(steps)), Trace_ELBO(num_particles=PARTICLES))
  train_key, draw_key = jax.random.split(key)
  result = svi.run(train_key, steps, inputs, targets, progress_bar=False)
  samples = guide.sample_posterior(draw_key, result.params, sample_shape=(draws,))
  functions = np.asarray(predictions(samples, test_inputs))
  return Draws(functions, np.asarray(samples['noise']), time.perf_counter() - start)


class SparseDraws(NamedTuple):
  """Draws of sparse VD; those of its deployed network, which differ in the noise alone; counts."""
  posterior: Draws
  deployed: Draws
  kernels_total: int
  kernels_kept: int


def sparse_vd(key: Array, inputs: Array, targets: Array, test_inputs: Array, *, hidden: int,
              steps: int, draws: int) -> SparseDraws:
  """Sparse variational dropout on both kernels of `network`, and what it predicts.

  The KL is warmed up over the first half of the steps: from the start it removes every weight
  before the network has learned to use one.
  """
  start = time.perf_counter()
  method = sparsejax.partition(
      kernels=('.*/kernel', sparsejax.sparse_variational_dropout(noise='weight')))
  init_key, train_key, draw_key = jax.random.split(key, 3)
  weights = {layer: {name: _initial(init_key, layer, name, shape) for name, shape in sizes.items()}
             for layer, sizes in shapes(inputs.shape[1], hidden).items()}
  params, state = method.init(init_key, weights)
  noise = {'mean': jnp.zeros(()), 'log_sd': jnp.log(jnp.float32(NOISE_SD))}
  trained = {'method': params, 'noise': noise}
  optimiser = optax.adam(_learning_rate(steps))

  def bound(trained, key, weight):
    """The negative ELBO in nats per example, of one draw."""
    weight_key, noise_key = jax.random.split(key)
    drawn = method.weights(trained['method'], state, weight_key)
    log_noise, noise_kl = _draw_noise(trained['noise'], noise_key)
    likelihood = dist.Normal(network(drawn, inputs), jnp.exp(log_noise)).log_prob(targets)
    kl = weight * method.penalty(trained['method'], state) + noise_kl
    return (kl - likelihood.sum()) / len(targets)

  def step(carry, index):
    trained, optimiser_state = carry
    keys = jax.random.split(jax.random.fold_in(train_key, index), PARTICLES)
    weight = jnp.minimum(1.0, 2.0 * index / steps)
    grads = jax.grad(lambda t: jax.vmap(lambda key: bound(t, key, weight))(keys).mean())(trained)
    updates, optimiser_state = optimiser.update(grads, optimiser_state)
    return (optax.apply_updates(trained, updates), optimiser_state), None

  @jax.jit
  def train(trained):
    return jax.lax.scan(step, (trained, optimiser.init(trained)), jnp.arange(steps))[0][0]

  trained = train(trained)

  def predict(key):
    weight_key, noise_key = jax.random.split(key)
    drawn = method.weights(trained['method'], state, weight_key)
    return network(drawn, test_inputs), jnp.exp(_draw_noise(trained['noise'], noise_key)[0])
  functions, sds = jax.jit(jax.vmap(predict))(jax.random.split(draw_key, draws))
  deployed = method.weights(trained['method'], state)
  kernels = [leaf for path, leaf in flatten(deployed).items() if path.endswith('kernel')]
  point = np.asarray(network(deployed, test_inputs))[None].repeat(draws, axis=0)
  seconds = time.perf_counter() - start
  return SparseDraws(Draws(np.asarray(functions), np.asarray(sds), seconds),
                     Draws(point, np.asarray(sds), seconds),
                     sum(kernel.size for kernel in kernels),
                     int(sum(jnp.count_nonzero(kernel) for kernel in kernels)))


def _prior_sd(shape: tuple[int, ...]) -> float:
  """1 / sqrt(fan in) for a kernel, so that the prior over functions has the targets' scale."""
  return 1.0 if len(shape) == 1 else shape[0]**-0.5


def _from_sites(sites: dict[str, Array], inputs: Array) -> Array:
  weights: Tree = {}
  for site, value in sites.items():
    layer, name = site.split('/')
    weights.setdefault(layer, {})[name] = value
  return network(weights, inputs)


def _initial(key: Array, layer: str, name: str, shape: tuple[int, ...]) -> Array:
  """LeCun's normal kernels and zero biases."""
  if name == 'bias':
    return jnp.zeros(shape)
  layer_key = jax.random.fold_in(key, ('hidden', 'head').index(layer))
  return jax.random.normal(layer_key, shape) / np.sqrt(shape[0])


def _draw_noise(factor: Tree, key: Array) -> tuple[Array, Array]:
  """A draw of log noise, and there log q - log p with p of HalfNormal(1) noise."""
  q = dist.Normal(factor['mean'], jnp.exp(factor['log_sd']))
  log_noise = q.sample(key)
  prior = dist.HalfNormal(1.0).log_prob(jnp.exp(log_noise)) + log_noise    # density of the log
  return log_noise, q.log_prob(log_noise) - prior


def _learning_rate(steps: int) -> optax.Schedule:
  return optax.cosine_decay_schedule(LEARNING_RATE, steps)
