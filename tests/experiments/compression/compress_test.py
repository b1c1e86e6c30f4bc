"""Recipes on a small run: files are read back and do what their sheets say."""
import importlib
import io
import json

import numpy as np
import pytest
from rich.console import Console

import sparsejax
from experiments import run as runs
from experiments.compression import recipes, subject
from experiments.compression.compress import compress_run
from experiments.compression.deep_compression import final_shares
from experiments.compression.retrain import falling, retrain
from experiments.configs.HaMD15 import lenet_300_100
from sparsejax import codec
from sparsejax.codec.container import Container
from sparsejax.paths import flatten
from sparsejax.structured import densify


def quiet():
  return Console(file=io.StringIO(), width=120)


def trained(folder, pruned):
  config = lenet_300_100.get_config('smoke')
  config.model.widths = (20, 10)
  config.training_examples, config.batch_size = 256, 32
  if not pruned:
    config.regulariser = {}
  runs.run(config, folder, 'HaMD15/lenet_300_100:smoke', quiet())
  return folder


@pytest.fixture(scope='module')
def pruned(tmp_path_factory):
  """The folder of a run that was pruned in training."""
  return trained(tmp_path_factory.mktemp('pruned'), True)


@pytest.fixture(scope='module')
def dense(tmp_path_factory):
  return trained(tmp_path_factory.mktemp('dense'), False)


def checked(sheet, out):
  """What holds for every recipe; returns the kernels in the file."""
  assert sheet == json.loads(out.with_suffix('.json').read_text())
  assert sheet['bytes_coded'] == out.stat().st_size < sheet['bytes_float32']
  assert sheet['compression_coded'] == sheet['bytes_float32'] / sheet['bytes_coded']
  assert sheet['bytes_zstd'] < sheet['bytes_float32']
  loaded = codec.read_model(out)
  assert loaded.facts['input_shape'] == [8, 8, 1]
  assert sheet['validation_error_percent'] is not None
  return {path: leaf for path, leaf in flatten(densify(loaded.variables['params'])).items()
          if leaf.ndim == 2}


@pytest.mark.slow
def test_lossless_keeps_the_errors(pruned, tmp_path):
  sheet = compress_run(pruned, 'lossless', tmp_path / 'm.sjx', console=quiet())
  kernels = checked(sheet, tmp_path / 'm.sjx')
  before = codec.read(pruned / 'deployed.safetensors')['params']
  living = sum(np.count_nonzero(kernel) for kernel in kernels.values())
  assert 0 < living <= sum(np.count_nonzero(before[name]['kernel']) for name in before)


@pytest.mark.slow
def test_soft_sharing_leaves_the_means_of_one_mixture(dense, tmp_path):
  sheet = compress_run(dense, 'soft_sharing', tmp_path / 'm.sjx',
                       ('num_components=5', 'zero_prior=0.3', 'epochs=1'), console=quiet())
  kernels = checked(sheet, tmp_path / 'm.sjx')
  values = np.unique(np.concatenate([kernel.reshape(-1) for kernel in kernels.values()]))
  assert values.size <= 5


def test_int8_has_256_levels_a_channel(pruned, tmp_path):
  sheet = compress_run(pruned, 'int8', tmp_path / 'm.sjx', console=quiet())
  for kernel in checked(sheet, tmp_path / 'm.sjx').values():
    scale = np.abs(kernel).max(0) / 127
    np.testing.assert_allclose(kernel / scale, np.rint(kernel / scale), atol=127 * 2.0**-22)


@pytest.mark.slow
def test_codebook_has_no_more_values_than_codes(pruned, tmp_path):
  sheet = compress_run(pruned, 'codebook', tmp_path / 'm.sjx', ('bits=3',), quiet())
  for kernel in checked(sheet, tmp_path / 'm.sjx').values():
    assert len(np.unique(kernel)) <= 8
  assert {row['layer'] for row in sheet['layers']} == {
      'dense0/kernel', 'dense1/kernel', 'head/kernel'}


@pytest.mark.slow
def test_deep_compression_of_a_pruned_run(pruned, tmp_path):
  console = quiet()
  sheet = compress_run(pruned, 'deep_compression', tmp_path / 'm.sjx',
                       ('bits=4', 'tune_epochs=1', 'coding=deep_compression'), console)
  kernels = checked(sheet, tmp_path / 'm.sjx')
  assert [stage['stage'] for stage in sheet['stages']] == ['shared', 'codebooks retrained']
  assert sheet['stages'][0]['weights_kept'] == sheet['stages'][1]['weights_kept']
  assert all(len(np.unique(kernel)) <= 16 for kernel in kernels.values())
  stored = {entry['path']: entry for entry in Container(tmp_path / 'm.sjx').header['leaves']}
  for row in sheet['layers']:        # the table's bytes are those in the file
    entry = stored[f'params/{row["layer"]}']
    assert entry['values']['kind'] == 'codebook' and entry['bytes'] == row['bytes_huffman']
  assert 'weight bits' in console.file.getvalue() and 'test error' in console.file.getvalue()


