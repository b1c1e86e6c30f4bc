"""A sweep under SLURM's own daemons: preempted, cancelled, at its time limit, it ends the same."""
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.launchers import submissions
from sparsejax import codec
from sparsejax.training.metrics import read_metrics
from tests.experiments.launchers import daemons

pytest.importorskip('submitit')

NAMES = {width: [f'seed={seed},widths={width}' for seed in (0, 1)] for width in (6, 5)}
SWEEP = [sys.executable, '-m', 'experiments.sweep']
CONFIG = ['--config=experiments/configs/digits/l0_mlp.py', '--config.epochs=8000',
          '--config.training_examples=500', '--config.checkpoint_every=1000',
          '--config.evaluate_every=2000', '--sweep=seed=0..1; model.widths=[(6,), (5,)]']
LAUNCH = ['--launcher=slurm', '--partition=all', '--time=10', '--cpus_per_task=1', '--mem=400M']


@pytest.mark.slow            # five processes that import and compile, and the pace of SLURM
@pytest.mark.skipif(bool(daemons.missing()), reason=daemons.missing())
def test_a_sweep_under_slurm(tmp_path):
  folder, swept = tmp_path / 'cluster', tmp_path / 'sweep'
  folder.mkdir()
  with daemons.running(folder) as environment:
    environment |= {'JAX_PLATFORMS': 'cpu', 'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'programs'),
                    'COLUMNS': '200'}

    def sweep(*flags, where=swept):
      done = subprocess.run([*SWEEP, f'--workdir={where}', *flags], env=environment, text=True,
                            capture_output=True, check=False)
      assert done.returncode == 0, done.stderr
      return done.stdout

    def tell(*command):
      return daemons.told(environment, *command)

    def state(job):
      return tell('squeue', f'--jobs={job}', '--array', '--noheader', '--states=all',
                  '--format=%T').strip()

    def epochs(width):
      return len(read_metrics(swept / NAMES[width][0] / 'metrics.jsonl'))

    def ended(width):
      return all((swept / name / 'report.md').exists() for name in NAMES[width])

    def wait(true, seconds=180):
      daemons.wait_until(true, seconds, folder, logs=swept / 'slurm')

    def start_now(job):
      # SLURM lets a job wait that was put back; it may have begun by the time it is asked.
      wait(lambda: state(job) in ('PENDING', 'RUNNING'))
      tell('scontrol', 'update', f'JobId={job}', 'StartTime=now')

    assert 'Job array 1: 2 tasks for 4 members' in sweep(*CONFIG, *LAUNCH)
    assert '4 members wait or run already' in sweep(*CONFIG, *LAUNCH)
    wait(lambda: epochs(6) > 100 and epochs(5) > 100)
    assert '4 running' in sweep('--status')
    tell('scancel', '1_1')
    wait(lambda: state('1_1') == 'CANCELLED')
    # It wants both cores, and is more urgent: SLURM puts the task back that has one of them.
    assert 'Submitted' in tell('sbatch', '--partition=urgent', '--cpus-per-task=2',
                               '--output=/dev/null', '--wrap=sleep 1')
    wait(lambda: 'SIGTERM; the states after epoch' in text(swept, '1_0')
         and 'SIGTERM; the states after epoch' in text(swept, '1_1')
         and state('1_0') == 'PENDING')
    told = sweep('--status')
    assert '2 queued, 2 failed' in told and 'job 1_1 has ended, cancelled' in told
    assert 'stopped by SIGTERM; the states after epoch' in told
    assert 'DUE TO PREEMPTION' in text(swept, '1_0')
    start_now('1_0')
    assert ': 1 tasks for 2 members' in sweep(*CONFIG, *LAUNCH)
    again = submissions.recorded(swept)[1]
    assert again.tasks == [NAMES[5]]
    before = epochs(5)
    wait(lambda: epochs(5) > before + 100)
    job = again.task_id(0)
    tell('scancel', '--signal=USR2', job)                      # as before the time limit
    wait(lambda: 'SIGUSR2; the states after epoch' in text(swept, job))
    wait(lambda: state(job) == 'PENDING')
    start_now(job)
    wait(lambda: ended(5) and ended(6) and (swept / 'pareto.png').exists())
    wait(lambda: state(job) == state('1_0') == 'COMPLETED')
    assert '4 done' in sweep('--status')
    for task in ('1_0', job):
      assert 'going on with population' in text(swept, task)
    assert tell('scontrol', 'show', 'job', '1_0').count('Restarts=1') == 1
    sweep(*CONFIG, where=tmp_path / 'here')
  for name in (*NAMES[5], *NAMES[6]):
    found, wanted = (codec.read(root / name / 'parameters.safetensors')
                     for root in (swept, tmp_path / 'here'))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
  for root, _, files in os.walk(swept):
    assert not [file for file in files if file.endswith('.pkl')], root


def text(swept, task):
  """Returns what a task has printed."""
  logs = list((swept / 'slurm').glob(f'*/{task}_0_log.out'))
  return logs[0].read_text() if logs else ''
