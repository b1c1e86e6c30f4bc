"""A control as a point: its config, its folder, and what a teacher teaches."""
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from experiments import build
from experiments.data import load
from experiments.evidence import control_point as module
from experiments.evidence.configs import load_config
from experiments.evidence.control_point import ControlPoint, Teacher
from experiments.workdir import config_hash
from sparsejax import codec

ROOT = pathlib.Path('out')


def config_of(seed=2, widths=(6, 5), **changes):
  config = load_config('frontier/mlp:dense', seed)
  config.dataset, config.validation_examples, config.training_examples = 'digits', 100, 60
  config.batch_size = 20
  config.model.widths = widths
  config.update(changes)
  return config


def point_of(config=None, name='scratch', teacher=None):
  config = config or config_of()
  return ControlPoint(f'control:{name}', config.to_json(), config.seed, teacher)


DENSE = point_of(config_of(widths=(9,)), 'dense')


def test_the_config_survives_the_json():
  config = config_of()
  built = point_of(config).built()
  assert config_hash(built) == config_hash(config)
  build.require_whole(built)
  recipe = build.recipe(built, load(built).images)
  assert tuple(recipe.model.widths) == (6, 5)


def test_a_folder_of_its_own_for_whatever_changes_the_result(monkeypatch):
  taught = Teacher(DENSE, 4.0, 0.5)
  folders = [point.folder(ROOT) for point in (
      point_of(), point_of(config_of(seed=3)), point_of(config_of(epochs=3)),
      point_of(name='random'), point_of(teacher=taught),
      point_of(teacher=taught._replace(temperature=2.0)),
      point_of(teacher=taught._replace(hard_weight=0.1)))]
  assert len(set(folders)) == len(folders)
  assert {folder.parent for folder in folders} == {ROOT / 'controls'}
  assert folders[0].name.startswith('scratch_digits_seed2-')
  assert point_of().folder(ROOT) == folders[0]
  monkeypatch.setattr(module, 'code_hash', lambda config, extra: 'other code')
  assert point_of().folder(ROOT) not in folders


def test_without_a_teacher_the_targets_are_the_labels():
  point = point_of()
  data = load(point.built())
  recipe = build.recipe(point.built(), data.images)
  same, targets = point.prepare(recipe, data, ROOT)
  assert same is recipe
  np.testing.assert_array_equal(targets, data.labels)


@pytest.fixture(scope='module')
def taught(tmp_path_factory):
  """(recipe, targets, data, teacher's logits by NumPy) of a student at temperature 3."""
  root = tmp_path_factory.mktemp('taught')
  rng = np.random.default_rng(0)
  weights = {'dense0': {'kernel': rng.normal(0, 0.3, (64, 9)).astype(np.float32),
                        'bias': rng.normal(0, 0.3, 9).astype(np.float32)},
             'head': {'kernel': rng.normal(0, 0.3, (9, 10)).astype(np.float32),
                      'bias': np.zeros(10, np.float32)}}
  DENSE.folder(root).mkdir(parents=True)
  codec.write(DENSE.folder(root) / 'deployed_0.safetensors', {'params': weights})
  point = point_of(name='distil', teacher=Teacher(DENSE, 3.0, 0.25))
  data = load(point.built())
  recipe, targets = point.prepare(build.recipe(point.built(), data.images), data, root)
  x = data.images.reshape(60, -1).astype(np.float64) / 255
  x = np.maximum(x @ weights['dense0']['kernel'] + weights['dense0']['bias'], 0)
  return recipe, targets, data, x @ weights['head']['kernel']


def test_a_teacher_teaches_its_logits_on_the_training_images(taught):
  _, targets, data, logits = taught
  assert set(targets) == {'labels', 'teacher_logits'}
  np.testing.assert_array_equal(targets['labels'], data.labels)
  assert targets['teacher_logits'].shape == (60, 10)
  # Two layers of at most 64 float32 products.
  np.testing.assert_allclose(targets['teacher_logits'], logits, rtol=0,
                             atol=1e-5 * np.abs(logits).max())


def test_the_loss_is_that_of_the_paper_at_the_teachers_temperature(taught):
  recipe, targets, data, logits = taught
  student = np.random.default_rng(1).normal(0, 2, (60, 10)).astype(np.float32)
  found = recipe.loss(jnp.asarray(student), targets)
  hard = -special.log_softmax(student, axis=1)[np.arange(60), data.labels]
  soft = -(special.softmax(logits / 3, axis=1) * special.log_softmax(student / 3, axis=1)).sum(1)
  np.testing.assert_allclose(found, 0.25 * hard + 0.75 * 9 * soft, rtol=1e-4)


def test_a_teacher_that_was_not_trained_is_an_error(tmp_path):
  point = point_of(teacher=Teacher(DENSE, 3.0, 0.25))
  data = load(point.built())
  with pytest.raises(FileNotFoundError, match='deployed_0.safetensors'):
    point.prepare(build.recipe(point.built(), data.images), data, tmp_path)
