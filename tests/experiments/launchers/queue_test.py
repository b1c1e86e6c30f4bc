"""What is made of squeue's and scontrol's answers."""
import pytest

from experiments.launchers import queue


def test_states_of_tasks(cluster):
  (cluster / 'queue').write_text('17_0|RUNNING\n 17_1|PENDING\n')
  assert queue.task_states('17') == {'17_0': 'RUNNING', '17_1': 'PENDING'}
  (cluster / 'queue').write_text('')
  (cluster / 'trouble').write_text('slurm_load_jobs error: Invalid job id specified')
  assert queue.task_states('17') == {}


def test_troubles_are_named(cluster, monkeypatch):
  (cluster / 'trouble').write_text('no controller')
  with pytest.raises(ValueError, match='squeue fails: no controller'):
    queue.task_states('17')
  with pytest.raises(ValueError, match='17_2 could not be put back into the queue: no controller'):
    queue.requeue('17_2')
  assert (cluster / 'told').read_text() == 'requeue 17_2\n'
  monkeypatch.setenv('PATH', '')
  with pytest.raises(ValueError, match='this machine has no squeue'):
    queue.task_states('17')
