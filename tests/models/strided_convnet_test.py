"""StridedConvNet against a NumPy forward pass, its published size, and its compaction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.compaction import compact
from sparsejax.models.strided_convnet import StridedConvNet

KEY = jax.random.key(0)


def valid_conv(x, kernel, stride):
  windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (1, 2))
  return np.einsum('bhwcij,ijco->bhwo', windows[:, ::stride, ::stride], np.float64(kernel))


def reference(params, x):
  for i in range(2):
    layer = params[f'conv{i}']
    x = np.maximum(valid_conv(x, layer['kernel'], 2) + layer['bias'], 0)
  x = x.reshape(len(x), -1)
  x = np.maximum(x @ np.float64(params['dense']['kernel']) + params['dense']['bias'], 0)
  return x @ np.float64(params['head']['kernel']) + params['head']['bias']


def randomised(model, x):
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(model.init, KEY, x)
  return jax.tree.map(lambda a: 0.3 * rng.standard_normal(a.shape).astype('f'), shapes)


def test_matches_numpy():
  model, x = StridedConvNet((3, 4, 5)), jax.random.normal(KEY, (2, 11, 13, 2))
  variables = randomised(model, x)
  expected = reference(variables['params'], np.asarray(x))
  # 1e-5 of the largest logit: float32 sums of at most a few dozen terms
  np.testing.assert_allclose(jax.jit(model.apply)(variables, x), expected, rtol=0,
                             atol=1e-5 * np.abs(expected).max())


def test_has_the_published_number_of_parameters():
  shapes = jax.eval_shape(StridedConvNet().init, KEY, jnp.zeros((1, 28, 28, 1)))
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 642_460


def test_compact_keeps_the_function():
  model, x = StridedConvNet((3, 4, 5)), jax.random.normal(KEY, (2, 11, 13, 2))
  variables = randomised(model, x)
  params = variables['params']
  params['conv0']['kernel'][..., 1] = 0            # emits relu(bias), which conv1's bias takes
  params['conv0']['bias'][1] = 0.7
  params['conv1']['kernel'][..., 2] = 0
  params['dense']['kernel'][:, 0] = 0
  params['dense']['kernel'][5] = 0
  small = compact(model, variables, example_shape=x.shape)
  assert isinstance(small.model, StridedConvNet) and small.model.widths == (2, 3, 4)
  wanted = np.asarray(model.apply(variables, x))
  np.testing.assert_allclose(small.model.apply(small.variables, x), wanted, rtol=0,
                             atol=1e-5 * np.abs(wanted).max())


def test_small_images_are_refused():
  with pytest.raises(ValueError, match='H, W >= 9'):
    StridedConvNet().init(KEY, jnp.zeros((1, 8, 28, 1)))
