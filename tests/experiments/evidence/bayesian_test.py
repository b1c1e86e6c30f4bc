"""The posterior predictive of tiny finished runs on the digits, against NumPy."""
import io
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from rich.console import Console
from scipy import special

import sparsejax
from experiments import datasets, run
from experiments.configs.digits import l0_mlp
from experiments.evidence import bayesian
from sparsejax import codec
from sparsejax.paths import flatten
from sparsejax.regularisers.hard_concrete import BETA, GAMMA, ZETA


def config_of(**rules):
  config = l0_mlp.get_config()
  config.update({'training_examples': 400, 'epochs': 3, 'evaluate_every': 3, 'checkpoint_every': 3,
                 'ema_decay': 0.0})
  config.model.widths = (12, 8)
  config.optimiser.learning_rate = 0.01
  config.regulariser = ml_collections.ConfigDict(rules)
  return config


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """{'vd': folder of a run of sparse VD, 'dense': of plain weights}."""
  rules = {
      'vd': {'leaves': '.*kernel', 'method': 'sparse_variational_dropout',
             'init_log_sigma2': -4.0},
      'dense': {'leaves': '.*kernel', 'method': 'weight_decay', 'strength': 0.1},
  }
  folders = {}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(run, 'write_report', lambda folder: None)      # plots, which nothing here reads
    for name, rule in rules.items():
      folders[name] = tmp_path_factory.mktemp(name)
      run.run(config_of(weights=rule), folders[name], f'{name}.py', Console(file=io.StringIO()))
  return folders


@pytest.fixture
def noise(monkeypatch):
  """A data set of random pixels in the shape of the digits, under the name 'noise'."""
  images = np.random.default_rng(0).integers(0, 256, (90, 8, 8, 1), dtype=np.uint8)
  labels = np.arange(90, dtype=np.int32) % 10
  dataset = datasets.Dataset('noise', 10, images, labels, images, labels, tuple('0123456789'))
  monkeypatch.setitem(datasets._LOADERS, 'noise', lambda data_dir: dataset)
  return dataset


@pytest.mark.slow
def test_posterior_deployed_and_dense_are_scored(finished, noise):
  folder = finished['vd']
  before = {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}
  console = Console(file=io.StringIO(), width=120)
  result = bayesian.evaluate(folder, draws=5, seed=1, ood='noise', dense=finished['dense'],
                             console=console)
  rows = {row['network']: row for row in result['networks']}
  assert list(rows) == ['posterior', 'deployed', 'dense']
  for name, row in rows.items():
    assert all(np.isfinite(value) for value in row.values() if not isinstance(value, str)), name
    assert 0 <= row['ood_auroc_entropy'] <= 1
  # Bytes: all parameters in float32 against what the ledgers measured.
  stored = codec.read(folder / 'parameters.safetensors')['params']
  entries = sum(leaf.size for leaf in flatten(stored).values())
  assert entries == 2 * (64 * 12 + 12 * 8 + 8 * 10) + 12 + 8 + 10
  assert 4 * entries <= rows['posterior']['bytes'] <= 4 * entries + 2000
  for name, where in (('deployed', 'vd'), ('dense', 'dense')):
    sheet = json.loads((finished[where] / 'ledger.json').read_text())
    assert rows[name]['bytes'] == sheet['bytes_file']
    for key in ('test_nll_nats', 'test_brier', 'test_expected_calibration_error_percent'):
      assert rows[name][key] == pytest.approx(sheet[key], rel=1e-4, abs=1e-4)
    assert rows[name]['test_error_percent'] == sheet['test_error_percent']
  assert [(row['a'], row['b']) for row in result['differences']] == [
      ('posterior', 'deployed'), ('posterior', 'dense'), ('deployed', 'dense')]
  for row in result['differences']:
    nll = rows[row['a']]['test_nll_nats'] - rows[row['b']]['test_nll_nats']
    assert row['nll_nats'] == pytest.approx(nll, abs=1e-9)
    assert row['nll_nats_low'] <= row['nll_nats'] <= row['nll_nats_high']
    assert row['error_percent_low'] <= row['error_percent'] <= row['error_percent_high']

  text = (folder / 'bayesian.md').read_text()
  assert json.loads((folder / 'bayesian.json').read_text()) == json.loads(json.dumps(result))
  assert 'improper' in text and 'OOD AUROC' in text and '| dense |' in text
  printed = console.file.getvalue()
  assert 'posterior' in printed and 'improper' in printed
  # Nothing else in the folder was touched.
  after = {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}
  assert {path.name for path in after.keys() - before.keys()} == {'bayesian.json', 'bayesian.md'}
  assert all(after[path] == data for path, data in before.items())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_without_ood(finished):
  one, two, other = (bayesian.evaluate(finished['vd'], draws=2, seed=seed) for seed in (3, 3, 4))
  assert one['networks'] == two['networks']
  assert one['networks'][0] != other['networks'][0] and one['networks'][1] == other['networks'][1]
  assert one['ood'] is None and one['networks'][0]['ood_auroc_entropy'] is None
  assert 'AUROC' not in bayesian.markdown(one)


