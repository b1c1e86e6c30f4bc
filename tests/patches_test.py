"""Tests of convolution by patches against `lax`: values and both gradients.

Both sides sum at most n products of float32 numbers in different orders. Each is off by at most
n * 2^-24 * sum |products| from the exact sum (Higham, 2002, section 3.1), and sum |products| is the
same computation on absolute values: the tolerance is twice the bound.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax import patches

LAYOUTS = {1: ('NHC', 'HIO', 'NHC'), 2: ('NHWC', 'HWIO', 'NHWC'), 3: ('NDHWC', 'DHWIO', 'NDHWC')}

# name: input shape, kernel shape, strides, padding, lhs dilation, rhs dilation, groups
CONVOLUTIONS = {
    '1d_same': ((2, 9, 3), (4, 3, 5), (1,), 'SAME', None, None, 1),
    '1d_strided_valid': ((2, 9, 3), (4, 3, 5), (3,), 'VALID', None, None, 1),
    '2d_same_strided': ((2, 7, 8, 3), (3, 2, 3, 4), (2, 3), 'SAME', None, None, 1),
    '2d_same_lower': ((2, 7, 8, 3), (4, 2, 3, 4), (1, 1), 'SAME_LOWER', None, None, 1),
    '2d_explicit': ((2, 5, 6, 3), (3, 3, 3, 4), (1, 2), ((-1, 3), (2, 1)), None, None, 1),
    '2d_kernel_dilated': ((2, 9, 9, 3), (3, 2, 3, 4), (2, 1), 'SAME', None, (2, 3), 1),
    '2d_input_dilated': ((2, 4, 5, 3), (3, 3, 3, 4), (1, 1), ((0, 0), (2, 1)), (2, 3), None, 1),
    '2d_both_dilated': ((2, 5, 5, 3), (3, 2, 3, 4), (2, 1), ((1, 1), (0, 2)), (3, 2), (2, 1), 1),
    '2d_grouped': ((2, 6, 6, 4), (3, 3, 2, 6), (2, 1), 'SAME', None, (1, 2), 2),
    '2d_depthwise': ((2, 6, 6, 3), (3, 3, 1, 6), (1, 1), 'VALID', None, None, 3),
    '3d_grouped_dilated': ((1, 5, 4, 4, 2), (2, 1, 2, 1, 4), (1, 1, 2), 'SAME', None, (2, 1, 1), 2),
}


def draws(*shapes):
  rng = np.random.default_rng(0)
  return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def assert_same_map(ours, theirs, x, w):
  """Compares values and the pull-back of one random cotangent."""
  @jax.jit
  def both(x, w, c):
    y, pull = jax.vjp(theirs, x, w)
    mine, my_pull = jax.vjp(ours, x, w)
    return (y, *pull(c)), (mine, *my_pull(c))

  c, = draws(jax.eval_shape(theirs, x, w).shape)
  expected, got = both(x, w, c)
  products, _ = both(abs(x), abs(w), abs(c))
  terms = (w.size // w.shape[-1], w.size, c.size // c.shape[-1])    # of an entry of y, dx, dw
  for e, g, total, n in zip(expected, got, products, terms, strict=True):
    assert e.shape == g.shape and e.dtype == g.dtype
    assert (abs(e - g) <= 2 * n * 2**-24 * total).all()


@pytest.mark.parametrize('name', CONVOLUTIONS)
def test_convolution_equals_lax(name):
  x_shape, w_shape, strides, padding, lhs_dilation, rhs_dilation, groups = CONVOLUTIONS[name]
  x, w = draws(x_shape, w_shape)
  numbers = LAYOUTS[len(strides)]

  def run(convolve):
    return lambda x, w: convolve(x, w, strides, padding, lhs_dilation=lhs_dilation,
                                 rhs_dilation=rhs_dilation, dimension_numbers=numbers,
                                 feature_group_count=groups)

  assert_same_map(run(patches.conv_general_dilated), run(lax.conv_general_dilated), x, w)


@pytest.mark.parametrize('window, strides, padding, dilation, transpose_kernel', [
    ((4, 3), (2, 1), 'SAME', None, False),
    ((4, 3), (2, 1), 'VALID', None, True),
    ((2, 3), (3, 5), 'SAME', None, True),        # strides beyond the window
    ((2, 3), (3, 5), 'VALID', None, False),
    ((3, 2), (2, 2), 'SAME', (2, 3), False),
    ((3, 2), (2, 1), 'VALID', (1, 2), True),
    ((3, 3), (2, 2), ((1, 2), (0, 3)), None, True),
    ((5,), (2,), 'SAME', None, False),
    ((2, 2, 3), (2, 1, 1), 'VALID', None, False),
])
def test_transposed_convolution_equals_lax(window, strides, padding, dilation,
                                           transpose_kernel):
  features = (5, 3) if transpose_kernel else (3, 5)
  x, w = draws((2, *(4, 5, 3)[:len(window)], 3), (*window, *features))

  def run(convolve, **more):
    return lambda x, w: convolve(x, w, strides, padding, rhs_dilation=dilation,
                                 transpose_kernel=transpose_kernel, **more)

  assert_same_map(run(patches.conv_transpose),
                  run(lax.conv_transpose, dimension_numbers=LAYOUTS[len(window)]), x, w)


def test_hand_worked_values():
  x = jnp.array([1.0, 2.0, 4.0]).reshape(1, 3, 1)
  w = jnp.array([1.0, 10.0]).reshape(2, 1, 1)
  y = patches.conv_general_dilated(x, w, (1,), 'VALID')
  np.testing.assert_array_equal(y.ravel(), [21.0, 42.0])          # 1 + 20, 2 + 40
  y = patches.conv_transpose(x, w, (2,), 'VALID')
  np.testing.assert_array_equal(y.ravel(), [10, 1, 20, 2, 40, 4])


def test_bfloat16_and_the_preferred_type_are_kept():
  x, w = (a.astype(jnp.bfloat16) for a in draws((1, 5, 2), (3, 2, 4)))
  run = patches.conv_general_dilated
  assert run(x, w, (1,), 'SAME').dtype == jnp.bfloat16
  wide = run(x, w, (1,), 'SAME', preferred_element_type=jnp.float32)
  assert wide.dtype == jnp.float32
  exact = lax.conv_general_dilated(x.astype(jnp.float32), w.astype(jnp.float32), (1,), 'SAME',
                                   dimension_numbers=LAYOUTS[1])
  # Products of bfloat16 numbers are exact in float32; 6 terms are summed.
  np.testing.assert_allclose(wide, exact, rtol=0, atol=6 * 2**-24 * float(jnp.abs(exact).max() * 6))


def test_a_window_that_does_not_fit_gives_an_empty_output():
  for length in (2, 3, 4):
    x, w = draws((1, length, 2), (5, 2, 3))
    expected = lax.conv_general_dilated(x, w, (1,), 'VALID', dimension_numbers=LAYOUTS[1])
    got = patches.conv_general_dilated(x, w, (1,), 'VALID')
    assert got.shape == expected.shape == (1, 0, 3)


def test_the_empty_batch():
  assert patches.conv_general_dilated(jnp.ones((0, 6, 2)), jnp.ones((5, 2, 3)), (1,),
                                      'VALID').shape == (0, 2, 3)


def test_other_layouts_and_paddings_are_named():
  x, w = draws((1, 5, 2), (3, 2, 4))
  with pytest.raises(ValueError, match='batch first, features last; use lax'):
    patches.conv_general_dilated(x, w, (1,), 'SAME', dimension_numbers=('NCH', 'HIO', 'NHC'))
  with pytest.raises(ValueError, match="'SAME' of an input dilated by .2,. .*give pairs"):
    patches.conv_general_dilated(x, w, (1,), 'SAME', lhs_dilation=(2,))
  with pytest.raises(ValueError, match="'CIRCULAR' is not 'SAME', 'VALID' or explicit pairs"):
    patches.conv_transpose(x, w, (1,), 'CIRCULAR')
