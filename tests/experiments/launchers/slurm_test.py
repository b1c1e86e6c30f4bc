"""What is submitted, and when, as a SLURM sees it that only writes down what it is told."""
import json
import shlex
import sys

import pytest

from experiments.launchers import slurm
from experiments.launchers.options import Options
from experiments.sweeps import runner
from tests.experiments.launchers.conftest import FIRST, SECOND

pytest.importorskip('submitit')


def test_a_sweep_becomes_an_array_of_command_lines(cluster, sweep, capsys):
  found = sweep.launch(Options('gpu', '2:00:00', 4, 1, '16G', ('account=lab', 'exclusive')))
  assert (found.job, found.tasks) == ('17', [FIRST, SECOND])
  lines = (cluster / 'script').read_text().splitlines()
  asked = {line.removeprefix('#SBATCH --') for line in lines if line.startswith('#SBATCH')}
  log = found.folder / '%A_%a_0_log.out'
  assert asked == {
      'array=0-1%2', 'partition=gpu', 'time=2:00:00', 'cpus-per-task=4', 'gpus-per-task=1',
      'mem=16G', 'account=lab', 'exclusive', 'requeue', 'signal=USR2@90', 'open-mode=append',
      'nodes=1', 'job-name=sweep-sweep', f'output={log}'}
  command = next(line for line in lines if line.startswith('srun'))
  assert shlex.split(command) == [
      'srun', '--unbuffered', '--output', str(found.folder / '%A_%a_%t_log.out'),
      '--open-mode=append', '--cpus-per-task=4', sys.executable, '-u', '-m', 'experiments.sweep',
      f'--workdir={sweep.folder}', '--members_at_once=3', '--program=0.$SLURM_ARRAY_TASK_ID']
  assert '"$SLURM_ARRAY_TASK_ID"' in command                # for the shell of each task to fill in
  assert json.loads((found.folder / 'tasks.json').read_text()) == {'tasks': [FIRST, SECOND]}
  assert json.loads((sweep.folder / 'sweep.json').read_text())['members'].keys() == {
      *FIRST, *SECOND}
  assert 'Job array 17: 2 tasks for 4 members' in capsys.readouterr().out


def test_nothing_that_is_kept_is_a_pickle(cluster, sweep):
  sweep.launch()
  files = [path for path in sweep.folder.rglob('*') if path.is_file()]
  assert {path.name for path in files} >= {'sweep.json', 'tasks.json', 'job.json'}
  for path in files:
    assert path.suffix != '.pkl'
    path.read_text()                    # of UTF-8; a pickle starts with 0x80, which no text does


def test_what_waits_or_runs_is_left_alone_and_what_failed_submitted_again(cluster, sweep, capsys):
  sweep.launch()
  (cluster / 'queue').write_text('17_0|RUNNING\n17_1|PENDING\n')
  assert sweep.launch() is None
  assert '4 members wait or run already' in capsys.readouterr().out
  assert (cluster / 'asked').read_text().split() == [
      '--jobs=17', '--array', '--noheader', '--states=all', '--format=%i|%T']
  sweep.end(FIRST)
  (cluster / 'queue').write_text('17_1|OUT_OF_MEMORY\n')
  again = sweep.launch()
  assert again.folder.name == '1' and again.tasks == [SECOND]


def test_the_same_command_writes_the_front_where_all_have_ended(cluster, sweep, monkeypatch):
  sweep.launch()
  sweep.end([*FIRST, *SECOND])
  (cluster / 'script').unlink()
  concluded = []
  monkeypatch.setattr(runner, 'conclude', lambda *given: concluded.append(given))
  assert sweep.launch() is None and len(concluded) == 1
  assert not (cluster / 'script').exists()


def test_a_population_that_stopped_is_a_task_and_so_is_who_runs_alone(cluster, sweep):
  population = sweep.folder / 'populations' / '4'
  population.mkdir(parents=True)
  sweep.launch()
  (population / 'members.json').write_text(json.dumps({'members': SECOND[:1]}))
  assert sweep.launch().tasks == [SECOND[:1], FIRST, SECOND[1:]]
  early = {'patience': 3}
  assert sweep.launch(where=sweep.folder.with_name('alone'), early_stopping=early).tasks == [
      [name] for name in (*FIRST, *SECOND)]


def test_what_slurm_refuses_is_told_and_leaves_no_array(cluster, sweep):
  (cluster / 'refusal').write_text('sbatch: error: invalid partition specified: gpu\n')
  with pytest.raises(ValueError, match='SLURM did not take the job(.|\n)*invalid partition'):
    sweep.launch(Options('gpu'))
  assert list((sweep.folder / 'slurm').iterdir()) == []
  (cluster / 'refusal').write_text('')
  (cluster / 'sbatch').write_text('#!/bin/sh\necho hello')
  with pytest.raises(ValueError, match='did not tell the id of the job, see squeue: .*hello'):
    sweep.launch()


def test_a_broken_queue_submits_nothing(cluster, sweep):
  sweep.launch()
  (cluster / 'trouble').write_text('slurm_load_jobs error: Unable to contact slurm controller')
  with pytest.raises(ValueError, match='squeue fails: .*Unable to contact slurm controller'):
    sweep.launch()
  assert len(list((sweep.folder / 'slurm').iterdir())) == 1


def test_missing_parts_are_named(sweep, tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(ValueError, match='has no sbatch, srun, squeue, scontrol: run .*slurm-client'):
    sweep.launch()
  monkeypatch.setitem(sys.modules, 'submitit', None)
  with pytest.raises(ValueError, match=r"needs submitit, .*pip install 'sparsejax\[slurm\]'"):
    slurm.require()
  assert not sweep.folder.exists()


def test_a_folder_that_slurm_would_read_as_a_pattern_is_refused(cluster, sweep, tmp_path):
  with pytest.raises(ValueError, match='SLURM reads % in names of logs'):
    sweep.launch(where=tmp_path / '100%')
