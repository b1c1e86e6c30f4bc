"""Both frameworks compute the same numbers from the same weights, images and noise."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, stats

from benchmarks import cases, jax_steps
from sparsejax.paths import flatten
from sparsejax.regularisers import hard_concrete, variational_dropout
from sparsejax.training.fit import start, train_step

torch = pytest.importorskip('torch', reason='PyTorch is the optional extra `bench`')
from benchmarks import torch_steps  # noqa: E402  (it imports torch)

BATCH = 16
# Rounding of a float32 sum of n terms is below n * 2^-24 of the sum of their sizes. The longest
# sums here run over 800 terms, through four layers forth and back.
RELATIVE = 8 * 800 * 2.0**-24
KEEP_GRADIENTS = optax.GradientTransformation(
    lambda params: params,
    lambda grads, state, params: (jax.tree.map(jnp.zeros_like, grads), grads))


def close(ours, theirs):
  ours, theirs = np.asarray(ours), np.asarray(theirs)
  assert ours.shape == theirs.shape
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=RELATIVE * np.abs(theirs).max())


def torch_layout(tree):
  """{'layer/kernel', 'layer/bias'} in PyTorch's layout from {layer: {'kernel', 'bias'}}."""
  return {path: tensor.numpy() for path, tensor in torch_steps.to_torch(tree).items()}


def joined(params, method):
  """{layer: {'kernel', 'bias'}} of our params: theta or the gated weight with the free biases."""
  layers = {}
  for part in params.values():
    part = part.get({'l0': 'weight', 'vd': 'theta'}.get(method), part)
    for path, leaf in flatten(part).items():
      layer, name = path.split('/')
      layers.setdefault(layer, {})[name] = np.asarray(leaf)
  return layers


@pytest.mark.parametrize('network', cases.NETWORKS)
@pytest.mark.parametrize('method', cases.METHODS)
def test_one_step_has_the_same_gradients(network, method, monkeypatch):
  """An optimiser that only keeps the gradients shows those of our training step.

  Both get the same noise: a gate's u is 0.6 and a weight's standard normal draw 0.7 everywhere.
  """
  monkeypatch.setattr(jax.random, 'normal',
                      lambda key, shape=(), dtype=float: jnp.full(shape, 0.7, jnp.float32))
  monkeypatch.setattr(jax.random, 'uniform',
                      lambda key, shape=(), dtype=float, minval=0.0, maxval=1.0:
                      jnp.full(shape, minval + 0.6 * (maxval - minval), jnp.float32))
  data = cases.synthetic_data(examples=BATCH)
  recipe = jax_steps.recipe(network, method, BATCH, optimiser=KEEP_GRADIENTS)
  weights = jax_steps.initial_weights(network)
  state = start(recipe, jax.random.key(0), jnp.asarray(data.images[:1]))
  params, _ = recipe.regulariser.init(jax.random.key(0), weights)
  if method == 'vd':  # large enough variances for the noise to matter
    params = jax.tree.map(lambda p: jnp.where(p == cases.VD_INIT_LOG_SIGMA2, -5.0, p), params)
  state = state._replace(params=params)
  step = jax.jit(lambda state, images, labels: train_step(recipe, state, images, labels))
  after, loss = step(state._replace(optimiser=params), data.images, data.labels)
  ours = jax.device_get(after.optimiser)

  theirs = torch_steps.start_params(method, torch_steps.to_torch(weights))
  with torch.no_grad():
    for path, tensor in theirs.items():
      if path.endswith('log_sigma2'):
        tensor.fill_(-5.0)
      elif path.endswith('log_alpha'):
        layer = path.split('/')[0]
        part = params['filters' if layer.startswith('conv') else 'units']['log_alpha']
        tensor.copy_(torch.from_numpy(np.array(part[layer]['kernel']).ravel()))
        if network == 'lenet_5_caffe' and layer == 'dense':  # (h, w, c) there, (c, h, w) here
          tensor.copy_(tensor.reshape(4, 4, 50).permute(2, 0, 1).ravel())
  objective = torch_steps.objective(
      network, method, theirs, torch.from_numpy(data.images),
      torch.from_numpy(data.labels).long(), uniform=lambda shape: torch.full(shape, 0.6),
      normal=lambda shape: torch.full(shape, 0.7))
  objective.backward()
  penalty = 0.0
  if method == 'l0':
    penalty = float(recipe.regulariser.penalty(params, state.method_state)) / cases.EXAMPLES
  close(float(loss) + penalty, float(objective.detach()))

  expected = {path: tensor.grad.numpy() for path, tensor in theirs.items()}
  for path, gradient in torch_layout(joined(ours, method)).items():
    close(gradient, expected[path])
  if method == 'vd':
    spread = {layer: {'kernel': np.asarray(leaf['kernel']), 'bias': np.zeros(1)}
              for layer, leaf in ours['weights']['log_sigma2'].items()}
    for path, gradient in torch_layout(spread).items():
      if path.endswith('kernel'):
        close(gradient, expected[f'{path}/log_sigma2'])
  if method == 'l0':
    for layer, leaf in [item for rule in ours.values() if 'log_alpha' in rule
                        for item in rule['log_alpha'].items()]:
      gradient = leaf['kernel'].ravel()
      if network == 'lenet_5_caffe' and layer == 'dense':
        gradient = gradient.reshape(4, 4, 50).transpose(2, 0, 1).ravel()
      close(gradient, expected[f'{layer}/kernel/log_alpha'])


