"""The epilogue against SciPy."""
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from sparsejax.kernels.block_sparse.backend import ACTIVATIONS, Epilogue, Problem, gated

WANTED = {
    None: lambda z: z,
    'relu': lambda z: np.maximum(z, 0),
    'gelu': lambda z: z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
    'silu': lambda z: z * special.expit(z),
    'tanh': np.tanh,
    'sigmoid': special.expit,
}


@pytest.mark.parametrize('name', ACTIVATIONS)
def test_epilogue_adds_activates_and_gates(name):
  z = np.linspace(-4, 4, 12).reshape(3, 4)
  bias, gate = np.array([0.0, 1.0, -2.0, 0.5]), np.array([1.0, 0.0, 0.5, 2.0])
  epilogue = Epilogue(jnp.asarray(bias, jnp.float32), name, jnp.asarray(gate, jnp.float32))
  wanted = WANTED[name](z + bias) * gate
  # Values up to 13, a handful of roundings each.
  np.testing.assert_allclose(epilogue(jnp.asarray(z, jnp.float32)), wanted,
                             atol=16 * 13 * np.finfo(np.float32).eps, rtol=0)


def test_without_bias_or_gate_the_product_is_left_alone():
  z = jnp.ones((2, 3))
  assert Epilogue()(z) is z
  assert gated(z, None) is z


def test_the_transposed_problem_swaps_sides():
  problem = Problem(8, (16, 32), (3, 5), 7, 'float32', 'cpu')
  assert problem.transposed == Problem(8, (32, 16), (5, 3), 7, 'float32', 'cpu')
