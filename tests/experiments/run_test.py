"""One run from config to report: what it leaves, how it goes on, and how it ends badly."""
import io
import json
import subprocess

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from rich.console import Console

from experiments import build, datasets, run, workdir
from experiments.data import load
from experiments.configs.digits import l0_mlp
from sparsejax import codec, ledger
from sparsejax.models.lenet import MLP
from sparsejax.paths import flatten
from sparsejax.training import fit
from sparsejax.training.checkpoint import Checkpoints, named_leaves
from sparsejax.training.loop import NonFiniteLoss
from sparsejax.training.metrics import read_metrics

pytestmark = pytest.mark.usefixtures('compile_once')

FILES = {'config.json', 'version.json', 'metrics.jsonl', 'tensorboard', 'checkpoints',
         'parameters.safetensors', 'deployed.safetensors', 'model.safetensors', 'model.sjx',
         'test_logits.npz', 'ledger.json', 'plots', 'report.md'}


def small_config(**changes):
  """Four epochs of four steps of an MLP whose gates close: seconds."""
  config = l0_mlp.get_config()
  config.update({'training_examples': 200, 'epochs': 4, 'evaluate_every': 2, 'checkpoint_every': 2,
                 'ema_decay': 0.5})
  config.model.widths = (20, 12)
  config.optimiser.learning_rate = 0.3
  config.regulariser.gates.strength = 0.5
  config.update(changes)
  return config


def new_console():
  return Console(file=io.StringIO(), width=120)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """(folder, sheet, text) of a whole run."""
  folder = tmp_path_factory.mktemp('run')
  console = new_console()
  sheet = run.run(small_config(), folder, 'small.py', console)
  return folder, sheet, console.file.getvalue()


def test_the_folder_is_complete(finished):
  folder = finished[0]
  assert {path.name for path in folder.iterdir()} == FILES
  assert [path.name for path in sorted((folder / 'tensorboard').iterdir())][1:] == [
      'events.out.tfevents.hparams']
  assert sorted(path.name for path in (folder / 'checkpoints').iterdir()) == ['2', '4']
  assert all(path.suffix == '.png' for path in (folder / 'plots').iterdir())
  assert len(list((folder / 'plots').iterdir())) >= 3
  assert json.loads((folder / 'config.json').read_text()) == json.loads(
      workdir.config_text(small_config()))


def test_the_ledger_is_valid_and_consistent_with_the_files(finished):
  folder, sheet, text = finished
  assert ledger.read(folder / 'ledger.json') == sheet
  ledger.validate(sheet)
  assert sheet['config_hash'] == workdir.config_hash(small_config())
  assert sheet['compact_relative_difference'] <= 1e-5
  deployed = codec.read(folder / 'deployed.safetensors')['params']
  kernels = {path: leaf for path, leaf in flatten(deployed).items() if path.endswith('kernel')}
  assert sheet['weights_total'] == 64 * 20 + 20 * 12 + 12 * 10
  assert sheet['weights_kept'] == sum(np.count_nonzero(leaf) for leaf in kernels.values())
  assert sheet['weights_kept'] < sheet['weights_total']
  compact = codec.read(folder / 'model.safetensors')['params']
  assert sheet['parameters_compact'] == sum(leaf.size for leaf in flatten(compact).values())
  assert sheet['parameters_compact'] < sheet['parameters_dense'] == sum(
      leaf.size for leaf in flatten(deployed).values())
  assert 'test error' in text and str(folder) in text.replace('\n', '')


def test_the_score_is_that_of_the_deployed_weights_by_numpy(finished):
  folder, sheet, _ = finished
  weights = codec.read(folder / 'deployed.safetensors')['params']
  data = datasets.load('digits')
  x = data.test_images.reshape(360, -1) / 255
  for name in ('dense0', 'dense1', 'head'):
    x = x @ weights[name]['kernel'].astype(np.float64) + weights[name]['bias']
    x = np.maximum(x, 0) if name != 'head' else x
  stored = np.load(folder / 'test_logits.npz')
  # Three layers of at most 64 float32 products.
  np.testing.assert_allclose(stored['logits'], x, rtol=0, atol=1e-5 * np.abs(x).max())
  np.testing.assert_array_equal(stored['labels'], data.test_labels)
  error = 100 * np.mean(stored['logits'].argmax(1) != data.test_labels)
  assert sheet['test_error_percent'] == pytest.approx(error, rel=1e-12)


