"""Batch-norm folded away: the same function by NumPy, and a network that can be read back."""
import jax
import numpy as np
import pytest
from flax import linen as nn

from sparsejax import codec
from sparsejax.codec import models
from sparsejax.compaction.compact import compact
from sparsejax.models.convnet import ConvNet
from sparsejax.models.lenet import MLP
from sparsejax.paths import flatten
from sparsejax.compaction.fold_batch_norm import fold_batch_norm

IMAGES = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype(np.float32)


def made(**fields):
  """A network and its variables, none of them 0 or 1."""
  model = ConvNet(widths=(3, 2), classes=4, pool_after=(0,), epsilon=0.1, **fields)
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
  return model, jax.tree.map(lambda leaf: rng.uniform(0.2, 1.5, leaf.shape).astype(np.float32)
                             * rng.choice([-1, 1] if leaf.ndim > 1 else [1], leaf.shape), shapes)


@pytest.mark.parametrize('fields', [{'conv_bias': False}, {'bias_maps': (1,)}])
def test_the_function_stays_and_the_norms_go(fields):
  model, variables = made(**fields)
  variables['params']['conv0']['kernel'][0, :, :, 1] = 0
  small, folded = fold_batch_norm(model, variables)
  assert set(folded) == {'params'} and not small.norms and small.batch_norms() == ()
  assert not [path for path in flatten(folded['params']) if 'norm' in path]
  wanted = model.apply(variables, IMAGES)
  found = small.apply(folded, IMAGES)
  # Sums of some 30 products in float32, rounded in another order.
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
  assert not np.any(folded['params']['conv0']['kernel'][0, :, :, 1])


def test_by_hand():
  model, variables = made(conv_bias=True)
  p, s = variables['params'], variables['batch_stats']['norm0']
  _, folded = fold_batch_norm(model, variables)
  factor = p['norm0']['scale'] / np.sqrt(s['var'] + 0.1)
  np.testing.assert_allclose(folded['params']['conv0']['kernel'], p['conv0']['kernel'] * factor[
      None, None, None], rtol=1e-6)
  np.testing.assert_allclose(
      folded['params']['conv0']['bias'],
      (p['conv0']['bias'] - s['mean']) * factor + p['norm0']['bias'], rtol=1e-5, atol=1e-6)


def test_a_folded_network_is_compacted_and_named_in_files(tmp_path):
  model, variables = made(conv_bias=True)
  small, folded = fold_batch_norm(model, variables)
  folded['params']['conv0']['kernel'][..., 1] = 0        # emits relu(bias), a constant image
  folded['params']['conv0']['bias'][1] = 0.5
  wanted = small.apply(folded, IMAGES)
  cut = compact(small, folded, example_shape=(1, *IMAGES.shape[1:]))
  assert cut.model.widths == (2, 2) and cut.model.bias_maps == (1,)
  np.testing.assert_allclose(cut.model.apply(cut.variables, IMAGES), wanted, rtol=0,
                             atol=1e-5 * np.abs(wanted).max())
  assert models.build(models.describe(cut.model)).norms is False
  codec.write(tmp_path / 'net.sjx', folded, model=small)
  assert codec.read_model(tmp_path / 'net.sjx').model == small


def test_a_network_without_norms_comes_back_as_it_was():
  model = MLP(widths=(2,), classes=2)
  variables = {'params': {'head': {'kernel': np.ones((2, 2))}}}
  assert fold_batch_norm(model, variables) == (model, variables)


def test_norms_at_unknown_places_and_damaged_statistics_are_refused():
  model, variables = made()
  with pytest.raises(ValueError, match='Dense has batch_stats but no batch_norms'):
    fold_batch_norm(nn.Dense(2), variables)
  variables['batch_stats']['norm1']['var'][0] = -1
  with pytest.raises(ValueError, match=r'batch_stats/norm1/var is negative \(-1\)'):
    fold_batch_norm(model, variables)
