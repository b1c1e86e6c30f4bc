"""What config.pack names is looked for before the training, and may be gone after it."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from experiments import run
from experiments.configs.GrRK00 import wide_mlp
from experiments.packing import pack_and_time
from sparsejax.compaction.compact import compact


@pytest.fixture(scope='module')
def begun():
  """(config, data, recipe, state) of an MLP with two layers to pack, by a rule each."""
  config = wide_mlp.get_config('smoke')
  config.regulariser = {}
  config.model.widths = (32, 16)
  config.pack = {'rules': {name: {'leaves': f'{name}/kernel', 'block_size': 8}
                           for name in ('dense0', 'dense1')},
                 'rows': 32, 'force': True}
  return config, *run.begin(config)


def test_a_rule_without_a_weight_is_refused_before_the_training(begun):
  config = begun[0].copy_and_resolve_references()
  config.pack.rules.dense1.leaves = 'dense2/kernel'
  with pytest.raises(ValueError, match="config.pack.rules.dense1.leaves='dense2/kernel' matches no "
                                       'weight; paths are .*dense1/kernel'):
    run.begin(config)


def test_a_layer_that_compaction_took_away_is_warned_of(begun):
  """Without its weights dense1 gives constants, and no input of it is read."""
  config, data, recipe, state = begun
  weights = jax.tree.map(np.asarray, sparsejax.finalise(recipe.regulariser, state.params,
                                                        state.method_state))
  whole = pack_and_time(config, recipe, compact(recipe.model, {'params': weights}), data)
  assert not whole.warnings and len(whole.ledger_keys['packed_layers']) == 2
  assert isinstance(whole.variables['params']['dense1']['kernel'], sparsejax.BlockSparse)
  weights['dense1']['kernel'] = np.zeros_like(weights['dense1']['kernel'])
  lost = pack_and_time(config, recipe, compact(recipe.model, {'params': weights}), data)
  assert len(lost.warnings) == 2 and all('none of its weights left' in text
                                         for text in lost.warnings)
  assert lost.ledger_keys['packed_layers'] == []
  logits = sparsejax.apply(compact(recipe.model, {'params': weights}).model, lost.variables,
                           recipe.preprocess(jnp.asarray(data.images[:3])))
  np.testing.assert_array_equal(logits[1:], logits[:-1])
