"""The command as its user sees it: exit code, standard error, and nothing imported too early."""
import subprocess
import sys
import textwrap

import pytest

CONFIG = '--config=experiments/configs/digits/l0_mlp.py:smoke'
TWO_RULES = textwrap.dedent("""
    from experiments.configs.digits import l0_mlp
    def get_config():
      config = l0_mlp.get_config('smoke')
      config.regulariser.heads = {'leaves': 'head/.*', 'method': 'l1', 'strength': 1.0}
      config.lock()
      return config
""")
SCHEDULE = textwrap.dedent("""
    from experiments.configs.digits import l0_mlp
    def get_config():
      config = l0_mlp.get_config('smoke')
      config.optimiser = {'name': 'adam', 'learning_rate': {
          'schedule': 'piecewise', 'epochs': (0, 1), 'values': (0.0, 1.0)}}
      return config
""")
FIELD = textwrap.dedent("""
    from experiments.configs.digits import l0_mlp
    def get_config():
      config = l0_mlp.get_config('smoke')
      config.regulariser.gates.strenght = 1.0
      return config
""")


@pytest.fixture(scope='module')
def commands(tmp_path_factory, run_commands):
  """{name: (exit code, standard output, standard error)} of the commands below."""
  folder = tmp_path_factory.mktemp('commands')
  for name, text in (('two_rules', TWO_RULES), ('schedule', SCHEDULE), ('field', FIELD)):
    (folder / f'{name}.py').write_text(text)
  (folder / 'file').write_text('')
  (folder / 'other').mkdir()
  (folder / 'other' / 'config.json').write_text('{"seed": 1}')
  (folder / 'damaged').mkdir()
  (folder / 'damaged' / 'config.json').write_text('{"seed": 1')
  new = f'--workdir={folder / "new"}'
  arguments = {
      'model': [CONFIG, '--config.model.name=mpl', new],
      'initialiser': [CONFIG, '--config.model.kernel_init=he_norm', new],
      'optimiser': [CONFIG, '--config.optimiser.name=adm', new],
      'method': [CONFIG, '--config.regulariser.gates.method=l0', new],
      'dataset': [CONFIG, '--config.dataset=digit', new],
      'strength': [CONFIG, '--config.regulariser.gates.strength=-1.0', new],
      'leaves': [CONFIG, '--config.regulariser.gates.leaves=.*kernl', new],
      'two rules': [f'--config={folder / "two_rules.py"}', new],
      'schedule': [f'--config={folder / "schedule.py"}', new],
      'field': [f'--config={folder / "field.py"}', new],
      'examples': [CONFIG, '--config.training_examples=9999', new],
      'no such field': [CONFIG, '--config.regulariser.gates.strenght=1.0', new],
      'variant': [CONFIG.replace('smoke', 'smok'), new],
      'no config': ['--config=experiments/configs/digits/none.py', new],
      'other config': [CONFIG, f'--workdir={folder / "other"}'],
      'damaged config': [CONFIG, f'--workdir={folder / "damaged"}'],
      'file': [CONFIG, f'--workdir={folder / "file" / "run"}'],
      'no workdir': [CONFIG],
      'stray argument': [CONFIG, new, 'stray'],
  }
  results = run_commands(('experiments.datasets.digits', 'experiments.run'), {
      name: ['experiments.train', *flags] for name, flags in arguments.items()})
  results['files'] = sorted(path.name for path in (folder / 'new').iterdir())
  return results


@pytest.mark.parametrize('name, message', [
    ('model', "config.model.name='mpl' is unknown; did you mean 'mlp'?"),
    ('initialiser', "did you mean 'he_normal'?"),
    ('optimiser', "config.optimiser.name='adm' is unknown; did you mean 'adam'?"),
    ('method', "config.regulariser.gates.method='l0' is unknown; "),
    ('dataset', "'digit'"),
    ('strength', 'strength=-1.0 must be finite and not negative'),
    ('leaves', "rule 'gates' ('.*kernl') matches no parameter; parameters are dense0/"),
    ('two rules', "head/kernel is claimed by the rules 'gates' and 'heads'"),
    ('schedule', "config.optimiser.learning_rate.schedule='piecewise' is unknown; did you mean"),
    ('field', "has no field 'strenght'; did you mean 'strength'?"),
    ('examples', 'config.training_examples=9999 exceeds the 1200 of digits'),
    ('damaged config', 'config.json is damaged'),
    ('file', 'cannot be used (Not a directory)'),
])
def test_a_mistake_is_one_line_and_no_traceback(commands, name, message):
  code, _, stderr = commands[name]
  assert code == 1
  assert stderr.startswith('error: ') and message in stderr
  assert len(stderr.splitlines()) == 1, stderr


def test_another_config_shows_the_difference(commands):
  code, _, stderr = commands['other config']
  assert code == 1 and 'Traceback' not in stderr
  assert stderr.startswith('error: workdir ') and '\n  seed: 1 -> 0\n' in stderr


def test_an_unknown_config_field_gets_a_suggestion(commands):
  code, _, stderr = commands['no such field']
  assert code != 0
  assert stderr == ("error: --config.regulariser.gates.strenght: the config has no field "
                    "'strenght'; did you mean 'strength'?\n")


def test_an_unknown_variant_names_the_known_ones(commands):
  code, _, stderr = commands['variant']
  assert code != 0 and stderr == "error: variant 'smok' is not 'smoke'\n"


def test_a_config_that_is_not_there_is_named(commands):
  code, _, stderr = commands['no config']
  assert code != 0 and stderr.startswith('error: config file experiments/configs/digits/none.py is '
                                         'not there; did you mean experiments/configs/')
  assert len(stderr.splitlines()) == 1


def test_a_missing_flag_and_a_stray_argument_are_named(commands):
  code, _, stderr = commands['no workdir']
  assert code != 0 and stderr.startswith('error: --workdir is missing; ')
  code, stdout, stderr = commands['stray argument']
  assert code != 0 and "unexpected arguments ['stray']" in stdout + stderr


def test_a_mistake_claims_no_folder(commands):
  assert commands['files'] == []


def test_help_and_bad_flags_need_no_jax():
  script = textwrap.dedent("""
      import sys
      from absl import app, flags
      import experiments.train
      assert '--config' in flags.FLAGS.get_help() and '--workdir' in flags.FLAGS.get_help()
      try:
        flags.FLAGS(['train', '--wordkir=x'])
      except flags.Error as error:
        assert 'workdir' in str(error), error
      from experiments import listing
      from rich.console import Console
      listing.show(Console(quiet=True))
      heavy = {'jax', 'flax', 'optax', 'orbax', 'numpy', 'sklearn', 'matplotlib'} & set(sys.modules)
      assert not heavy, heavy
  """)
  done = subprocess.run([sys.executable, '-c', script], text=True, capture_output=True, check=False)
  assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize('arguments, code, text', [
    (['--help'], 1, 'Folder of the run'),
    (['--wordkir=x'], 1, "Unknown command line flag 'wordkir'")])
def test_help_and_bad_flags_answer(arguments, code, text):
  done = subprocess.run([sys.executable, '-m', 'experiments.train', *arguments], text=True,
                        capture_output=True, check=False)
  assert done.returncode == code and text in done.stdout + done.stderr
  assert 'Traceback' not in done.stderr
