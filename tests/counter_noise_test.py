"""Noise by counters: standard normal, and each number independent of what else is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sparsejax.counter_noise import normal_at, normal_rows

KEY = jax.random.key(0)


@pytest.mark.slow
@pytest.mark.parametrize('width', [1, 6, 7])
@pytest.mark.parametrize('key', [KEY, jax.random.key(0, impl='rbg'), jax.random.PRNGKey(3)])
def test_a_number_depends_on_key_row_and_column_alone(key, width):
  table = normal_rows(key, jnp.arange(5), width)
  assert table.shape == (5, width) and table.dtype == jnp.float32
  rows = jnp.array([[4, 0], [0, 2]])
  np.testing.assert_array_equal(normal_rows(key, rows, width), table[rows])
  columns = jnp.array([[width - 1, 0], [width // 2, 0]])
  np.testing.assert_array_equal(normal_at(key, rows, columns, width), table[rows, columns])
  np.testing.assert_array_equal(normal_at(key, jnp.arange(5)[:, None], jnp.arange(width)[None],
                                          width), table)
  assert len(np.unique(table)) == 5 * width


def test_keys_differ_and_vmap_equals_single_runs():
  keys = jax.random.split(KEY, 3)
  drawn = jax.vmap(lambda key: normal_rows(key, jnp.arange(4), 5))(keys)
  for i in range(3):
    np.testing.assert_array_equal(drawn[i], normal_rows(keys[i], jnp.arange(4), 5))
  assert len(np.unique(drawn)) == 60


def test_numbers_are_standard_normal_and_uncorrelated():
  n = 1000
  table = np.asarray(jax.jit(lambda: normal_rows(KEY, jnp.arange(n), n))())
  assert stats.kstest(table[:200].ravel(), 'norm').pvalue > 1e-3
  # The two words of a block stand half a row apart; neighbours in a row and in a column.
  for a, b in ((table[:, :n // 2], table[:, n // 2:]), (table[:, 1:], table[:, :-1]),
               (table[1:], table[:-1])):
    assert abs((a * b).mean()) < 5 / np.sqrt(a.size)
  assert abs(table.mean()) < 5 / n and abs((table**2).mean() - 1) < 5 * np.sqrt(2) / n
  assert np.isfinite(table).all()
