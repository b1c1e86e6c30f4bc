"""One training deployed at several values, on the digits, checked by NumPy alone."""
import json
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import datasets
from experiments.data import load
from experiments.evidence import point as module
from experiments.evidence.point import Deployment, Point, read_point, run_point, wrong_on_test
from experiments.workdir import config_hash, config_text
from sparsejax import codec
from sparsejax.paths import flatten
from sparsejax.training.loop import Epoch, NonFiniteLoss

pytestmark = pytest.mark.usefixtures('compile_once')

# As in frontier_test.py, so that one compilation serves both files.
TINY = {'dataset': 'digits', 'validation_examples': 237, 'training_examples': 400, 'batch_size': 50,
        'epochs': 2}
VALUES = (100.0, -6.0, -7.0, -100.0)
POINT = Point('frontier/mlp:vd', TINY, 0, Deployment('weights', 'threshold', VALUES))
LAYERS = ('dense0', 'dense1', 'head')


@pytest.fixture(scope='module')
def trained(tmp_path_factory, compile_once):
  """(root, content) of a point that nobody has tested yet."""
  root = tmp_path_factory.mktemp('points')
  return root, run_point(POINT, root)


def weights_of(root, index, point=POINT):
  return codec.read(point.folder(root) / f'deployed_{index}.safetensors')['params']


def wrong_by_numpy(weights, images, labels):
  x = images.reshape(len(images), -1) / 255
  for name in LAYERS:
    x = x @ weights[name]['kernel'].astype(np.float64) + weights[name]['bias']
    x = np.maximum(x, 0) if name != 'head' else x
  return x.argmax(1) != labels


def living(kernels):
  """Masks of living units, inputs to outputs: what reads something and is read, until no change."""
  alive = [np.ones(kernels[0].shape[0], bool), *(np.ones(k.shape[1], bool) for k in kernels)]
  for _ in range(20):
    for i, kernel in enumerate(kernels):
      used = (kernel != 0) & alive[i][:, None] & alive[i + 1][None]
      alive[i] &= used.any(1)
      if i < len(kernels) - 1:
        alive[i + 1] &= used.any(0)
  return alive


def test_the_content_names_config_code_and_data(trained):
  root, content = trained
  config = POINT.built()
  assert content['config'] == 'frontier/mlp:vd' and content['seed'] == 0
  assert content['config_hash'] == config_hash(config)
  assert content['data_hash'] == datasets.load('digits').hash
  assert (content['epochs'], content['error']) == (2, '')
  assert content['seconds'] > 0 and 0 < content['train_nll_nats'] < 10
  assert {'device', 'threads', 'jax_version', 'commit', 'time_utc', 'code_hash'} <= content.keys()
  assert (POINT.folder(root) / 'config.json').read_text() == config_text(config)


def test_point_json_is_the_content_and_the_folder_is_complete(trained):
  root, content = trained
  folder = POINT.folder(root)
  assert json.loads((folder / 'point.json').read_text()) == json.loads(json.dumps(content))
  assert {path.name for path in folder.iterdir()} - {
      'test_wrong_0.npy', 'test_wrong_1.npy', 'test_wrong_2.npy', 'test_wrong_3.npy'} == {
      'point.json', 'config.json', *(f'deployed_{i}.safetensors' for i in range(4))}


def test_one_network_for_each_value_of_deployment(trained):
  _, content = trained
  assert [network['deployed_at'] for network in content['networks']] == list(VALUES)
  kept = [network['weights_kept'] for network in content['networks']]
  total = 64 * 300 + 300 * 100 + 100 * 10
  assert {network['weights_total'] for network in content['networks']} == {total}
  assert kept[0] > kept[1] > kept[2] > kept[3] == 0


def test_the_networks_are_one_training_at_different_thresholds(trained):
  root, _ = trained
  full, *pruned = (flatten(weights_of(root, index)) for index in range(4))
  for weights in pruned:
    for path, leaf in weights.items():
      if path.endswith('bias'):
        np.testing.assert_array_equal(leaf, full[path])
      else:
        np.testing.assert_array_equal(leaf[leaf != 0], full[path][leaf != 0])


@pytest.mark.parametrize('index', range(4))
def test_the_validation_error_is_on_held_out_images(trained, index):
  root, content = trained
  _, _, images, labels = datasets.hold_out(datasets.load('digits'), 237, 0)
  wrong = wrong_by_numpy(weights_of(root, index), images, labels)
  assert content['networks'][index]['validation_error_percent'] == pytest.approx(
      100 * wrong.mean(), rel=1e-12)


@pytest.mark.parametrize('index', [0, 1, 2])
def test_the_sizes_are_those_of_what_still_reaches_an_output(trained, index):
  root, content = trained
  weights, network = weights_of(root, index), content['networks'][index]
  kernels = [weights[name]['kernel'] for name in LAYERS]
  alive = living(kernels)
  entries = sum(int(np.count_nonzero(kernel[np.ix_(a, b)]))
                for kernel, a, b in zip(kernels, alive[:-1], alive[1:], strict=True))
  widths = [int(mask.sum()) for mask in alive]
  assert network['weights_kept'] == entries
  assert network['parameters_compact'] == sum(
      a * b + b for a, b in zip(widths[:-1], widths[1:], strict=True))
  leaves = sum(leaf.size for leaf in flatten(weights).values())
  # A safetensors header of six leaves; the compact file's own names its digests too.
  assert 4 * leaves < network['bytes_dense'] < 4 * leaves + 1000
  assert network['bytes_file'] < 4 * entries + 4 * sum(widths[1:]) + entries + 2000