def test_metrics_have_a_row_an_epoch_and_are_evaluated_when_asked(finished):
  rows = read_metrics(finished[0] / 'metrics.jsonl')
  assert [row['epoch'] for row in rows] == [1, 2, 3, 4]
  assert ['validation_error_percent' in row for row in rows] == [False, True, False, True]
  assert all(row['seconds'] > 0 for row in rows)
  assert finished[1]['wall_seconds'] == pytest.approx(sum(row['seconds'] for row in rows))
  assert rows[-1]['validation_error_percent'] == pytest.approx(
      finished[1]['validation_error_percent'], rel=1e-5)


def test_running_again_prints_the_ledger_and_trains_nothing(finished, monkeypatch):
  folder, sheet, _ = finished
  before = {path: path.stat().st_mtime_ns for path in folder.rglob('*') if path.is_file()}
  monkeypatch.setattr(run, 'load', lambda config: pytest.fail('it went on'))
  console = new_console()
  assert run.run(small_config(), folder, 'small.py', console) == sheet
  text = console.file.getvalue()
  assert 'test error' in text and 'This run had ended' in text
  assert before == {path: path.stat().st_mtime_ns for path in folder.rglob('*') if path.is_file()}


def test_a_report_that_was_not_written_is_written_on_the_next_call(finished):
  folder = finished[0]
  before = (folder / 'report.md').read_bytes()
  (folder / 'report.md').unlink()
  run.run(small_config(), folder, 'small.py', new_console())
  assert (folder / 'report.md').read_bytes() == before


def test_another_config_is_refused_in_a_finished_folder(finished):
  with pytest.raises(ValueError, match='epochs: 4 -> 5'):
    run.run(small_config(epochs=5), finished[0], 'small.py', new_console())


class Interrupting(Console):
  """A console that is interrupted when the third epoch is shown."""

  def print(self, *objects, **options):
    if str(objects[0]).startswith('epoch 3/'):
      raise KeyboardInterrupt
    super().print(*objects, **options)


def without_seconds(folder):
  return [{name: value for name, value in row.items() if name != 'seconds'}
          for row in read_metrics(folder / 'metrics.jsonl')]


def test_an_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(finished, tmp_path,
                                                                       monkeypatch):
  whole, sheet, _ = finished
  with pytest.raises(KeyboardInterrupt):
    run.run(small_config(), tmp_path, 'small.py', Interrupting(file=io.StringIO(), width=120))
  assert [row['epoch'] for row in read_metrics(tmp_path / 'metrics.jsonl')] == [1, 2, 3]
  assert not (tmp_path / 'ledger.json').exists()
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"epoch": 4, "train_nll')                      # and torn by the crash

  # Interrupted a second time, after training and before the ledger.
  with monkeypatch.context() as patch:
    patch.setattr(run, 'measure', interrupt)
    console = new_console()
    with pytest.raises(KeyboardInterrupt):
      run.run(small_config(), tmp_path, 'small.py', console)
    assert 'Going on after epoch 2' in console.file.getvalue()
  console = new_console()
  again = run.run(small_config(), tmp_path, 'small.py', console)
  assert 'Going on after epoch 4' in console.file.getvalue()

  assert without_seconds(tmp_path) == without_seconds(whole)
  states = []
  for folder in (whole, tmp_path):
    recipe, state = start_of(small_config())
    checkpoints = Checkpoints(folder / 'checkpoints')
    epoch, state = checkpoints.restore(state)
    checkpoints.close()
    assert epoch == 4
    states.append(named_leaves(state))
  for name, leaf in states[0].items():
    assert np.asarray(leaf).tobytes() == np.asarray(states[1][name]).tobytes(), name
  for name in ('parameters.safetensors', 'deployed.safetensors', 'model.safetensors'):
    a, b = (flatten(codec.read(folder / name)) for folder in (whole, tmp_path))
    assert a.keys() == b.keys()
    assert all(a[path].tobytes() == b[path].tobytes() for path in a)
  for key in ('test_error_percent', 'test_nll_nats', 'parameters_compact', 'bytes_file'):
    assert again[key] == sheet[key]


def interrupt(*arguments):
  raise KeyboardInterrupt


def start_of(config):
  recipe = build.recipe(config, load(config).images)
  start = jax.jit(lambda key, images: fit.start(recipe, key, images))
  return recipe, start(jax.random.key(0), jnp.zeros((1, 8, 8, 1), jnp.uint8))


