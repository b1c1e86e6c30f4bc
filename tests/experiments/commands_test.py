"""The commands reproduce, frontier, control and readme as their user sees them."""
import pytest

IMPORTS = ('experiments.evidence.control_report', 'experiments.evidence.frontier',
           'experiments.evidence.reproduce', 'experiments.evidence.subject')
REPRODUCE, FRONTIER, CONTROL, README = (
    f'experiments.{name}' for name in ('reproduce', 'frontier', 'control', 'readme'))


@pytest.fixture(scope='module')
def commands(tmp_path_factory, run_commands):
  """{name: (exit code, standard output, standard error)} of the commands below."""
  folder = tmp_path_factory.mktemp('commands')
  new = f'--workdir={folder / "new"}', f'--report={folder / "report"}'
  (folder / 'damaged').mkdir()
  (folder / 'damaged' / 'MoAV17.jsonl').write_text('{\n')
  arguments = {
      **{f'help {module}': [module, '--help'] for module in (REPRODUCE, FRONTIER, CONTROL, README)},
      **{f'stray {module}': [module, *flags, 'stray'] for module, flags in (
          (REPRODUCE, ['--paper=MoAV17']), (FRONTIER, []), (CONTROL, ['--workdir=x']),
          (README, []))},
      'paper': [REPRODUCE, '--paper=MoAV71', *new],
      'no paper': [REPRODUCE],
      'budget': [REPRODUCE, '--paper=MoAV17', '--budget=tiny', *new],
      'networks': [REPRODUCE, '--paper=MoAV17', '--networks=ResNet', '--norun', '--budget=smoke',
                   *new],
      'nothing run': [REPRODUCE, '--paper=MoAV17', '--norun', '--budget=smoke', *new],
      'damaged': [REPRODUCE, '--paper=MoAV17', '--norun', '--budget=smoke',
                  f'--workdir={folder / "damaged"}'],
      'suite': [FRONTIER, '--suite=big', *new],
      'tasks': [FRONTIER, '--tasks=CIFAR', *new],
      'no point': [FRONTIER, '--suite=smoke', '--norun', *new],
      'no run': [CONTROL, f'--workdir={folder / "none"}'],
      'no workdir': [CONTROL],
  }
  results = run_commands(IMPORTS, arguments)
  assert results.keys() == arguments.keys()
  return results


@pytest.mark.parametrize('module, texts', [
    (REPRODUCE, ['--paper', 'third_party/papers', '--[no]run', 'published | ours']),
    (FRONTIER, ['--suite', '--methods', '--[no]controls', 'matched budgets']),
    (CONTROL, ['--workdir', 'int8_zstd', '--temperature', 'something simpler']),
    (README, ['experiments/results'])])
def test_help_explains(commands, module, texts):
  code, stdout, stderr = commands[f'help {module}']
  assert code == 1 and 'Traceback' not in stderr       # absl's exit code of --help
  for text in texts:
    assert text in stdout, text


@pytest.mark.parametrize('module', [REPRODUCE, FRONTIER, CONTROL, README])
def test_a_stray_argument_is_named(commands, module):
  code, stdout, stderr = commands[f'stray {module}']
  assert code != 0 and "unexpected arguments ['stray']" in stdout + stderr
  assert 'Traceback' not in stderr


@pytest.mark.parametrize('name, message', [
    ('paper', "no sheet for the paper 'MoAV71'; did you mean MoAV17? papers are HaMD15, LoCV17"),
    ('networks', "no row of MoAV17 contains 'ResNet'; rows are LeNet-300-100, dense, "),
    ('damaged', 'MoAV17.jsonl, line 1 is no result'),
    ('tasks', "no task with 'CIFAR' and method with '' in the suite 'small'; tasks are"),
    ('no point', "holds no point of the suite 'smoke'; leave out --norun to train"),
    ('no run', 'ledger.json is missing: a control needs a finished run; run experiments.train'),
])
def test_a_mistake_is_one_line_and_no_traceback(commands, name, message):
  code, _, stderr = commands[name]
  assert code == 1
  assert stderr.startswith('error: ') and message in stderr
  assert len(stderr.splitlines()) == 1, stderr


@pytest.mark.parametrize('name, message', [
    ('no paper', '--paper must have a value'), ('no workdir', '--workdir must have a value'),
    ('budget', '--budget=tiny'), ('suite', '--suite=big')])
def test_a_bad_flag_is_named(commands, name, message):
  code, _, stderr = commands[name]
  assert code != 0 and message in stderr and 'Traceback' not in stderr


def test_a_table_without_results_says_so(commands):
  code, stdout, stderr = commands['nothing run']
  assert code == 0, stderr
  assert 'not run' in stdout and 'Molchanov' in stdout and 'Report: ' in stdout