def test_a_draw_is_a_gaussian_network_by_numpy(finished):
  """Mean NLL of single networks, drawn and run by NumPy, within its Monte Carlo error."""
  draws = 60
  result = bayesian.evaluate(finished['vd'], draws=draws, seed=0)['single_draws']
  params = codec.read(finished['vd'] / 'parameters.safetensors')['params']
  data = datasets.load('digits')
  rng = np.random.default_rng(0)
  values = []
  for _ in range(4 * draws):
    x = data.test_images.reshape(360, -1) / 255
    for name in ('dense0', 'dense1', 'head'):
      rule = params['weights']
      theta, log_sigma2 = (rule[part][name]['kernel'] for part in ('theta', 'log_sigma2'))
      x = x @ rng.normal(theta, np.exp(log_sigma2 / 2)) + params['free'][name]['bias']
      x = np.maximum(x, 0) if name != 'head' else x
    values.append(-special.log_softmax(x, axis=1)[np.arange(360), data.test_labels].mean())
  error = np.std(values) * np.sqrt(1 / draws + 1 / len(values))
  assert abs(result['test_nll_nats_mean'] - np.mean(values)) < 5 * error
  # A standard deviation of n normal values is known to 1 / sqrt(2 n).
  assert result['test_nll_nats_sd'] == pytest.approx(np.std(values), rel=5 / np.sqrt(2 * draws))


def test_a_deterministic_method_is_refused(finished):
  with pytest.raises(ValueError, match='nothing to draw: the method of this run is deterministic'):
    bayesian.evaluate(finished['dense'], draws=2, seed=0)
  assert not (finished['dense'] / 'bayesian.json').exists()


def test_gates_per_example_are_drawn_once_per_network():
  method = sparsejax.l0_hard_concrete(0.1, axis=-2, per='example')
  params, state = method.init(jax.random.key(0), {'kernel': jnp.ones((30, 3))})
  drawn = jax.vmap(lambda key: bayesian.draw_weights(method, params, state, key)['kernel'])(
      jax.random.split(jax.random.key(1), 400))
  gates = np.asarray(drawn)
  assert np.all(gates == gates[:, :, :1])                       # one gate for a row of the kernel
  log_alpha = np.asarray(params['log_alpha']['kernel']).reshape(-1)
  closed = special.expit(BETA * np.log(-GAMMA / ZETA) - log_alpha).mean()
  n = 400 * 30
  assert abs(np.mean(gates[:, :, 0] == 0) - closed) < 5 * np.sqrt(closed * (1 - closed) / n)


def test_mistakes_are_named(finished, noise, tmp_path):
  with pytest.raises(ValueError, match='draws=0'):
    bayesian.evaluate(finished['vd'], draws=0, seed=0)
  with pytest.raises(ValueError, match="ood='digits' .* another data set"):
    bayesian.evaluate(finished['vd'], draws=1, seed=0, ood='digits')
  with pytest.raises(ValueError, match='is no folder'):
    bayesian.evaluate(tmp_path / 'absent', draws=1, seed=0)


def test_the_command_answers_without_a_run(tmp_path):
  script = ('import sys\nfrom absl import flags\nimport experiments.bayesian\n'
            "assert '--draws' in flags.FLAGS.get_help() and '--ood' in flags.FLAGS.get_help()\n"
            "assert not {'jax', 'numpy', 'scipy'} & set(sys.modules)")
  done = subprocess.run([sys.executable, '-c', script], text=True, capture_output=True, check=False)
  assert done.returncode == 0, done.stderr[-2000:]
  done = subprocess.run([sys.executable, '-m', 'experiments.bayesian', f'--workdir={tmp_path}/no'],
                        text=True, capture_output=True, check=False)
  assert done.returncode == 1 and 'is no folder' in done.stderr
  assert done.stderr.startswith('error: ') and 'Traceback' not in done.stderr