def test_kl_agrees_and_its_gradient_is_that_of_its_value():
  rng = np.random.default_rng(0)
  theta = rng.normal(size=(40, 30)).astype(np.float32) * 0.1
  log_sigma2 = rng.uniform(-12, 6, size=(40, 30)).astype(np.float32)
  t, s = torch.from_numpy(theta).requires_grad_(), torch.from_numpy(log_sigma2).requires_grad_()
  value = torch_steps.kl(t, s)
  close(variational_dropout.total_kl(jnp.asarray(theta), jnp.asarray(log_sigma2)), value.detach())
  expected = torch.autograd.grad(value, (t, s))
  found = torch.autograd.grad(torch_steps.KLGradient.apply(t, s), (t, s))
  for ours, theirs in zip(found, expected, strict=True):
    close(ours, theirs)


def test_gates_agree_on_the_same_uniform_numbers():
  log_alpha = np.linspace(-4, 4, 50, dtype=np.float32)
  key = jax.random.key(3)
  u = jax.random.uniform(key, (50,), minval=hard_concrete.U_MARGIN,
                         maxval=1 - hard_concrete.U_MARGIN)
  ours = hard_concrete.sample(key, (50,), jnp.asarray(log_alpha))
  close(ours, torch_steps.hard_concrete(torch.from_numpy(log_alpha), torch.from_numpy(np.array(u))))


def test_expected_l0_is_the_probability_of_a_gate_above_zero():
  log_alpha = 0.3
  def above_zero(u):
    return float(torch_steps.hard_concrete(torch.tensor(log_alpha), torch.tensor(u))) > 0
  edges = np.linspace(1e-4, 1 - 1e-4, 2001)
  opens = edges[np.argmax([above_zero(u) for u in edges])]
  expected = 12 * (1 - opens)
  found = float(torch_steps.expected_l0(torch.tensor([log_alpha] * 3), 12))
  assert abs(found - expected) <= 12 * (edges[1] - edges[0])


def test_kl_falls_as_the_integral_says():
  # KL(a) - KL(b) = log(b / a) / 2 + E log|1 + sqrt(a) e| - E log|1 + sqrt(b) e|, and eq. 14 is
  # within 0.01 nats of the exact value at each end.
  def mean_log(alpha):
    def integrand(e):
      return stats.norm.pdf(e) * math.log(abs(1 + math.sqrt(alpha) * e))
    pole = -1 / math.sqrt(alpha)
    return integrate.quad(integrand, -12, pole)[0] + integrate.quad(integrand, pole, 12)[0]
  a, b = 1.0, 10.0
  expected = 0.5 * math.log(b / a) + mean_log(a) - mean_log(b)
  one = torch.ones(1)
  found = torch_steps.kl(one, torch.log(a * one)) - torch_steps.kl(one, torch.log(b * one))
  assert abs(float(found) - expected) < 0.02


@pytest.mark.parametrize('method', cases.METHODS)
def test_torch_steps_reduce_the_loss(method):
  data = cases.synthetic_data(examples=320)
  weights = jax_steps.initial_weights('lenet_300_100')
  steps = torch_steps.TorchSteps('lenet_300_100', method, weights, data, 16, 10)
  def nll():
    with torch.no_grad():
      params = torch_steps.start_params('dense', {
          path: tensor for path, tensor in steps.params.items()
          if path.split('/')[-1] in ('kernel', 'bias')})
      return float(torch_steps.objective('lenet_300_100', 'dense', params,
                                         torch.from_numpy(data.images),
                                         torch.from_numpy(data.labels).long()))
  before = nll()
  steps()
  steps()
  assert nll() < 0.5 * before
