"""How members stand of which SLURM knows."""
import io

import pytest
from rich.console import Console

from experiments.launchers import standing
from experiments.lock import held
from experiments.sweeps.members import recorded_members
from tests.experiments.launchers.conftest import FIRST, SECOND

pytest.importorskip('submitit')


def shown(sweep):
  console = Console(file=io.StringIO(), width=160)
  standing.show(sweep.folder, recorded_members(sweep.folder), console)
  return console.file.getvalue()


def test_queued_running_done_and_failed(cluster, sweep):
  found = sweep.launch()
  (cluster / 'queue').write_text('17_0|RUNNING\n17_1|PENDING\n')
  assert '2 running, 2 queued' in shown(sweep)
  sweep.end(FIRST[:1])
  (cluster / 'queue').write_text('17_1|PENDING\n17_0|COMPLETING')
  assert '1 done, 1 running, 2 queued' in shown(sweep)
  (cluster / 'queue').write_text('17_1|OUT_OF_MEMORY')
  found.log(0).write_text('first\nerror: the last words\n')
  text = shown(sweep)
  assert '1 done, 3 failed' in text and 'job 17_1 has ended, out_of_memory' in text
  assert f'{found.log(0)} ends:\n  first\n  error: the last words\n' in text
  assert f'{found.log(1)} ends:\n  (it is not there, or empty)' in text
  (sweep.folder / SECOND[0]).mkdir()
  with held(sweep.folder / SECOND[0], print):             # somebody trains it outside of SLURM
    assert '1 done, 1 running, 2 failed' in shown(sweep)


def test_the_newest_task_of_a_member_counts(cluster, sweep):
  sweep.launch()
  again = sweep.launch()
  (cluster / 'queue').write_text('17_0|PENDING\n17_1|PENDING\n')
  names = [task.log.parent for task in standing.tasks(sweep.folder, [*FIRST, *SECOND])]
  assert names == [again.folder] * 2
  assert standing.tasks(sweep.folder, []) == []


def test_without_a_queue_the_files_are_told(cluster, sweep, monkeypatch):
  sweep.launch()
  sweep.end(FIRST)
  monkeypatch.setenv('PATH', '')
  text = shown(sweep)
  assert '2 done, 2 missing' in text
  assert 'only what the files say: this machine has no squeue' in text
