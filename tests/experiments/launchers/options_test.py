"""Options of sbatch."""
import pytest

from experiments.launchers.options import Options, parameters, passed_on


def test_what_is_not_given_is_left_to_the_cluster():
  assert Options().given() == []
  assert parameters(Options()) == {
      'time': None, 'wckey': None, 'stderr_to_stdout': True, 'srun_args': ['--open-mode=append'],
      'additional_parameters': {'requeue': True, 'signal': 'USR2@90'}}


def test_what_is_given_is_handed_on():
  options = Options(partition='gpu', gpus_per_task=0, sbatch=('--qos=long', 'signal=USR2@300'))
  assert options.given() == ['partition', 'gpus_per_task', 'sbatch']
  found = parameters(options)
  assert found['partition'] == 'gpu' and found['gpus_per_task'] == 0
  assert found['additional_parameters'] == {'requeue': True, 'qos': 'long', 'signal': 'USR2@300'}
  assert passed_on(2, 0.1) == ['--members_at_once=2', '--save_minutes=0.1']
  assert passed_on(2, 0.1, 'data:2')[2:] == ['--mesh=data:2']


@pytest.mark.parametrize(('text', 'words'), [
    ('', 'give name=value or name'),
    ('account=', 'give name=value or name'),
    ('a b=c', 'give name=value or name'),
    ('array=0-3', 'array is set by the launcher'),
    ('--wrap=ls', 'wrap is set by the launcher'),
    ('cpus-per-task=2', 'give --cpus_per_task, a flag of its own'),
    ('signal=USR1@90', 'tasks wait for USR2; give signal=USR2@<seconds'),
    ('comment=a\nrm', 'characters that cannot be printed'),
])
def test_options_that_cannot_be_are_named(text, words):
  with pytest.raises(ValueError, match=words):
    parameters(Options(sbatch=(text,)))
  with pytest.raises(ValueError, match='cannot be printed'):
    parameters(Options(partition='a\n'))
