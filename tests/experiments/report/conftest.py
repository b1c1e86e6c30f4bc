"""Folders of runs that nobody trained: an L0 MLP, a sparse-VD MLP and a ConvNet without gates.

Parameters are drawn such that they look like those of a finished run; the deployed weights come
from the regularisers, the layers of the ledger from `count_layers`, the other numbers are made up.
"""
import hashlib
import json

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

import sparsejax
from experiments import workdir
from sparsejax import codec, ledger
from sparsejax.ledger import count, schema
from sparsejax.models.convnet import ConvNet
from sparsejax.models.lenet import MLP

EPOCHS = 40


@pytest.fixture(scope='session')
def l0_source(tmp_path_factory):
  """Digits, 64-300-100-10, gates on input units; the border and most hidden units are cut."""
  rng = np.random.default_rng(0)
  model = MLP(widths=(300, 100))
  gates = sparsejax.l0_hard_concrete(0.02)
  regulariser = sparsejax.partition(gates=('.*kernel', gates))
  params, state = _start(model, regulariser, (8, 8, 1))
  x, y = np.meshgrid(np.arange(8), np.arange(8))
  centre = 4 - 2.4 * np.hypot(x - 3.5, y - 3.5) + rng.normal(0, 0.7, (8, 8))
  locations = {'dense0': centre.reshape(-1), 'dense1': _two_heaps(rng, 300, 42),
               'head': _two_heaps(rng, 100, 31)}
  params['gates']['log_alpha'] = {
      layer: {'kernel': np.clip(row, -4.6, 4.6).astype(np.float32)[:, None]}
      for layer, row in locations.items()}
  config = {
      'paper': 'LoWK17', 'dataset': 'digits', 'validation_examples': 237, 'training_examples': 0,
      'ema_decay': 0.99, 'seed': 3, 'model': {'name': 'mlp', 'widths': [300, 100]},
      'regulariser': {'gates': {'leaves': '.*kernel', 'method': 'l0_hard_concrete',
                                'strength': 0.02, 'axis': -2}}}
  return _write_run(tmp_path_factory.mktemp('l0'), config, model, regulariser, params, state,
                    (8, 8, 1), {'deployed_parameters': 'ema', 'validation_error_percent': 2.53})


@pytest.fixture(scope='session')
def vd_source(tmp_path_factory):
  """MNIST, 784-300-100-10, sparse VD at about one weight in seventy."""
  rng = np.random.default_rng(1)
  model = MLP(widths=(300, 100))
  regulariser = sparsejax.partition(weights=('.*kernel', sparsejax.sparse_variational_dropout()))
  params, state = _start(model, regulariser, (28, 28, 1))
  rule = params['weights']
  for layer, density in (('dense0', 0.01), ('dense1', 0.03), ('head', 0.3)):
    theta = rng.normal(0, 0.3, rule['theta'][layer]['kernel'].shape)
    kept = rng.uniform(size=theta.shape) < density
    if layer == 'dense0':
      x, y = np.meshgrid(np.arange(28), np.arange(28))
      kept &= (np.hypot(x - 13.5, y - 13.5) < 10).reshape(-1, 1)
      kept[:, 120:] = False
    theta = np.where(kept, theta, 0.01 * theta)
    alpha = np.where(kept, rng.normal(-4, 1.5, theta.shape), rng.normal(8, 1.2, theta.shape))
    rule['theta'][layer]['kernel'] = theta.astype(np.float32)
    rule['log_sigma2'][layer]['kernel'] = (alpha + np.log(theta**2 + 1e-8)).astype(np.float32)
  config = {
      'paper': 'MoAV17', 'dataset': 'mnist', 'validation_examples': 5000, 'training_examples': 0,
      'ema_decay': 0.0, 'seed': 0, 'model': {'name': 'mlp', 'widths': [300, 100]},
      'regulariser': {'weights': {'leaves': '.*kernel', 'method': 'sparse_variational_dropout',
                                  'threshold': 3.0}}}
  return _write_run(tmp_path_factory.mktemp('vd'), config, model, regulariser, params, state,
                    (28, 28, 1), {'validation_error_percent': 1.86})


@pytest.fixture(scope='session')
def conv_source(tmp_path_factory):
  """CIFAR-10 from JPEG, a ConvNet with weight decay alone; nothing is pruned."""
  model = ConvNet(widths=(32, 64))
  regulariser = sparsejax.partition(decay=('.*kernel', sparsejax.weight_decay(1.0)))
  params, state = _start(model, regulariser, (32, 32, 3))
  config = {
      'paper': '', 'dataset': 'cifar10_jpeg75', 'validation_examples': 500,
      'training_examples': 2000, 'ema_decay': 0.0, 'seed': 1,
      'model': {'name': 'convnet', 'widths': [32, 64]},
      'regulariser': {'decay': {'leaves': '.*kernel', 'method': 'weight_decay', 'strength': 1.0}}}
  return _write_run(tmp_path_factory.mktemp('conv'), config, model, regulariser, params, state,
                    (32, 32, 3), {'commit': '12ab' * 10 + '-dirty', 'simulated': ['bytes_file'],
                                  'validation_error_percent': 31.5})


def _start(model, regulariser, image_shape):
  params, state = regulariser.init(jax.random.key(1), _variables(model, image_shape)['params'])
  return jax.tree.map(np.asarray, params), jax.tree.map(np.asarray, state)


