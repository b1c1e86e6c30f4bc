"""A small dense network with dead units, the same function in a smaller one, and its ledger."""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import ledger


class Net(nn.Module):
  """Conv, batch norm, dense, head on (n, 6, 6, 1) images."""
  channels: int
  hidden: int

  @nn.compact
  def __call__(self, x, train=True):
    x = nn.Conv(self.channels, (3, 3), padding='VALID', name='conv')(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not train, name='norm')(x))
    x = nn.relu(nn.Dense(self.hidden, name='dense')(x.mean(axis=(1, 2))))
    return nn.Dense(3, name='head')(x)


@pytest.fixture(scope='session')
def pair():
  """(model, variables, compact model, compact variables, images): channels 1, 2 of 4 and hidden
  unit 0 of 5 are dead, and one weight of the head is 0 besides."""
  model, small = Net(4, 5), Net(2, 4)
  images = np.asarray(jax.random.normal(jax.random.key(1), (9, 6, 6, 1)))
  variables = jax.tree.map(np.array, model.init(jax.random.key(0), images, train=False))
  params = variables['params']
  params['conv']['kernel'][..., [1, 2]] = 0
  params['dense']['kernel'][[1, 2]] = 0
  params['dense']['kernel'][:, 0] = 0
  params['dense']['bias'] = np.array([0, 1, 2, 3, 4], np.float32)
  params['head']['kernel'][0] = 0
  params['head']['kernel'][4, 1] = 0
  channels, hidden = [0, 3], [1, 2, 3, 4]
  compact = {
      'params': {
          'conv': {'kernel': params['conv']['kernel'][..., channels], 'bias': np.zeros(2, 'f4')},
          'norm': {name: leaf[channels] for name, leaf in params['norm'].items()},
          'dense': {'kernel': params['dense']['kernel'][np.ix_(channels, hidden)],
                    'bias': params['dense']['bias'][hidden]},
          'head': {'kernel': params['head']['kernel'][hidden], 'bias': params['head']['bias']},
      },
      'batch_stats': {'norm': {name: leaf[channels]
                               for name, leaf in variables['batch_stats']['norm'].items()}},
  }
  return model, variables, small, compact, images


@pytest.fixture(scope='session')
def measured(pair, tmp_path_factory):
  """(what `measure` returns, the file it wrote)."""
  path = tmp_path_factory.mktemp('measure') / 'net.safetensors'
  return ledger.measure(*pair, path, apply_kwargs={'train': False}, repeats=3, warmup=1,
                        file_provenance={'seed': 3}), path


@pytest.fixture
def whole(measured):
  """A ledger with every key."""
  scores = ledger.classification_scores(jnp.eye(3), np.array([0, 1, 1]))
  return ledger.assemble(ledger.describe_run(), measured[0], scores, {
      'dataset': 'digits', 'data_hash': 'sha256:00', 'config': 'digits/net.py',
      'config_hash': 'sha256:11', 'seed': 3, 'epochs': 2, 'wall_seconds': 1.5,
      'validation_error_percent': 2.5, 'selected_by': 'last epoch', 'deployed_parameters': 'raw',
      'simulated': []})
