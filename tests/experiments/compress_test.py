"""The command experiments.compress as its user sees it."""
import pytest

COMPRESS = 'experiments.compress'


@pytest.fixture(scope='module')
def commands(tmp_path_factory, run_commands):
  """{name: (exit code, standard output, standard error)} of the commands below."""
  folder = tmp_path_factory.mktemp('commands')
  out = f'--out={folder / "m.sjx"}'
  return run_commands(('experiments.compression.compress',), {
      'help': [COMPRESS, '--help'],
      'stray': [COMPRESS, '--workdir=x', '--recipe=lossless', out, 'stray'],
      'no run': [COMPRESS, f'--workdir={folder}', '--recipe=lossless', out],
      'recipe': [COMPRESS, f'--workdir={folder}', '--recipe=lossles', out],
      'option': [COMPRESS, f'--workdir={folder}', '--recipe=codebook', '--set=bits=few', out],
      'out': [COMPRESS, f'--workdir={folder}', '--recipe=lossless', '--out=m.bin'],
      'no recipe': [COMPRESS, f'--workdir={folder}', out],
  })


def test_help_explains(commands):
  code, stdout, stderr = commands['help']
  assert code == 1 and 'Traceback' not in stderr       # absl's exit code of --help
  for text in ('--workdir', '--recipe', '--out', '--set', 'experiments.evaluate'):
    assert text in stdout, text


@pytest.mark.parametrize('name, message', [
    ('no run', 'config.json is missing: only a finished run is compressed'),
    ('recipe', "did you mean 'lossless'? choose one of codebook, deep_compression"),
    ('option', "--set='bits=few': bits must be of type int"),
    ('out', 'must end in .sjx'),
])
def test_a_mistake_is_one_line_and_no_traceback(commands, name, message):
  code, _, stderr = commands[name]
  assert code == 1 and message in stderr, stderr
  assert stderr.startswith('error: ') and len(stderr.splitlines()) == 1, stderr


def test_a_stray_argument_and_a_missing_flag_are_named(commands):
  code, stdout, stderr = commands['stray']
  assert code != 0 and "unexpected arguments ['stray']" in stdout + stderr
  code, _, stderr = commands['no recipe']
  assert code != 0 and '--recipe must have a value' in stderr and 'Traceback' not in stderr
