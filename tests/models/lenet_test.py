"""LeNets against a NumPy forward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.models.lenet import MLP, LeNet5Caffe, LeNet300100

KEY = jax.random.key(0)


def images(shape=(3, 20, 20, 1)):
  return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def randomised(model):
  """Random biases as well: Flax starts them at zero, where a lost bias would not show."""
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(model.init, KEY, images())
  return jax.tree.map(lambda a: 0.2 * rng.standard_normal(a.shape).astype('f'), shapes)


def dense(x, layer):
  return x @ np.float64(layer['kernel']) + layer['bias']


def valid_conv(x, layer):
  windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), (1, 2))     # (B, h, w, C, 5, 5)
  return np.einsum('bhwcij,ijco->bhwo', windows, np.float64(layer['kernel'])) + layer['bias']


def max_pool(x):
  return np.maximum.reduce([x[:, i::2, j::2] for i in range(2) for j in range(2)])


def relu(x):
  return np.maximum(x, 0)


def lenet5_reference(params, x, kept=None):
  for name in ('conv0', 'conv1'):
    x = max_pool(relu(valid_conv(x, params[name])))
  x = x.reshape(len(x), -1)
  x = x if kept is None else x[:, list(kept)]
  return dense(relu(dense(x, params['dense'])), params['head'])


def close(ours, reference):
  """float32 sums of a few hundred terms against float64: 1e-5 of the largest logit is ample."""
  np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-5 * np.abs(reference).max())


def test_published_sizes():
  # 784*300 + 300*100 + 100*10 weights and 410 biases; LeNet-5-Caffe has 431080 parameters.
  image = jnp.zeros((1, 28, 28, 1))
  for model, published in ((LeNet300100(), 266_200 + 410), (LeNet5Caffe(), 431_080)):
    shapes = jax.eval_shape(model.init, KEY, image)
    assert sum(a.size for a in jax.tree.leaves(shapes)) == published
  assert shapes['params']['dense']['kernel'].shape == (800, 500)


@pytest.mark.parametrize('kept', [None, (0, 5, 399)])
def test_mlp_matches_numpy(kept):
  model, x = MLP((12, 7), classes=4, kept_inputs=kept), images()
  variables = randomised(model)
  p = variables['params']
  assert set(p) == {'dense0', 'dense1', 'head'}
  flat = x.reshape(3, -1) if kept is None else x.reshape(3, -1)[:, list(kept)]
  close(jax.jit(model.apply)(variables, x),
        dense(relu(dense(relu(dense(flat, p['dense0'])), p['dense1'])), p['head']))


@pytest.mark.parametrize('kept', [None, (1, 7, 26)])
def test_lenet5_matches_numpy(kept):
  model, x = LeNet5Caffe((4, 7, 5), kept_flat=kept), images()             # 2 x 2 positions
  variables = randomised(model)
  assert set(variables['params']) == {'conv0', 'conv1', 'dense', 'head'}
  close(jax.jit(model.apply)(variables, x), lenet5_reference(variables['params'], x, kept))


def test_intermediates_are_named_by_layer():
  x = images()
  for model, names in ((MLP((6, 5)), ('dense0', 'dense1')),
                       (LeNet5Caffe((2, 3, 4)), ('conv0', 'conv1', 'dense'))):
    variables = randomised(model)
    assert set(variables) == {'params'}                 # init itself sows nothing
    sow = jax.jit(functools.partial(model.apply, mutable=['intermediates']))
    logits, sown = sow(variables, x)
    values = {name: value for name, (value,) in sown['intermediates'].items()}
    assert set(values) == {f'{name}_out' for name in names}
    last = values[f'{names[-1]}_out']
    close(logits, dense(np.asarray(last), variables['params']['head']))


def test_kernel_init_reaches_every_kernel():
  init = jax.nn.initializers.constant(0.25)
  for model in (MLP((6,), kernel_init=init), LeNet5Caffe((2, 3, 4), kernel_init=init)):
    for layer in jax.jit(model.init)(KEY, images())['params'].values():
      assert (layer['kernel'] == 0.25).all() and (layer['bias'] == 0).all()


@pytest.mark.parametrize('kept', [(400,), (-1,), ()])
def test_kept_inputs_out_of_range(kept):
  with pytest.raises(ValueError, match='kept_inputs holds .* between 0 and 399'):
    MLP((6,), kept_inputs=kept).init(KEY, images())


@pytest.mark.parametrize('shape', [(1, 15, 28, 1), (1, 28, 28)])
def test_lenet5_refuses_other_shapes(shape):
  with pytest.raises(ValueError, match=r'is not \(B, H, W, channels\) with H, W >= 16'):
    LeNet5Caffe().init(KEY, jnp.zeros(shape))