def _variables(model, image_shape):
  """Random variables in the shapes of the model's own; its `init` would compile for seconds."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))
  rng = np.random.default_rng(3)
  return {name: jax.tree.map(lambda leaf: rng.normal(0, 0.15, leaf.shape).astype(np.float32), tree)
          for name, tree in shapes.items() if name != 'intermediates'}


def _two_heaps(rng, count, kept):
  heaps = np.concatenate([rng.normal(1.5, 0.8, kept), rng.normal(-3.6, 0.4, count - kept)])
  return rng.permutation(heaps)


def _write_run(folder, config, model, regulariser, params, state, image_shape, ends):
  """Writes all files of a run; `ends` overrides what the ledger says."""
  (folder / 'config.json').write_text(json.dumps(config, indent=2, sort_keys=True) + '\n')
  weights = jax.device_get(sparsejax.finalise(regulariser, params, state))
  variables = _variables(model, image_shape) | {'params': weights}
  codec.write(folder / 'parameters.safetensors', {'params': params, 'state': state})
  codec.write(folder / 'deployed.safetensors', variables)
  bytes_file = codec.write(folder / 'model.safetensors', variables)
  rows = ledger.count_layers(model, variables, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
  ledger.write(folder / 'ledger.json',
               _ledger(config, rows, variables, folder / 'model.safetensors', bytes_file, ends))
  _write_metrics(folder / 'metrics.jsonl', rows)
  return folder


def _ledger(config, rows, variables, model_file, bytes_file, ends):
  sums = ledger.totals(rows)
  dense, compact = count.parameters(variables['params']), max(sums['weights_kept'], 1) + 410
  float32 = codec.float32_bytes(variables)
  run = {
      'dataset': config['dataset'], 'data_hash': hashlib.sha256(b'data').hexdigest(),
      'config': f'experiments/configs/{config["paper"] or "digits"}/net.py',
      'config_hash': workdir.config_hash(ml_collections.ConfigDict(config)),
      'seed': config['seed'], 'commit': '12ab' * 10, 'device': 'gpu: 1 x NVIDIA H100',
      'threads': 16, 'threads_source': 'os.sched_getaffinity', 'jax_version': '0.10.2',
      'jaxlib_version': '0.10.2', 'flax_version': '0.12.8', 'optax_version': '0.2.8',
      'numpy_version': '2.4.6', 'python_version': '3.11.7', 'time_utc': '2026-01-02T03:04:05+00:00',
      'epochs': EPOCHS, 'wall_seconds': 83.25, 'deployed_parameters': 'raw', 'simulated': [],
      'selected_by': 'the last epoch; nothing was chosen', 'test_error_percent': 1.97,
      'test_nll_nats': 0.0713, 'test_expected_calibration_error_percent': 0.81,
      'test_brier': 0.0302}
  size = {
      'weights_total': sums['weights_total'], 'weights_kept': sums['weights_kept'],
      'compression_weights': sums['weights_total'] / sums['weights_kept'],
      'compression_weights_denominator': schema.KERNEL_DENOMINATOR,
      'architecture_kept': ledger.architecture_kept(rows),
      'parameters_dense': dense, 'parameters_compact': compact,
      'compression_parameters': dense / compact,
      'compression_parameters_denominator': schema.PARAMETER_DENOMINATOR,
      'exact_zeros': sums['exact_zeros'], 'flops_dense': sums['flops'],
      'flops_compact': 2 * sums['weights_kept'], 'bytes_float32': float32, 'bytes_file': bytes_file,
      'file_sha256': hashlib.sha256(model_file.read_bytes()).hexdigest(),
      'compression_bytes': float32 / bytes_file,
      'compression_bytes_denominator': schema.BYTES_DENOMINATOR,
      'compact_relative_difference': 2.5e-7, 'ms_repeats': 30, 'layers': rows}
  speed = {}
  for batch, dense_ms, compact_ms in ((1, 0.081, 0.079), (128, 0.412, 0.151)):
    for network, median in (('dense', dense_ms), ('compact', compact_ms)):
      speed |= {f'ms_{network}_batch{batch}{end}': median * factor for end, factor in (
          ('', 1.0), ('_lower_quartile', 0.95), ('_upper_quartile', 1.08))}
  return ledger.assemble(run | size | speed | ends)


def _write_metrics(path, rows):
  rng = np.random.default_rng(2)
  lines = []
  for epoch in range(1, EPOCHS + 1):
    decay = np.exp(-epoch / 6)
    row = {'epoch': epoch, 'train_nll_nats': 0.05 + 2 * decay + 0.01 * rng.uniform(),
           'seconds': 2.0 + 0.1 * rng.uniform()}
    if epoch % 4 == 0:
      row |= {'validation_error_percent': 2.2 + 25 * decay + 0.2 * rng.uniform(),
              'validation_nll_nats': 0.09 + 1.6 * decay, 'penalty_nats': 6e4 * decay + 4e3}
      fall = 1 / (1 + np.exp(0.4 * (20 - epoch)))
      densities = {layer['layer']: (layer['weights_kept'] / layer['weights_total'])**fall
                   for layer in rows}
      row |= {f'density/{layer}/kernel': value for layer, value in densities.items()}
      row['density'] = (sum(densities[r['layer']] * r['weights_total'] for r in rows)
                        / sum(r['weights_total'] for r in rows))
    lines.append(json.dumps(row) + '\n')
  path.write_text(''.join(lines))
