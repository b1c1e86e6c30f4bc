"""Strict settings for every test: shapes are never promoted in silence."""
import jax
import pytest

jax.config.update('jax_numpy_rank_promotion', 'raise')
# Most of a test's time is compilation; the tests ask for right numbers, not for fast ones.
jax.config.update('jax_disable_most_optimizations', True)


@pytest.fixture(autouse=True)
def _debug_nans(request):
  """Tests marked `debug_nans` fail at the first NaN that any of their computations makes."""
  if request.node.get_closest_marker('debug_nans') is None:
    yield
    return
  with jax.debug_nans(True):
    yield
