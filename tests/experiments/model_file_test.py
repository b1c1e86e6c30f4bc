"""The container of a run: the same network, packed weights where the method deploys them."""
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

import sparsejax
from experiments.model_file import MODEL_FILE, facts_of, with_packed, write_model
from sparsejax import codec
from sparsejax.packed.codebook import Codebook
from sparsejax.models.lenet import MLP
from sparsejax.paths import flatten
from sparsejax.training.fit import Preprocess, Recipe, as_tokens


def recipe(preprocess):
  return Recipe(MLP((3,), 2), sparsejax.partition(), optax.sgd(0.1), 10, 5, preprocess=preprocess)


def network():
  rng = np.random.default_rng(0)
  params = {'dense0': {'kernel': rng.normal(size=(4, 3)), 'bias': np.zeros(3)},
            'head': {'kernel': rng.integers(0, 3, (3, 2)) / 2, 'bias': np.ones(2)}}
  return {'params': {layer: {name: leaf.astype(np.float32) for name, leaf in leaves.items()}
                     for layer, leaves in params.items()}}


def test_facts_say_how_to_read_raw_images():
  images = np.full((7, 2, 2, 1), 51, np.uint8)
  config = ml_collections.ConfigDict(
      {'dataset': 'digits', 'preprocess': {'scale': 0.5, 'subtract_mean': True}})
  found = facts_of(config, recipe(Preprocess(0.5, np.full((2, 2, 1), 50.0))), images)
  assert {name: found[name] for name in ('dataset', 'input_shape', 'input_dtype', 'preprocess',
                                         'scale')} == {
      'dataset': 'digits', 'input_shape': [2, 2, 1], 'input_dtype': 'float32',
      'preprocess': 'images', 'scale': 0.5}
  np.testing.assert_array_equal(found['mean'], np.full((2, 2, 1), 50.0))


def test_facts_of_a_text():
  config = ml_collections.ConfigDict({'dataset': 'words', 'preprocess': {'tokens': True}})
  assert facts_of(config, recipe(as_tokens), np.zeros((3, 8), np.uint8)) == {
      'dataset': 'words', 'input_shape': [8], 'input_dtype': 'int32', 'preprocess': 'tokens'}


def test_a_packed_weight_takes_the_place_of_its_array_unless_compaction_changed_it():
  variables = network()
  head = variables['params']['head']['kernel']
  packed = Codebook(jnp.asarray((head * 2).astype(np.uint8)), jnp.asarray([0, 0.5, 1.0]))
  deployed = {'head': {'kernel': packed}, 'dense0': {'kernel': packed}}
  found = flatten(with_packed(variables, deployed)['params'])
  assert found['head/kernel'] is packed
  assert found['dense0/kernel'] is variables['params']['dense0']['kernel']     # another shape
  head[0, 0] += 1
  assert flatten(with_packed(variables, deployed)['params'])['head/kernel'] is head


def test_bytes_are_those_of_files(tmp_path):
  variables = network()
  keys = write_model(tmp_path, MLP((3,), 2), variables, variables,
                     {'input_shape': [4], 'input_dtype': 'float32'}, config_hash='abc')
  path = tmp_path / MODEL_FILE
  assert keys['bytes_coded'] == path.stat().st_size
  whole = codec.float32_bytes(variables)
  assert keys['compression_coded'] == pytest.approx(whole / keys['bytes_coded'])
  assert keys['compression_zstd'] == pytest.approx(whole / keys['bytes_zstd'])
  assert 0 < keys['bytes_described'] < keys['bytes_coded']
  loaded = codec.read_model(path)
  assert loaded.model == MLP((3,), 2)
  for name, leaf in flatten(loaded.variables['params']).items():
    np.testing.assert_array_equal(leaf, flatten(variables['params'])[name])
  assert codec.read_provenance(path)['config_hash'] == 'abc'
