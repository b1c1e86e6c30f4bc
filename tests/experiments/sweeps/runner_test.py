"""A sweep against the same runs alone; stopped anywhere, it ends as if it had never been."""
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments import run, stopping, workdir
from experiments.configs.digits import l0_mlp
from experiments.mesh import Devices
from experiments.sweeps import members, population_run, runner, status
from experiments.sweeps.diverged import read_diverged
from sparsejax import codec
from sparsejax.paths import flatten
from sparsejax.training import loop
from sparsejax.training.checkpoint import Checkpoints, named_leaves
from sparsejax.training.fit import evaluation_params
from sparsejax.training.metrics import MetricsLog, read_metrics

pytestmark = pytest.mark.usefixtures('compile_once')

RATE = 'optimiser.learning_rate'
GOOD, BAD = 'seed=0,learning_rate=0.02', 'seed=1,learning_rate=1e+38'
TWO = [{'seed': 0, RATE: 0.02}, {'seed': 1, RATE: 1e38}]


class Killed(BaseException):
  """Stands for a process that is gone."""


def config(**changes):
  """Four epochs of two steps."""
  made = l0_mlp.get_config()
  made.model.widths = (6,)
  made.update({'training_examples': 100, 'epochs': 4, 'evaluate_every': 2, 'checkpoint_every': 2})
  made.update(changes)
  return made


def sweep(folder, overrides, base=None, **options):
  console = Console(file=io.StringIO(), width=160)
  found = runner.sweep(base or config(), overrides, folder, 'small.py', console, **options)
  return found, console.file.getvalue()


@pytest.fixture(scope='module')
def swept(tmp_path_factory):
  """(folder, entries, text) of a sweep of two members, of which the second diverges at once."""
  folder = tmp_path_factory.mktemp('sweep')
  return folder, *sweep(folder, TWO)


@pytest.fixture
def unmeasured(monkeypatch, swept):
  """Members are given the ledger of another; returns {name: state} of what was trained."""
  states = {}

  def finish(config, config_name, recipe, state, data, folder, seconds, selected_by, console,
             trained_on):
    states[folder.name] = {name: np.asarray(leaf) for name, leaf in named_leaves(state).items()}
    for name in ('ledger.json', 'report.md'):
      shutil.copy(swept[0] / GOOD / name, folder)
  monkeypatch.setattr(population_run.run, 'finish', finish)
  return states


@pytest.mark.slow
def test_a_member_ends_where_it_ends_alone(swept):
  data, recipe, state = run.begin(members.with_overrides(config(), TWO[0]))
  *_, last = loop.run_epochs(recipe, state, *map(jnp.asarray, (data.images, data.labels)), last=4)
  found = flatten(codec.read(swept[0] / GOOD / 'parameters.safetensors')['params'])
  for path, leaf in flatten(evaluation_params(recipe, last.state)).items():
    # 8 steps, each off by some units in the last place, 6e-8.
    np.testing.assert_allclose(found[path], leaf, rtol=0, atol=1e-5 * np.abs(leaf).max(),
                               err_msg=path)


@pytest.mark.slow            # a run by itself, measured
def test_a_member_leaves_what_it_leaves_alone(swept, tmp_path):
  folder, alone = swept[0] / GOOD, tmp_path
  run.run(members.with_overrides(config(), TWO[0]), alone, 'small.py',
          Console(file=io.StringIO()))
  assert {path.name for path in folder.iterdir()} == {path.name for path in alone.iterdir()}
  for name in ('config.json', 'version.json'):
    assert (folder / name).read_bytes() == (alone / name).read_bytes()
  rows, alone_rows = (read_metrics(own / 'metrics.jsonl') for own in (folder, alone))
  assert [row.keys() for row in rows] == [row.keys() for row in alone_rows]
  for row, other in zip(rows, alone_rows, strict=True):
    for name in row.keys() - {'seconds'}:
      assert row[name] == pytest.approx(other[name], rel=1e-5), name
  sheet, other = (json.loads((own / 'ledger.json').read_text()) for own in (folder, alone))
  assert sheet.keys() == other.keys()
  for name in ('seed', 'config_hash', 'data_hash', 'epochs', 'weights_kept', 'parameters_compact',
               'validation_error_percent', 'selected_by', 'architecture_kept', 'bytes_file'):
    assert sheet[name] == other[name], name
  assert sheet['wall_seconds'] == pytest.approx(sum(row['seconds'] for row in rows))
  one, two = (Checkpoints(own / 'checkpoints') for own in (folder, alone))
  assert one.latest_epoch() == two.latest_epoch() == 4
  one.close()
  two.close()


