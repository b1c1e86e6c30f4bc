"""Consoles that keep their text, and one folder of programs."""
import io

import jax
import pytest
from rich.console import Console


@pytest.fixture
def console():
  """A wide console; what was printed is in console.file.getvalue()."""
  return Console(file=io.StringIO(), width=300)


@pytest.fixture(scope='session')
def _programs(tmp_path_factory):
  return tmp_path_factory.mktemp('programs')


@pytest.fixture(scope='module')
def compile_once(_programs):
  """The tests that train compile the same few programs again and again: JAX keeps them on disk."""
  options = {'jax_compilation_cache_dir': str(_programs),
             'jax_persistent_cache_min_compile_time_secs': 0.1,
             'jax_persistent_cache_min_entry_size_bytes': -1}
  before = {name: getattr(jax.config, name) for name in options}
  for name, value in options.items():
    jax.config.update(name, value)
  yield
  for name, value in before.items():
    jax.config.update(name, value)
