"""A task of a job array: its members, the end of the sweep, and the way back into the queue."""
import io
import os
import signal

import pytest
from rich.console import Console

from experiments.launchers import task
from experiments.lock import held
from experiments.stopping import Stopped
from experiments.sweeps import runner
from tests.experiments.launchers.conftest import FIRST, SECOND

pytest.importorskip('submitit')
SLURM = {'SLURM_ARRAY_JOB_ID': '17', 'SLURM_ARRAY_TASK_ID': '1'}


@pytest.fixture
def trained(sweep, monkeypatch):
  """Has members end at once; a list of the groups that were trained, and of 'front' at the end."""
  done = []

  def run_new(folder, groups, *rest):
    for group in groups:
      done.append([member.name for member in group])
      sweep.end(done[-1])
  monkeypatch.setattr(runner, '_run_new', run_new)
  monkeypatch.setattr(runner, 'conclude', lambda *given: done.append('front'))
  return done


def run(sweep, program, environment=SLURM, stop=None):
  console = Console(file=io.StringIO(), width=200)
  task.run(sweep.folder, program, stop or task.signals(), console, at_once=0, save_minutes=1,
           environment=environment)
  return console.file.getvalue()


def test_each_task_trains_its_members_and_the_last_writes_the_front(cluster, sweep, trained):
  sweep.launch()
  assert '2 members, 0 have ended' in run(sweep, '0.1')
  assert trained == [SECOND]
  run(sweep, '0.0')
  assert trained == [SECOND, FIRST, 'front']
  run(sweep, '0.0')                        # put back by SLURM after its end: nothing is left to do
  assert trained[2:] == ['front', 'front']


def test_of_two_that_end_at_once_one_writes_the_front(cluster, sweep, trained):
  sweep.launch()
  sweep.end(FIRST)
  with held(sweep.folder, print):
    text = run(sweep, '0.1')
  assert trained == [SECOND] and 'the front is not written here' in text


def test_a_task_goes_on_with_its_own_population_alone(cluster, sweep, trained, monkeypatch):
  sweep.launch()
  for number, names in enumerate((FIRST, SECOND)):
    runner.record_population(sweep.folder / 'populations', [
        member for member in runner.recorded_members(sweep.folder) if member.name in names])
    assert (sweep.folder / 'populations' / str(number) / 'members.json').exists()
  went_on = []
  monkeypatch.setattr(runner, 'run_population', lambda members, root, population, *rest, **options:
                      went_on.append((population.name, [member.name for member in members])))
  run(sweep, '0.1')
  assert went_on == [('1', SECOND)] and trained == []


@pytest.mark.parametrize(('program', 'words'), [
    ('x', 'is none: it reads <job array>.<task>'), ('0', 'is none'), ('0.2', 'has 2 tasks'),
    ('7.0', 'holds no job array'), ('../0.1', 'is none')])
def test_programs_that_are_not_there_are_named(cluster, sweep, program, words):
  sweep.launch()
  with pytest.raises(ValueError, match=words):
    run(sweep, program)


def interrupted(monkeypatch, number):
  """Has the training be sent a signal, twice as srun may do; returns what listens."""
  stop = task.signals()

  def run_program(*given, **options):
    with stop.waiting():
      os.kill(os.getpid(), number)
      os.kill(os.getpid(), number)
      stop.stop('it is kept')
  monkeypatch.setattr(runner, 'run_program', run_program)
  return stop


def test_before_the_time_limit_a_task_goes_back_into_the_queue(cluster, sweep, monkeypatch):
  sweep.launch()
  stop = interrupted(monkeypatch, signal.SIGUSR2)
  with stop.listening():
    assert 'stopped by SIGUSR2; it is kept' in run(sweep, '0.1', stop=stop)
  assert (cluster / 'told').read_text() == 'requeue 17_1\n'
  stop = interrupted(monkeypatch, signal.SIGUSR2)
  with stop.listening(), pytest.raises(ValueError, match='ended this task 101 times'):
    run(sweep, '0.1', SLURM | {'SLURM_RESTART_COUNT': '100'}, stop)


def test_when_preempted_it_leaves_the_queue_to_slurm(cluster, sweep, monkeypatch):
  sweep.launch()
  stop = interrupted(monkeypatch, signal.SIGTERM)
  with stop.listening(), pytest.raises(Stopped) as end:
    run(sweep, '0.1', stop=stop)
  assert end.value.exit_code == 143 and (cluster / 'told').read_text() == ''