def test_a_run_that_diverges_keeps_the_last_good_state_and_has_no_ledger(tmp_path):
  config = small_config(checkpoint_every=100, ema_decay=0.0)
  config.regulariser = ml_collections.ConfigDict({
      'decay': {'leaves': '.*kernel', 'method': 'weight_decay', 'strength': 1.0}})
  config.optimiser = ml_collections.ConfigDict({'name': 'sgd', 'learning_rate': {
      'schedule': 'piecewise_linear', 'epochs': (1.0, 1.25), 'values': (0.01, 1e38)}})
  with pytest.raises(NonFiniteLoss, match=r'epoch 2, step [12]; first non-finite: .*/.*'
                                          r'Lower the learning rate.*kept as the last checkpoint'):
    run.run(config, tmp_path, 'small.py', new_console())
  names = {path.name for path in tmp_path.iterdir()}
  assert 'ledger.json' not in names and 'report.md' not in names
  assert [row['epoch'] for row in read_metrics(tmp_path / 'metrics.jsonl')] == [1]
  recipe, state = start_of(config)
  checkpoints = Checkpoints(tmp_path / 'checkpoints')
  epoch, state = checkpoints.restore(state)
  checkpoints.close()
  assert epoch == 1 and int(state.step) == 4
  assert all(np.all(np.isfinite(np.asarray(leaf))) for leaf in named_leaves(state).values())
  # The same command repeats the same error from there.
  console = new_console()
  with pytest.raises(NonFiniteLoss, match='epoch 2'):
    run.run(config, tmp_path, 'small.py', console)
  assert 'Going on after epoch 1' in console.file.getvalue()


@pytest.fixture
def small_disk(tmp_path):
  """A disk of 4 MB of its own."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', str(folder)],
                    capture_output=True, check=False).returncode:
    pytest.skip('mounting a small tmpfs needs root')
  yield folder
  subprocess.run(['umount', '--lazy', str(folder)], check=True)


def fill(disk):
  """Leaves no byte of the disk free."""
  with pytest.raises(OSError, match='No space left'), (disk / 'ballast').open(
      'ab', buffering=0) as file:
    while True:
      file.write(b'x' * 512)


class Filling(Console):
  """A console that fills a disk when the second epoch is shown."""

  disk = None

  def print(self, *objects, **options):
    super().print(*objects, **options)
    if str(objects[0]).startswith('epoch 2/'):
      fill(self.disk)


@pytest.mark.parametrize('moment', [
    'training',
    *(pytest.param(name, marks=pytest.mark.slow)           # each is two starts of a run
      for name in ('measure', 'write_report', 'claim'))])
def test_a_full_disk_names_a_file_and_once_freed_all_is_as_if_it_had_not_been(
    finished, small_disk, monkeypatch, moment):
  folder, console = small_disk / 'run', new_console()
  with monkeypatch.context() as patch:
    if moment == 'training':
      console = Filling(file=io.StringIO(), width=120)
      console.disk = small_disk
    else:
      module = workdir if moment == 'claim' else run
      work = getattr(module, moment)
      patch.setattr(module, moment, lambda *args: (fill(small_disk), work(*args))[1])
    with pytest.raises(OSError, match='No space left on device') as caught:
      run.run(small_config(), folder, 'small.py', console)
  assert str(folder) in str(caught.value)
  assert (folder / 'ledger.json').exists() == (moment == 'write_report')
  (small_disk / 'ballast').unlink()
  again = run.run(small_config(), folder, 'small.py', new_console())
  whole, sheet, _ = finished
  assert {path.name for path in folder.iterdir()} == FILES
  assert without_seconds(folder) == without_seconds(whole)
  for name in ('parameters.safetensors', 'deployed.safetensors', 'model.safetensors', 'model.sjx'):
    assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
  assert again['test_nll_nats'] == sheet['test_nll_nats']
  # Without a byte left on the disk, or a permission to write, a run that ended can be read.
  fill(small_disk)
  subprocess.run(['mount', '-o', 'remount,ro', str(small_disk)], check=True)
  assert run.run(small_config(), folder, 'small.py', new_console()) == again
  with pytest.raises(OSError, match='cannot be used .Read-only file system.; choose another'):
    run.run(small_config(), small_disk / 'other', 'small.py', new_console())


def test_without_a_held_out_part_the_curve_is_on_training_images():
  config = small_config(validation_examples=0, training_examples=0)
  data = load(config)
  assert data.watched == 'train' and len(data.images) == 1437
  np.testing.assert_array_equal(data.watched_images, data.images)
  config.validation_examples = 237
  data = load(config)
  assert data.watched == 'validation'
  assert (len(data.images), len(data.watched_images)) == (1200, 237)


def test_the_test_set_takes_no_part_in_training(monkeypatch):
  loaded = load(small_config())
  test = {image.tobytes() for image in loaded.dataset.test_images}
  train = {image.tobytes() for image in loaded.dataset.train_images}
  # The digits hold no image twice, so equal bytes would be the same example.
  assert not test & train
  assert {image.tobytes() for image in loaded.images} <= train
  assert isinstance(build.recipe(small_config(), loaded.images).model, MLP)
