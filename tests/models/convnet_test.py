"""ConvNet against a NumPy forward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.models.convnet import ConvNet

KEY = jax.random.key(0)


def images(shape=(3, 8, 9, 2)):
  return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def randomised(model, x):
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(model.init, KEY, x)
  variables = jax.tree.map(lambda a: 0.3 * rng.standard_normal(a.shape).astype('f'), shapes)
  variables['batch_stats'] = jax.tree.map(lambda a: np.abs(a) + np.float32(0.5),
                                          variables['batch_stats'])
  return variables


def same_conv(x, kernel):
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
  return np.einsum('bhwcij,ijco->bhwo', windows, np.float64(kernel))


def reference(variables, x, pool_after=(0, 1), train=False):
  p, stats = variables['params'], variables['batch_stats']
  for i in range(2):
    x = same_conv(x, p[f'conv{i}']['kernel']) + p[f'conv{i}'].get('bias', 0)
    x = x + p.get(f'bias_map{i}', 0)
    mean, var = stats[f'norm{i}']['mean'], stats[f'norm{i}']['var']
    if train:
      mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    x = (x - mean) / np.sqrt(var + 1e-5) * p[f'norm{i}']['scale'] + p[f'norm{i}']['bias']
    x = np.maximum(x, 0)
    if i in pool_after:
      even = x[:, :x.shape[1] // 2 * 2, :x.shape[2] // 2 * 2]
      x = np.maximum.reduce([even[:, a::2, b::2] for a in range(2) for b in range(2)])
  return x.mean((1, 2)) @ np.float64(p['head']['kernel']) + p['head']['bias']


@pytest.mark.parametrize('options', [
    {}, {'pool_after': (0,)}, {'conv_bias': False}, {'bias_maps': (0, 1)},
])
def test_matches_numpy(options):
  model, x = ConvNet((3, 4), **options), images()
  variables = randomised(model, x)
  assert ('bias' in variables['params']['conv0']) == options.get('conv_bias', True)
  expected = reference(variables, x, options.get('pool_after', (0, 1)))
  # 1e-5 of the largest logit: float32 sums of at most a few dozen terms
  np.testing.assert_allclose(jax.jit(model.apply)(variables, x), expected, rtol=0,
                             atol=1e-5 * np.abs(expected).max())


def test_training_mode_uses_and_updates_statistics():
  model, x = ConvNet((3, 4)), images()
  variables = randomised(model, x)
  train = jax.jit(functools.partial(model.apply, train=True, mutable=['batch_stats']))
  logits, new = train(variables, x)
  expected = reference(variables, x, train=True)
  np.testing.assert_allclose(logits, expected, rtol=0, atol=3e-5 * np.abs(expected).max())
  p = variables['params']['conv0']
  batch_mean = (same_conv(x, p['kernel']) + p['bias']).mean((0, 1, 2))
  old = variables['batch_stats']['norm0']['mean']
  np.testing.assert_allclose(new['batch_stats']['norm0']['mean'], 0.9 * old + 0.1 * batch_mean,
                             rtol=0, atol=1e-5)


def test_bias_maps_start_at_zero_with_the_shape_of_the_image():
  plain, mapped = ConvNet((3, 4)), ConvNet((3, 4), bias_maps=(1,))
  x = images()
  params = jax.jit(mapped.init)(KEY, x)['params']
  without = jax.eval_shape(plain.init, KEY, x)['params']
  assert set(params) - set(without) == {'bias_map1'}
  assert params['bias_map1'].shape == (4, 4, 4) and not params['bias_map1'].any()


def test_intermediates_are_named_by_layer():
  model, x = ConvNet((3, 4)), images()
  sow = functools.partial(model.apply, mutable=['intermediates'])
  _, sown = jax.eval_shape(sow, randomised(model, x), x)
  shapes = {name: value.shape for name, (value,) in sown['intermediates'].items()}
  assert shapes == {'conv0_out': (3, 4, 4, 3), 'conv1_out': (3, 2, 2, 4)}


@pytest.mark.parametrize('shape', [(1, 3, 8, 1), (1, 8, 8)])
def test_refuses_other_shapes(shape):
  with pytest.raises(ValueError, match=r'is not \(B, H, W, channels\) with H, W >='):
    ConvNet().init(KEY, jnp.zeros(shape))
