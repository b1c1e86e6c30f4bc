"""Tests of convolution by bands against `lax`: values, gradients and JAX's transformations.

Tolerance: sums of n float32 products in two orders differ by at most 2 n * 2^-24 * sum |products|
(Higham, 2002, section 3.1), and sum |products| is the same computation on absolute values. Zeros of
the band add no rounding.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax import banded_convolution

# name: input shape, kernel shape, columns (None: chosen by the shape)
SHAPES = {
    'lenet5_conv0': ((2, 28, 28, 1), (5, 5, 1, 20), None),
    'lenet5_conv1': ((2, 12, 12, 20), (5, 5, 20, 50), None),
    'one_column': ((2, 6, 7, 3), (3, 2, 3, 4), 1),
    'divisible': ((2, 6, 7, 3), (3, 2, 3, 4), 2),           # 6 output columns
    'not_divisible': ((2, 6, 7, 3), (3, 2, 3, 4), 4),
    'all_columns': ((2, 6, 7, 3), (3, 2, 3, 4), 6),
    'more_than_all_columns': ((2, 6, 7, 3), (3, 2, 3, 4), 9),
    'window_over_many_blocks': ((1, 4, 9, 2), (2, 6, 2, 3), 2),
    'window_of_the_whole_image': ((2, 4, 5, 2), (4, 5, 2, 3), None),
    'pointwise': ((2, 4, 5, 3), (1, 1, 3, 4), None),
    'pointwise_in_groups': ((2, 4, 5, 3), (1, 1, 3, 4), 2),
    'one_channel_one_filter': ((3, 5, 8, 1), (2, 3, 1, 1), None),
    'many_channels': ((1, 5, 6, 70), (3, 3, 70, 9), None),
}


def draws(*shapes):
  rng = np.random.default_rng(0)
  return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def stock(x, kernel):
  return lax.conv_general_dilated(x, kernel, (1, 1), 'VALID',
                                  dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def value_and_pull_back(convolve):
  def run(x, kernel, cotangent):
    y, pull = jax.vjp(convolve, x, kernel)
    return (y, *pull(cotangent))
  return run


def bounds(x, kernel, cotangent):
  """Of y, the gradient by x and the gradient by the kernel."""
  totals = jax.jit(value_and_pull_back(stock))(abs(x), abs(kernel), abs(cotangent))
  filters = kernel.shape[-1]
  terms = (kernel.size // filters, kernel.size, cotangent.size // filters)
  return [2 * n * 2**-24 * total for n, total in zip(terms, totals, strict=True)]


def case(name):
  x_shape, kernel_shape, columns = SHAPES[name]
  outputs = [n - k + 1 for n, k in zip(x_shape[1:3], kernel_shape[:2])]
  arrays = draws(x_shape, kernel_shape, (x_shape[0], *outputs, kernel_shape[-1]))
  return arrays, functools.partial(banded_convolution.convolve, columns=columns)


@pytest.mark.parametrize('name', SHAPES)
def test_values_and_gradients_equal_lax(name):
  arrays, convolve = case(name)
  expected = jax.jit(value_and_pull_back(stock))(*arrays)
  got = jax.jit(value_and_pull_back(convolve))(*arrays)
  for e, g, bound in zip(expected, got, bounds(*arrays), strict=True):
    assert e.shape == g.shape and e.dtype == g.dtype
    assert (abs(e - g) <= bound).all()


def test_hand_worked_values():
  x = jnp.array([[1.0, 2.0, 4.0], [0.0, 1.0, 0.0]]).reshape(1, 2, 3, 1)
  kernel = jnp.array([[1.0, 10.0], [100.0, 0.0]]).reshape(2, 2, 1, 1)
  y = banded_convolution.convolve(x, kernel, columns=2)
  np.testing.assert_array_equal(y.ravel(), [21.0, 142.0])      # 1 + 20 + 0, 2 + 40 + 100


@pytest.mark.parametrize('name', ['not_divisible', 'many_channels'])
def test_bfloat16_is_summed_in_float32(name):
  arrays, convolve = case(name)
  narrow = [a.astype(jnp.bfloat16) for a in arrays]
  exact = [a.astype(jnp.float32) for a in narrow]
  got = jax.jit(value_and_pull_back(convolve))(*narrow)
  expected = jax.jit(value_and_pull_back(stock))(*exact)
  for e, g, bound in zip(expected, got, bounds(*exact), strict=True):
    assert g.dtype == jnp.bfloat16
    # Products are exact in float32; the sum is rounded once, to 8 significant bits.
    assert (abs(e - g.astype(jnp.float32)) <= 2**-8 * abs(e) + 2 * bound).all()


@pytest.mark.parametrize('over_images', [False, True])
def test_vmap_over_kernels_equals_the_loop(over_images):
  (x, kernel, cotangent), convolve = case('not_divisible')
  kernels = jnp.stack([kernel, -2 * kernel, kernel[::-1]])
  images = jnp.stack([x, x + 1, x[::-1]]) if over_images else x
  run = value_and_pull_back(convolve)
  got = jax.jit(jax.vmap(run, in_axes=(0 if over_images else None, 0, None)))(
      images, kernels, cotangent)
  for i, w in enumerate(kernels):
    image = images[i] if over_images else x
    expected = jax.jit(value_and_pull_back(stock))(image, w, cotangent)
    for e, g, bound in zip(expected, got, bounds(image, w, cotangent), strict=True):
      assert (abs(e - g[i]) <= bound).all()


def test_the_gradient_by_shared_images_is_the_sum_over_kernels():
  (x, kernel, cotangent), convolve = case('not_divisible')
  kernels = jnp.stack([kernel, 2 * kernel])

  def inner(convolve):
    return lambda x: jnp.sum(jax.vmap(convolve, in_axes=(None, 0))(x, kernels) * cotangent[None])

  expected, got = (jax.jit(jax.grad(inner(f)))(x) for f in (stock, convolve))
  bound = 6 * bounds(x, kernel, cotangent)[1]      # twice the terms, three times their sum
  assert (abs(expected - got) <= bound).all()


@pytest.mark.parametrize('wrap', [lambda f: f, jax.checkpoint, jax.jit])
def test_gradients_inside_a_scan(wrap):
  (x, kernel, cotangent), convolve = case('divisible')
  scales = jnp.array([1.0, 2.0])

  def loss(kernel):
    def step(total, scale):
      return total + jnp.sum(wrap(convolve)(scale * x, scale * kernel) * cotangent), None
    return lax.scan(step, 0.0, scales)[0]

  got = jax.jit(jax.grad(loss))(kernel)
  # The loss is linear in the kernel with the factor scale^2: 5 times the gradient at scale 1.
  expected = 5 * jax.jit(value_and_pull_back(stock))(x, kernel, cotangent)[2]
  assert (abs(got - expected) <= 2 * 5 * bounds(x, kernel, cotangent)[2]).all()


def test_forward_mode_is_refused():
  (x, kernel, _), convolve = case('divisible')
  with pytest.raises(TypeError, match='forward-mode'):
    jax.jvp(lambda w: convolve(x, w), (kernel,), (kernel,))


def test_an_empty_batch_keeps_its_shape():
  y = banded_convolution.convolve(jnp.ones((0, 5, 6, 2)), jnp.ones((3, 3, 2, 4)))
  assert y.shape == (0, 3, 4, 4)


def test_group_width_follows_the_filters():
  assert banded_convolution.group_width(5, 50, 8) == 2           # conv1 of LeNet-5
  assert banded_convolution.group_width(5, 20, 24) == 3          # conv0
  assert banded_convolution.group_width(5, 10**6, 24) == 1
  assert banded_convolution.group_width(1, 4, 9) == 1            # no overlap, nothing to share
  assert banded_convolution.group_width(5, 1, 4) == 4            # never more than there are
