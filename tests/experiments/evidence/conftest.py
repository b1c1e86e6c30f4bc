"""Ledgers that nobody measured, consoles that keep their text, and one folder of programs."""
import io

import jax
import pytest
from rich.console import Console

from sparsejax import ledger

_DEFAULTS = {int: 0, float: 0.5, str: 'x', list: []}
_LAYER = {'layer': 'head', 'kind': 'Dense', 'kernel_shape': [100, 10], 'parameters': 1010,
          'biases': 10, 'exact_zeros': 0, 'inputs_kept': 100, 'outputs_kept': 10, 'flops': 2000}


@pytest.fixture(scope='session')
def ledger_of():
  """A function from the keys that a test is about to a whole, valid ledger."""
  def make(**changes):
    sheet = {key: _DEFAULTS[entry.type[0] if isinstance(entry.type, tuple) else entry.type]
             for key, entry in ledger.KEYS.items() if not entry.added}
    sheet |= {'ledger_version': 1, 'deployed_parameters': 'raw', 'data_hash': 'data',
              'time_utc': '2026-01-01T00:00:00+00:00', 'device': 'cpu: 1 x test',
              'jax_version': '0.10.2', 'commit': 'ab' * 20, 'weights_total': 1000,
              'weights_kept': 100, 'parameters_dense': 1010, 'parameters_compact': 110,
              'bytes_float32': 4000, 'bytes_file': 500}
    sheet |= changes
    for ratio, above, below in (
        ('compression_weights', 'weights_total', 'weights_kept'),
        ('compression_parameters', 'parameters_dense', 'parameters_compact'),
        ('compression_bytes', 'bytes_float32', 'bytes_file')):
      sheet[ratio] = sheet[above] / sheet[below]
    sheet['layers'] = [_LAYER | {key: sheet[key] for key in ('weights_total', 'weights_kept')}]
    ledger.validate(sheet)
    return sheet
  return make


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