def test_batches_that_devices_cannot_share_are_refused_before_anything_is_kept(tmp_path):
  three = Devices(types.SimpleNamespace(size=3))
  with pytest.raises(ValueError, match='^member seed=0,learning_rate=0.02 trains by itself: config.'
                     'batch_size=50 cannot be shared alike by the 3 devices .* set .*size=48$'):
    sweep(tmp_path / 'new', TWO[:1], devices=three)
  assert not (tmp_path / 'new' / 'sweep.json').exists()


@pytest.mark.slow            # three processes, each compiling its programs
def test_a_sweep_over_two_devices_goes_on_on_one(tmp_path):
  words = [sys.executable, '-m', 'experiments.sweep', f'--workdir={tmp_path / "sweep"}',
           '--config=experiments/configs/digits/l0_mlp.py:smoke', '--config.epochs=60',
           '--config.checkpoint_every=5', '--sweep=seed=0..2']
  devices = {**os.environ, 'JAX_NUM_CPU_DEVICES': '2'}
  first = subprocess.Popen([*words, '--mesh=data:2'], env=devices, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  while not (tmp_path / 'sweep' / 'populations' / '0' / 'checkpoints' / '5').exists():
    assert first.poll() is None, first.communicate()
    time.sleep(0.05)
  first.terminate()
  assert '3 members together' in first.communicate(timeout=60)[0] and first.returncode == 143
  subprocess.run(words, check=True, capture_output=True, timeout=300)
  subprocess.run([sys.executable, '-m', 'experiments.train', f'--workdir={tmp_path / "alone"}',
                  *words[4:6], '--config.checkpoint_every=5', '--config.seed=2'], check=True,
                 capture_output=True, timeout=300)
  found, alone = (flatten(codec.read(folder / 'parameters.safetensors')['params'])
                  for folder in (tmp_path / 'sweep' / 'seed=2', tmp_path / 'alone'))
  for path, leaf in alone.items():
    np.testing.assert_allclose(found[path], leaf, rtol=0, atol=1e-5 * np.abs(leaf).max(),
                               err_msg=path)
  subprocess.run([*words[:-1], '--sweep=seed=3..4', '--mesh=data:2'], env=devices, check=True,
                 capture_output=True, timeout=300)
  sheets = [json.loads((tmp_path / 'sweep' / f'seed={seed}' / 'ledger.json').read_text())
            for seed in (2, 3)]
  assert [sheet.get('mesh') for sheet in sheets] == [None, 'members:2']


def test_the_run_alone_says_that_it_had_ended(swept):
  console = Console(file=io.StringIO(), width=160)
  run.run(members.with_overrides(config(), TWO[0]), swept[0] / GOOD, 'small.py', console)
  assert 'This run had ended' in console.file.getvalue()


def test_one_that_diverges_is_kept_and_told_and_does_not_end_the_sweep(swept):
  folder, found, text = swept
  assert [(entry.member.name, entry.state) for entry in found] == [
      (GOOD, 'done'), (BAD, 'diverged')]
  told = read_diverged(folder / BAD)
  assert told['epoch'] == 1 and told['step'] in (0, 1)
  assert f'{BAD}: diverged in epoch 1, step {told["step"]}' in text
  assert not (folder / BAD / 'ledger.json').exists()
  store = Checkpoints(folder / BAD / 'checkpoints')
  assert store.numbers() == [0]
  store.close()
  assert '1 done, 1 diverged' in text and 'Pareto front' in text
  assert not (folder / 'populations' / '0' / 'checkpoints').exists()


def test_one_that_diverged_is_tried_again_once_its_note_is_removed(swept, tmp_path):
  folder = tmp_path / 'copy'
  shutil.copytree(swept[0], folder)
  good = {path: path.read_bytes() for path in (folder / GOOD).rglob('*') if path.is_file()}
  (folder / BAD / 'diverged.json').unlink()
  states = [status.state_of(folder, member) for member in members.recorded_members(folder)]
  assert [found.state for found in states] == ['done', 'missing']
  found, text = sweep(folder, TWO)
  assert 'going on with population 0' in text and f'{BAD}: diverged in epoch 1' in text
  assert [entry.state for entry in found] == ['done', 'diverged']
  assert read_diverged(folder / BAD) == read_diverged(swept[0] / BAD)
  assert {path: path.read_bytes() for path in good} == good


def test_a_program_of_a_recorded_sweep(swept, tmp_path):
  folder = tmp_path / 'copy'
  shutil.copytree(swept[0], folder)
  (folder / 'sweep.csv').unlink()
  console = Console(file=io.StringIO(), width=160)
  runner.run_program(folder, [GOOD], console)
  assert '1 members, 1 have ended' in console.file.getvalue()
  assert (folder / 'sweep.csv').exists()            # the last to end writes the front
  with pytest.raises(ValueError, match='has no members nobody; run the command'):
    runner.run_program(folder, ['nobody'], console)


def test_what_has_ended_is_not_run_again(swept, monkeypatch):
  folder = swept[0]
  monkeypatch.setattr(runner, 'run_population', None)
  monkeypatch.setattr(runner.run, 'run', None)
  found, text = sweep(folder, TWO)
  assert [entry.state for entry in found] == ['done', 'diverged']
  assert '2 members, 2 have ended' in text


@pytest.mark.slow
def test_a_killed_sweep_ends_as_if_it_had_not_been(tmp_path, monkeypatch, unmeasured):
  overrides = [{'seed': 0, RATE: 0.02}, {'seed': 1, RATE: 0.03}]
  sweep(tmp_path / 'whole', overrides)
  wanted = dict(unmeasured)
  unmeasured.clear()
  writes = itertools.count()
  write = MetricsLog.write

  def killed(self, *arguments):
    # After one of the two members in the third epoch; when it goes on, in the fourth.
    if next(writes) in (5, 8):
      raise Killed
    write(self, *arguments)
  monkeypatch.setattr(MetricsLog, 'write', killed)
  for epochs in ([3, 2], [3, 3]):
    with pytest.raises(Killed):
      sweep(tmp_path / 'killed', overrides)
    files = sorted(tmp_path.glob('killed/seed=*/metrics.jsonl'))
    assert [len(read_metrics(path)) for path in files] == epochs
  found, text = sweep(tmp_path / 'killed', overrides)
  assert 'going on with population 0: 2 members' in text
  assert unmeasured.keys() == wanted.keys() and len(wanted) == 2
  for name, leaves in wanted.items():
    for path, leaf in leaves.items():
      np.testing.assert_array_equal(unmeasured[name][path], leaf, err_msg=f'{name} {path}')
    rows = [[{key: row[key] for key in row.keys() - {'seconds'}} for row in read_metrics(
        tmp_path / folder / name / 'metrics.jsonl')] for folder in ('whole', 'killed')]
    assert rows[0] == rows[1] and len(rows[0]) == 4


def test_asked_to_stop_it_keeps_the_epoch(tmp_path, monkeypatch, unmeasured):
  stop = stopping.StopSignals()
  write = MetricsLog.write

  def asked(self, epoch, numbers):
    write(self, epoch, numbers)
    if epoch == 3:
      stop._asked = 15
  monkeypatch.setattr(MetricsLog, 'write', asked)
  overrides = [{'seed': 0, RATE: 0.02}, {'seed': 1, RATE: 0.03}]
  with pytest.raises(stopping.Stopped, match='SIGTERM; the states after epoch 3 of 4 are kept'):
    sweep(tmp_path, overrides, stop=stop)
  store = Checkpoints(tmp_path / 'populations' / '0' / 'checkpoints')
  assert store.latest_epoch() == 3
  store.close()
  states = [status.state_of(tmp_path, member) for member in members.recorded_members(tmp_path)]
  assert [(found.state, found.epoch) for found in states] == [('interrupted', 3)] * 2


def test_a_changed_sweep_adds_what_is_new(swept, tmp_path, monkeypatch, unmeasured):
  folder = tmp_path / 'copy'
  shutil.copytree(swept[0], folder)
  monkeypatch.setattr(runner.run, 'run', lambda member, own, *rest: unmeasured.update({own.name: 1})
                      or shutil.copytree(swept[0] / GOOD, own))
  found, text = sweep(folder, [TWO[0], {'seed': 7}])
  assert [(entry.member.name, entry.state) for entry in found] == [
      (GOOD, 'done'), (BAD, 'diverged'), ('seed=7', 'done')]
  assert list(unmeasured) == ['seed=7']
  assert 'program 1 of 1: seed=7 by itself' in text
  with pytest.raises(ValueError, match='sweep of another config(.|\n)*epochs: 4 -> 5'):
    sweep(folder, TWO, config(epochs=5))


def test_chunks_of_at_most_so_many_members(tmp_path, monkeypatch):
  ran = []
  monkeypatch.setattr(runner, 'run_population', lambda chunk, *rest, **options: ran.append(
      [member.name for member in chunk]))
  _, text = sweep(tmp_path, [{'seed': seed} for seed in range(3)], at_once=2)
  assert '2 members together, 2 of 3' in text and '1 members together, 3 of 3' in text
  assert ran == [['seed=0', 'seed=1'], ['seed=2']]
  names = [population_run.recorded_names(tmp_path / 'populations' / str(i)) for i in range(2)]
  assert names == [['seed=0', 'seed=1'], ['seed=2']]


def test_the_folder_of_a_run_or_of_another_process_is_refused(tmp_path):
  workdir.claim(tmp_path, config())
  with pytest.raises(ValueError, match='holds a single run'):
    sweep(tmp_path, TWO)
  with runner.held(tmp_path, print), pytest.raises(ValueError, match='is in use by process'):
    (tmp_path / 'config.json').unlink()
    sweep(tmp_path, TWO)


@pytest.mark.slow            # processes, each of which imports and compiles anew
def test_a_sweep_killed_by_the_system_ends_the_same(tmp_path):
  command = [sys.executable, '-m', 'experiments.sweep',
             '--config=experiments/configs/digits/l0_mlp.py', '--config.model.widths=(6,)',
             '--config.epochs=300', '--config.checkpoint_every=20', '--config.evaluate_every=100',
             '--sweep=seed=0..2']
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu',
                 'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'programs')}

  def begin(folder):
    return subprocess.Popen([*command, f'--workdir={tmp_path / folder}'], env=environment,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
  whole = begin('whole')
  assert whole.wait() == 0, whole.stderr.read()
  for epochs in (7, 150, 290):
    process = begin('killed')
    metrics = tmp_path / 'killed' / 'seed=1' / 'metrics.jsonl'
    while len(read_metrics(metrics)) < epochs and process.poll() is None:
      time.sleep(0.01)
    process.kill()
    process.wait()
    process.stderr.close()
  last = begin('killed')
  assert last.wait() == 0, last.stderr.read()
  for name in ('seed=0', 'seed=1', 'seed=2'):
    found, wanted = (codec.read(tmp_path / folder / name / 'parameters.safetensors')
                     for folder in ('killed', 'whole'))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
  for process in (whole, last):
    process.stderr.close()
