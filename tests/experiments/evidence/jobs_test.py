"""Runs side by side: folders, commands, failures; the runs here are one-line programs."""
import os
import pathlib
import sys
import time

import pytest

from experiments.evidence import jobs
from experiments.evidence.jobs import Job, cores, default_workers, run_jobs
from experiments.workdir import config_hash

CONFIG = 'digits/l0_mlp:smoke'


@pytest.fixture
def program(monkeypatch):
  """Sets what each run runs: a function from the job to Python source."""
  def use(source):
    monkeypatch.setattr(Job, 'command', lambda job, root: [
        sys.executable, '-S', '-E', '-c', source(job)])
    monkeypatch.setattr(Job, 'folder', lambda job, root: root / f'{job.config}{job.seed}')
  return use


def run(some, root, workers=2):
  ended = []
  run_jobs(some, root, workers, lambda job, seconds, error: ended.append((job, seconds, error)))
  return ended


def test_the_config_has_the_seed():
  assert Job(CONFIG, 3).built().seed == 3


def test_a_folder_for_each_config_seed_and_code(tmp_path, monkeypatch):
  job = Job(CONFIG, 3)
  folder = job.folder(tmp_path)
  assert folder.parent == tmp_path / 'digits'
  assert folder.name.startswith('l0_mlp_smoke_seed3-')
  assert config_hash(job.built())[:8] in folder.name
  assert job.folder(tmp_path) == folder
  assert len({Job(CONFIG, 4).folder(tmp_path), Job('digits/l0_mlp', 3).folder(tmp_path),
              folder}) == 3
  monkeypatch.setattr(jobs, 'code_hash', lambda config: 'other code')
  assert job.folder(tmp_path) != folder
  assert job.folder(tmp_path).name.startswith('l0_mlp_smoke_seed3-')


def test_the_command_trains_this_config_with_this_seed(tmp_path, monkeypatch):
  monkeypatch.chdir(pathlib.Path(jobs.__file__).parents[2])
  python, *rest = Job(CONFIG, 3).command(tmp_path)
  assert python == sys.executable
  assert rest == ['-m', 'experiments.train', '--config=experiments/configs/digits/l0_mlp.py:smoke',
                  '--config.seed=3', f'--workdir={Job(CONFIG, 3).folder(tmp_path)}']
  other = Job('digits/l0_mlp', 0).command(tmp_path)
  assert '--config=experiments/configs/digits/l0_mlp.py' in other


def test_every_job_is_run_once_and_logged(tmp_path, program):
  program(lambda job: f'print("seed {job.seed}")')
  some = [Job('a', seed) for seed in range(5)]
  ended = run(some, tmp_path)
  assert sorted(job for job, _, _ in ended) == some
  assert all(error is None and seconds > 0 for _, seconds, error in ended)
  for job in some:
    assert (job.folder(tmp_path) / jobs.LOG_FILE).read_text() == f'seed {job.seed}\n'


def test_a_failure_is_told_by_its_last_lines_and_the_others_run(tmp_path, program):
  program(lambda job: 'import sys\nfor i in range(9): print("line", i)\nsys.exit(3)'
          if job.seed == 1 else 'pass')
  errors = {job.seed: error for job, _, error in run([Job('a', s) for s in range(4)], tmp_path, 1)}
  assert errors == {0: None, 1: 'exit status 3: line 6 / line 7 / line 8', 2: None, 3: None}


def test_a_killed_run_is_a_failure(tmp_path, program):
  program(lambda job: 'import os; os.kill(os.getpid(), 9)')
  (_, _, error), = run([Job('a', 0)], tmp_path)
  assert error.startswith('exit status -9')


def test_what_is_printed_is_added_to_the_log_of_before(tmp_path, program):
  program(lambda job: 'import sys; print("out"); print("err", file=sys.stderr)')
  for _ in range(2):
    run([Job('a', 0)], tmp_path)
  text = (tmp_path / 'a0' / jobs.LOG_FILE).read_text()
  assert text.count('out') == text.count('err') == 2


@pytest.mark.parametrize('workers', [1, 2])
def test_no_more_than_the_workers_at_a_time(tmp_path, program, workers):
  program(lambda job: 'import time; a = time.time(); time.sleep(0.15); print(a, time.time())')
  run([Job('a', seed) for seed in range(4)], tmp_path, workers)
  spans = [tuple(map(float, (tmp_path / f'a{seed}' / jobs.LOG_FILE).read_text().split()))
           for seed in range(4)]
  together = max(sum(a <= begin < b for a, b in spans) for begin, _ in spans)
  assert together <= workers
  if workers == 1:
    assert [begin for begin, _ in spans] == sorted(begin for begin, _ in spans)


@pytest.mark.skipif(not hasattr(os, 'sched_setaffinity'), reason='no affinity on this system')
def test_the_cores_are_shared_out(tmp_path, program, monkeypatch):
  program(lambda job: 'import time; time.sleep(0.05)')
  given = []
  monkeypatch.setattr(jobs, 'cores', lambda: [0, 1, 2, 3, 4])
  monkeypatch.setattr(os, 'sched_setaffinity', lambda pid, share: given.append(tuple(share)))
  run([Job('a', seed) for seed in range(4)], tmp_path, 2)
  assert set(given) == {(0, 2, 4), (1, 3)}
  given.clear()
  monkeypatch.setattr(jobs, 'cores', lambda: [5])
  run([Job('a', seed) for seed in range(2)], tmp_path, 2)      # more workers than cores
  assert given == [(5,), (5,)]


def test_no_job_is_no_work(tmp_path):
  assert run([], tmp_path) == []


def test_one_worker_per_core_on_a_cpu_and_one_on_a_gpu(monkeypatch):
  assert default_workers() == len(cores()) == len(set(cores())) > 0
  monkeypatch.setattr(jobs.jax, 'default_backend', lambda: 'gpu')
  assert default_workers() == 1


def test_seconds_are_those_of_the_run(tmp_path, program):
  program(lambda job: 'import time; time.sleep(0.3)')
  start = time.perf_counter()
  (_, seconds, _), = run([Job('a', 0)], tmp_path)
  assert 0.3 <= seconds <= time.perf_counter() - start