@pytest.mark.slow
def test_deep_compression_of_a_dense_run_prunes_in_rounds(dense, tmp_path):
  sheet = compress_run(dense, 'deep_compression', tmp_path / 'm.sjx', (
      'kept=dense0=0.2,dense1=0.3,head=0.5', 'rounds=2', 'round_epochs=1', 'last_epochs=1',
      'tune_epochs=0'), quiet())
  kernels = checked(sheet, tmp_path / 'm.sjx')
  first = sheet['stages'][0]
  assert first['stage'] == 'pruned and retrained'
  assert first['weights_kept'] == round(0.2 * 64 * 20) + round(0.3 * 200) + round(0.5 * 100)
  assert sum(np.count_nonzero(kernel) for kernel in kernels.values()) <= first['weights_kept']


@pytest.mark.parametrize('name, given, message', [
    ('deep_compresion', (), "did you mean 'deep_compression'"),
    ('codebook', ('bit=4',), "did you mean 'bits'"),
    ('codebook', ('bits=four',), 'bits must be of type int'),
    ('codebook', ('bits',), 'must be name=value'),
])
def test_refuses_recipes_and_options(name, given, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    compress_run(tmp_path, name, tmp_path / 'm.sjx', given, quiet())


@pytest.mark.parametrize('out, message', [
    ('m.bin', 'must end in .sjx'), ('none/m.sjx', 'folder does not exist'),
    ('m.sjx', 'config.json is missing: only a finished run')])
def test_refuses_files_and_folders(out, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    compress_run(tmp_path, 'lossless', tmp_path / out, console=quiet())


@pytest.mark.parametrize('given, message', [
    ({}, 'no pruned weights: say what to keep'),
    ({'kept': '0.1', 'quality': 1.0}, 'give one'),
    ({'kept': 'a=0.1,c=0.1'}, 'names a, c; layers are a, b'),
    ({'kept': 'much'}, "'much' is no number"),
    ({'kept': '1.5'}, 'a share of 1.5 of a/kernel'),
])
def test_refuses_shares(given, message):
  weights = {name: {'kernel': np.ones((2, 2))} for name in 'ab'}
  with pytest.raises(ValueError, match=message):
    final_shares(weights, {'kept': '', 'quality': 0.0, **given})


def test_shares_by_quality_and_by_number():
  weights = {'a': {'kernel': np.array([[-3.0, 1.0], [-1.0, 3.0]])}}
  assert final_shares(weights, {'kept': '', 'quality': 1.0}) == {'a/kernel': 0.5}
  assert final_shares(weights, {'kept': '0.25', 'quality': 0.0}) == {'a/kernel': 0.25}
  weights['a']['kernel'][0, 1] = 0
  assert final_shares(weights, {'kept': '', 'quality': 0.0}) == {}


@pytest.mark.parametrize('name', recipes.RECIPES)
def test_every_recipe_explains_itself(name):
  module = importlib.import_module(recipes.RECIPES[name])
  assert module.__doc__ and module.compress.__doc__ and isinstance(module.OPTIONS, dict)


@pytest.mark.parametrize('before, after, message', [
    ('{', '{{', 'config.json is damaged'),
    ('"seed": 0', '"seed": 1', 'of another config than config.json'),
])
def test_refuses_a_folder_that_does_not_hold_together(pruned, tmp_path, before, after, message):
  for name in ('config.json', 'ledger.json', 'deployed.safetensors'):
    (tmp_path / name).write_bytes((pruned / name).read_bytes())
  text = (tmp_path / 'config.json').read_text()
  assert before in text
  (tmp_path / 'config.json').write_text(text.replace(before, after, 1))
  with pytest.raises(ValueError, match=message):
    subject.load(tmp_path)


def test_refuses_to_shuffle_a_text(pruned):
  run = subject.load(pruned)
  run = run._replace(recipe=run.recipe._replace(sequential=True))
  with pytest.raises(ValueError, match='reads a text in the order of time'):
    retrain(run, run.recipe.model, run.variables, sparsejax.partition(), epochs=1, name='again',
            learning_rate=falling(0.1, 8), console=quiet())
