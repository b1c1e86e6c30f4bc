"""Re-estimated batch-norm statistics against a NumPy forward pass, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sparsejax.models.convnet import ConvNet
from sparsejax.training.batch_statistics import re_estimate
from sparsejax.training.fit import Preprocess

RNG = np.random.default_rng(6)
IMAGES = RNG.integers(0, 256, (24, 6, 6, 2)).astype(np.uint8)
PREPROCESS = Preprocess(1 / 255, 100.0)
MODEL = ConvNet(widths=(5, 4), classes=3, pool_after=(0,))
TRAIN = {'train': True}


def convolved(x, layer):
  """SAME 3x3 convolution, in float64."""
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
  kernel, bias = (np.asarray(layer[name], np.float64) for name in ('kernel', 'bias'))
  return np.einsum('bhwcij,ijco->bhwo', windows, kernel) + bias


def reference(variables, batch_size):
  """The inputs of both norms; each batch is normalised by its own statistics, as in training."""
  params = variables['params']
  first = convolved((IMAGES.astype(np.float64) - 100) / 255, params['conv0'])
  second = []
  for start in range(0, len(IMAGES), batch_size):
    x = first[start:start + batch_size]
    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    x = np.maximum(x * params['norm0']['scale'] + params['norm0']['bias'], 0)
    x = x.reshape(len(x), 3, 2, 3, 2, 5).max((2, 4))
    second.append(convolved(x, params['conv1']))
  return first, np.concatenate(second)


@pytest.fixture(scope='module')
def pruned():
  """Random variables of MODEL, half of whose weights are gone since the statistics were taken."""
  shapes = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 6, 6, 2)))
  variables = jax.tree.map(lambda a: RNG.normal(size=a.shape).astype(np.float32), shapes)
  dense = re_estimate(MODEL, variables, IMAGES, PREPROCESS, 24, TRAIN)
  for name in ('conv0', 'conv1'):
    kernel = dense['params'][name]['kernel']
    dense['params'][name]['kernel'] = np.where(np.abs(kernel) < 0.7, 0, kernel)
  return dense


@pytest.mark.parametrize('batch_size', [24, 8])
def test_statistics_are_those_of_the_pruned_network(pruned, batch_size):
  found = re_estimate(MODEL, pruned, IMAGES, PREPROCESS, batch_size, TRAIN)
  assert found.keys() == pruned.keys() and found['params'] is pruned['params']
  for i, inputs in enumerate(reference(pruned, batch_size)):
    stats, before = found['batch_stats'][f'norm{i}'], pruned['batch_stats'][f'norm{i}']
    assert stats['mean'].dtype == stats['var'].dtype == jnp.float32
    # All batches are of one size: the variance of all is that within batches and that between.
    # Inputs are sums of up to 45 float32 products of their largest size, in either order; the
    # layer's variance is a difference of squares a few times its size.
    np.testing.assert_allclose(stats['mean'], inputs.mean((0, 1, 2)), rtol=0,
                               atol=45 * 2.0**-24 * np.abs(inputs).max())
    np.testing.assert_allclose(stats['var'], inputs.var((0, 1, 2)), rtol=2e-5)
    assert np.abs(stats['mean'] - before['mean']).max() > 0.1


def test_one_batch_deploys_what_training_mode_computes(pruned):
  found = re_estimate(MODEL, pruned, IMAGES, PREPROCESS, 24, TRAIN)
  inputs = PREPROCESS(jnp.asarray(IMAGES))
  deploy = jax.jit(MODEL.apply)
  trained, _ = jax.jit(lambda variables: MODEL.apply(
      variables, inputs, train=True, mutable=['batch_stats']))(pruned)
  deployed = deploy(found, inputs)
  # Two layers of float32 sums, both ways.
  np.testing.assert_allclose(deployed, trained, rtol=0, atol=2e-5 * np.abs(trained).max())
  assert np.abs(deploy(pruned, inputs) - trained).max() > 0.05


class Twice(nn.Module):
  """One norm on two inputs."""

  @nn.compact
  def __call__(self, x):
    norm = nn.BatchNorm(use_running_average=False, name='norm')
    return norm(3 * norm(x))


class Spectral(nn.Module):
  """A layer that keeps something else among the batch statistics."""

  @nn.compact
  def __call__(self, x):
    return nn.SpectralNorm(nn.Dense(3), name='spectral')(x, update_stats=True)


@pytest.mark.parametrize('model, images, batch_size, kwargs, message', [
    (nn.Dense(3), IMAGES, 8, {}, "variables of Dense have no 'batch_stats' to estimate; they have"),
    (MODEL, IMAGES, 7, TRAIN, 'batch_size=7 does not divide the 24 images'),
    (MODEL, IMAGES[:0], 7, TRAIN, 'divide the 0 images'),
    (MODEL, IMAGES, 24, {}, 'norm0 kept its running statistics; pass train_kwargs'),
    (Twice(), IMAGES, 24, {}, 'norm runs more than once in a forward pass'),
    (Spectral(), IMAGES, 24, {}, 'batch_stats/spectral/.* is no statistic of an nn.BatchNorm'),
])
def test_what_cannot_be_estimated_is_refused(model, images, batch_size, kwargs, message):
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 6, 6, 2)))
  variables = jax.tree.map(lambda a: np.ones(a.shape, a.dtype), shapes)
  with pytest.raises(ValueError, match=message):
    re_estimate(model, variables, images, PREPROCESS, batch_size, kwargs)
