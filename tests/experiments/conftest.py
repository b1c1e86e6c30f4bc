"""Commands run as their user runs them, ledgers that nobody measured, one folder of programs."""
import json
import subprocess
import sys
import textwrap

import jax
import pytest

from sparsejax import ledger

# One interpreter imports everything once, before JAX starts its threads, and forks for each
# command; runpy then runs the module as `python -m` does.
RUNNER = textwrap.dedent("""
    import importlib, json, os, runpy, sys, tempfile, traceback
    imports, commands = json.load(sys.stdin)
    for module in imports:
      importlib.import_module(module)
    results = {}
    for name, (module, *arguments) in commands.items():
      with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
          os.dup2(out.fileno(), 1)
          os.dup2(err.fileno(), 2)
          sys.argv = [module, *arguments]
          code = 0
          try:
            runpy.run_module(module, run_name='__main__', alter_sys=True)
          except SystemExit as end:
            code = end.code or 0
          except BaseException:
            traceback.print_exc()
            code = 1
          sys.stdout.flush()
          sys.stderr.flush()
          os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for file in (out, err):
          file.seek(0)
          texts.append(file.read().decode())
        results[name] = [code, *texts]
    print(json.dumps(results))
""")


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


@pytest.fixture(scope='session')
def run_commands():
  """(modules to import first, {name: [module, *arguments]}) -> {name: [exit code, out, err]}."""
  def run(imports, commands):
    done = subprocess.run([sys.executable, '-c', RUNNER], input=json.dumps([imports, commands]),
                          text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
  return run


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
