"""Commands run as their user runs them."""
import json
import subprocess
import sys
import textwrap

import pytest

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


@pytest.fixture(scope='session')
def run_commands():
  """(modules to import first, {name: [module, *arguments]}) -> {name: [exit code, out, err]}."""
  def run(imports, commands):
    done = subprocess.run([sys.executable, '-c', RUNNER], input=json.dumps([imports, commands]),
                          text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
  return run
