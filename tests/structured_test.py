"""Tests of the boxes of structured weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import meta

from sparsejax import Gated, Gaussian, LowRank, densify
from sparsejax.structured import Packed, is_structured

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def normal(*shape):
  return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def uniform(key, shape, low):
  return low + jax.random.uniform(key, shape)


def boxes():
  return {
      'gaussian': Gaussian(normal(4, 3).astype(jnp.bfloat16), jnp.ones((4, 3))),
      'gated': Gated(normal(4, 3), (jnp.zeros(()),), KEY, uniform, -2),
      'low_rank': LowRank(normal(4, 2), normal(2, 3)),
  }


@pytest.mark.parametrize('name, leaves', [('gaussian', 2), ('gated', 3), ('low_rank', 2)])
def test_a_box_has_the_shape_and_dtype_of_its_array_and_is_a_pytree(name, leaves):
  box = boxes()[name]
  assert box.shape == (4, 3) and box.ndim == 2
  assert box.dtype == (jnp.bfloat16 if name == 'gaussian' else jnp.float32)
  assert is_structured(box) and isinstance(box, meta.AxisMetadata)
  assert len(jax.tree.leaves(box)) == leaves
  again = jax.jit(lambda tree: tree)({'kernel': box})['kernel']
  assert type(again) is type(box) and again.shape == box.shape
  assert jax.tree.structure(again) == jax.tree.structure(box)


def test_gates_are_one_row_per_example_and_shared_by_key():
  first = Gated(normal(4, 3), (jnp.zeros(()),), KEY, uniform, -2)
  gates = first.draw(5)
  assert gates.shape == (5, 4)
  assert len(np.unique(gates)) == 20
  tied = Gated(normal(2, 4), (jnp.zeros(()),), KEY, uniform, -1)
  np.testing.assert_array_equal(tied.draw(5), gates)
  other = Gated(normal(4, 3), (jnp.zeros(()),), jax.random.key(1), uniform, -2)
  assert (other.draw(5) != gates).any()


def test_positions_repeat_the_units_fastest_and_the_dtype_is_the_weight_s():
  gated = Gated(jnp.ones((6, 2), jnp.bfloat16), (jnp.ones(()),), KEY, uniform, -2, positions=3)
  gates = gated.draw(4)
  assert gates.shape == (4, 6) and gates.dtype == jnp.bfloat16
  np.testing.assert_array_equal(gates[:, :2], gates[:, 2:4])
  np.testing.assert_array_equal(gates[:, :2], gates[:, 4:])


def test_low_rank_is_the_product():
  box = boxes()['low_rank']
  np.testing.assert_allclose(box.to_dense(), np.asarray(box.u) @ np.asarray(box.v), rtol=1e-5,
                             atol=1e-6)


def test_densify_opens_packed_weights_and_names_stochastic_ones():
  tree = {'a': {'kernel': boxes()['low_rank'], 'bias': jnp.ones(3)}}
  dense = densify(tree)
  assert dense['a']['kernel'].shape == (4, 3)
  assert dense['a']['bias'] is tree['a']['bias']
  for name in ('gaussian', 'gated'):
    with pytest.raises(ValueError, match=r"Ga\w+ weight at \['a'\]\['kernel'\] has no one dense"):
      densify({'a': {'kernel': boxes()[name]}})


@pytest.mark.parametrize('name', ['gaussian', 'gated', 'low_rank'])
def test_a_box_is_never_read_as_an_array_in_silence(name):
  with pytest.raises(ValueError, match='was read as a plain array; call the model through'):
    meta.unbox({'kernel': boxes()[name]})
  with pytest.raises(ValueError, match='was read as a plain array'):
    nn.Dense(3, use_bias=False).apply({'params': {'kernel': boxes()[name]}}, normal(2, 4))


def test_boxes_pass_the_axis_changes_of_nn_scan():
  box = boxes()['gaussian']
  assert box.add_axis(0, {}) is box and box.remove_axis(0, {}) is box
  assert box.replace_boxed(1.0) == 1.0


def test_a_packed_kind_without_to_dense_is_named():
  with pytest.raises(TypeError, match='Packed defines no to_dense'):
    Packed.to_dense(object.__new__(type('Packed', (Packed,), {'unbox': None})))
