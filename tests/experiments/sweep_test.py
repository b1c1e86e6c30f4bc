"""The command as its user sees it."""
import textwrap

import pytest

CONFIG = '--config=experiments/configs/digits/l0_mlp.py:smoke'
MODULE = 'experiments.sweep'
LISTED = textwrap.dedent("""
    from experiments.configs.digits import l0_mlp
    def get_config():
      return l0_mlp.get_config('smoke')
    def get_sweep():
      return {sweep}
""")


@pytest.fixture(scope='module')
def commands(tmp_path_factory, run_commands):
  """{name: (exit code, standard output, standard error)} of the commands below."""
  folder = tmp_path_factory.mktemp('commands')
  new = f'--workdir={folder / "new"}'
  for name, sweep in (('text', "'seed=0..1; sed=3'"), ('list', "[{'seed': 0}, {'seed': 0}]"),
                      ('wrong', '[3]')):
    (folder / f'{name}.py').write_text(LISTED.replace('{sweep}', sweep))
  (folder / 'swept').mkdir()
  (folder / 'swept' / 'sweep.json').write_text('{"config_name": "x"')
  arguments = {
      'help': ['--help'],
      'no workdir': [CONFIG, '--sweep=seed=0..1'],
      'no config': [new, '--sweep=seed=0..1'],
      'nothing': [CONFIG, new],
      'grammar': [CONFIG, new, '--sweep=seed=0..'],
      'field': [CONFIG, new, '--sweep=seeed=0..1'],
      'type': [CONFIG, new, '--sweep=seed=[0.5, 1]'],
      'value': [CONFIG, new, '--sweep=regulariser.gates.strength=[0.1, -1]'],
      'flag': [CONFIG, new, '--swep=seed=0..1'],
      'stray': [CONFIG, new, '--sweep=seed=0..1', 'stray'],
      'text': [f'--config={folder / "text.py"}', new],
      'list': [f'--config={folder / "list.py"}', new],
      'wrong': [f'--config={folder / "wrong.py"}', new],
      'status': ['--status', new],
      'here': [CONFIG, new, '--sweep=seed=0..1', '--partition=gpu'],
      'launcher': [CONFIG, new, '--sweep=seed=0..1', '--launcher=pbs'],
      'program': [new, '--program=0.0'],
      'damaged': ['--status', f'--workdir={folder / "swept"}'],
  }
  results = run_commands(('experiments.sweeps.runner', 'experiments.command_line'),
                         {name: [MODULE, *given] for name, given in arguments.items()})
  assert results.keys() == arguments.keys()
  return results


@pytest.mark.slow
def test_help_explains(commands):
  _, stdout, stderr = commands['help']
  for text in ('--sweep', '--members_at_once', '--launcher', '--sbatch', '--[no]status',
               'logspace(-2, 1, 8)', 'get_sweep()'):
    assert text in stdout, text
  assert 'Traceback' not in stderr


@pytest.mark.parametrize(('name', 'message'), [
    ('no workdir', '--workdir is missing'),
    ('no config', '--config is missing'),
    ('nothing', "error: nothing is to be swept: give --sweep='seed=0..3', set config.sweep, or"),
    ('grammar', 'error: sweep, column 9: expected a value, found the end\n  seed=0..\n          ^'),
    ('field', "error: sweep: the config has no field 'seeed'; did you mean 'seed'?"),
    ('type', 'error: sweep: seed=0.5 is of type float, and the config has int there: 0'),
    ('value', 'error: member strength=-1: strength=-1.0 must be finite and not negative'),
    ('flag', "Did you mean: sweep"),
    ('text', "error: sweep: the config has no field 'sed'; did you mean 'seed'?"),
    ('list', "error: sweep: {'seed': 0} and {'seed': 0} give the same config"),
    ('wrong', "error: a sweep lists overrides such as {'seed': 0}; 3 is none"),
    ('here', 'error: --partition is for --launcher=slurm; give that too, or leave it out'),
    ('launcher', 'value should be one of <local|slurm>'),
    ('program', 'holds no job array (no tasks.json)'),
    ('status', 'holds no sweep (no sweep.json)'),
    ('damaged', 'sweep.json is damaged'),
])
def test_mistakes_are_named(commands, name, message):
  code, stdout, stderr = commands[name]
  assert code == 1 and message in stderr + stdout
  assert 'Traceback' not in stderr


def test_a_stray_argument_is_named(commands):
  code, stdout, stderr = commands['stray']
  assert code != 0 and "unexpected arguments ['stray']" in stdout + stderr