def test_a_number_of_deployment_leaves_the_training_alone(trained):
  root, content = trained
  alone = POINT._replace(deployment=Deployment('weights', 'threshold', (-6.0,)))
  assert alone.folder(root) != POINT.folder(root)
  found = run_point(alone, root)
  assert found['train_nll_nats'] == content['train_nll_nats']
  assert found['networks'][0]['weights_kept'] == content['networks'][1]['weights_kept']


def test_the_test_set_is_read_only_when_asked_and_once(trained, monkeypatch):
  root, _ = trained
  folder = POINT.folder(root)
  assert not list(folder.glob('test_wrong_*')), 'training does not look at it'
  data = datasets.load('digits')
  for index in (0, 1):
    wrong = wrong_on_test(POINT, root, index)
    assert wrong.dtype == bool and wrong.shape == (360,)
    np.testing.assert_array_equal(
        wrong, wrong_by_numpy(weights_of(root, index), data.test_images, data.test_labels))
  assert sorted(path.name for path in folder.glob('test_wrong_*')) == [
      'test_wrong_0.npy', 'test_wrong_1.npy']
  monkeypatch.setattr(module.codec, 'read', lambda path: pytest.fail('it was read again'))
  np.testing.assert_array_equal(wrong_on_test(POINT, root, 1), wrong)


def test_a_finished_point_is_not_trained_again(trained, monkeypatch):
  root, content = trained
  monkeypatch.setattr(module, 'load', lambda config: pytest.fail('it went on'))
  assert run_point(POINT, root) == json.loads(json.dumps(content))
  assert read_point(POINT, root) == json.loads(json.dumps(content))


def test_a_damaged_point_is_named(trained, tmp_path):
  root, _ = trained
  shutil.copytree(root, tmp_path, dirs_exist_ok=True)
  path = POINT.folder(tmp_path) / 'point.json'
  path.write_text(path.read_text()[:100])
  with pytest.raises(ValueError, match=r'point.json is damaged: .*; remove its folder'):
    read_point(POINT, tmp_path)
  with pytest.raises(ValueError, match='point.json is damaged'):
    run_point(POINT, tmp_path)


def test_a_point_deployed_at_other_values_is_refused(trained):
  root, _ = trained
  other = POINT._replace(deployment=Deployment('weights', 'threshold', (100.0, -6.0, -7.0, -8.0)))
  assert other.folder(root) == POINT.folder(root)
  with pytest.raises(ValueError, match=r'deployed at 100.0, -6.0, -7.0, -100.0, not at 100.0, '
                                       '-6.0, -7.0, -8.0; remove its folder'):
    read_point(other, root)


def test_a_point_that_was_not_run_is_none(tmp_path):
  assert read_point(POINT, tmp_path) is None


def test_a_point_stopped_before_its_end_is_not_finished(trained, tmp_path):
  root, content = trained
  folder = POINT.folder(tmp_path)
  shutil.copytree(POINT.folder(root), folder)
  (folder / 'point.json').unlink()
  assert read_point(POINT, tmp_path) is None
  again = run_point(POINT, tmp_path)
  assert again['networks'] == content['networks']


def test_a_training_that_diverges_is_a_result(tmp_path, monkeypatch):
  def diverging(recipe, state, images, targets, *, last):
    yield Epoch(1, state, 0.25)
    raise NonFiniteLoss(2, 3, 'head/kernel', state)
  point = POINT._replace(seed=1)
  with monkeypatch.context() as patch:
    patch.setattr(module, 'run_epochs', diverging)
    content = run_point(point, tmp_path)
  assert 'the loss is not finite in epoch 2, step 3' in content['error']
  assert content['networks'] == [] and content['train_nll_nats'] == 0.25
  assert not list(tmp_path.rglob('deployed_*'))
  monkeypatch.setattr(module, 'load', lambda config: pytest.fail('it was tried again'))
  assert run_point(point, tmp_path) == json.loads(json.dumps(content))


def test_the_whole_config_is_file_seed_and_overrides():
  config = POINT.built()
  assert (config.seed, config.epochs, config.model.widths) == (0, 2, (300, 100))
  assert config.regulariser.weights.method == 'sparse_variational_dropout'


def test_an_override_of_a_field_that_is_not_there_is_named(tmp_path):
  for field, message in (('regulariser.weights.strenght', "'strenght'; did you mean 'strength'"),
                         ('epoch', "config has no field 'epoch'; did you mean 'epochs'")):
    with pytest.raises(ValueError, match=message):
      run_point(POINT._replace(overrides={**TINY, field: 1.0}), tmp_path)


def test_a_mistake_in_the_config_makes_no_folder(tmp_path):
  with pytest.raises(ValueError, match='training_examples=5000 exceeds'):
    run_point(POINT._replace(overrides={**TINY, 'training_examples': 5000}), tmp_path)
  assert list(tmp_path.iterdir()) == []


def test_a_folder_of_its_own_for_whatever_changes_the_result(monkeypatch):
  root = pathlib.Path('out')
  folders = {point.folder(root) for point in (
      POINT, POINT._replace(seed=1), POINT._replace(overrides={**TINY, 'epochs': 3}),
      POINT._replace(config='frontier/mlp:dense', deployment=None),
      POINT._replace(deployment=None), POINT._replace(
          deployment=Deployment('weights', 'threshold', (1.0,))))}
  assert len(folders) == 6 and POINT.folder(root) in folders
  monkeypatch.setattr(module, 'code_hash', lambda config: 'other code')
  assert POINT.folder(root) not in folders


def test_a_point_is_trained_on_its_labels(trained):
  data = load(POINT.built())
  recipe, targets = POINT.prepare('the recipe', data, trained[0])
  assert recipe == 'the recipe'
  np.testing.assert_array_equal(targets, jnp.asarray(data.labels))
