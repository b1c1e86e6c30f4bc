"""The commands experiments.compress and experiments.layers as their user sees them."""
import pytest

COMPRESS, LAYERS = 'experiments.compress', 'experiments.layers'


@pytest.fixture(scope='module')
def commands(tmp_path_factory, run_commands):
  """{name: (exit code, standard output, standard error)} of the commands below."""
  folder = tmp_path_factory.mktemp('commands')
  out = f'--out={folder / "m.sjx"}'
  imports = 'experiments.compression.compress', 'experiments.compression.layer_report'
  return run_commands(imports, {
      'help': [COMPRESS, '--help'],
      'stray': [COMPRESS, '--workdir=x', '--recipe=lossless', out, 'stray'],
      'no run': [COMPRESS, f'--workdir={folder}', '--recipe=lossless', out],
      'recipe': [COMPRESS, f'--workdir={folder}', '--recipe=lossles', out],
      'option': [COMPRESS, f'--workdir={folder}', '--recipe=codebook', '--set=bits=few', out],
      'out': [COMPRESS, f'--workdir={folder}', '--recipe=lossless', '--out=m.bin'],
      'no recipe': [COMPRESS, f'--workdir={folder}', out],
      'layers': [LAYERS, '--paper=HaMD15', f'--report={folder}'],
      'layers of no paper': [LAYERS, '--paper=HaMD51', f'--report={folder}'],
      'no sheet': [LAYERS, '--paper=HaMD15', f'--add={folder / "none.json"}'],
  })


@pytest.mark.slow
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
    ('layers of no paper', "no sheet for the paper 'HaMD51'; did you mean HaMD15"),
    ('no sheet', 'none.json'),
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


def test_the_table_of_layers_is_printed_from_what_is_kept(commands):
  code, stdout, stderr = commands['layers']
  assert code == 0, stderr
  assert '| paper | 1.58 | | | 40 |' in stdout and 'HaMD15_layers.md' in stdout
