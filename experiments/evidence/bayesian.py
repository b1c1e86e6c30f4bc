"""What a posterior over weights is worth, against the one network that is deployed from it.

A stochastic method trains a distribution over weights and deploys one pruned network. Here K
networks are drawn from the distribution and their probabilities averaged; the average, the deployed
network and, if wanted, a dense one are scored on the same test set, and on how well their
uncertainty tells another data set apart, each beside the bytes it takes.

Each draw is one network for all images: structured weights, which the layers would draw anew for
every output or example in training, are drawn once and read as plain weights. For one image that is
the same distribution in fully connected networks, and the right one in convolutions, where local
reparameterisation gives neighbouring outputs independent noise.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments import build, datasets
from experiments.data import load
from experiments.datasets import Dataset
from experiments.report.folder import Run, read_run
from sparsejax import Gated, Gaussian, Regulariser, codec, ledger, statistics
from sparsejax.paths import Tree, flatten, fold, map_leaves
from sparsejax.structured import Stochastic
from sparsejax.training.evaluate import jit_logits
from sparsejax.training.fit import Recipe

Array = jax.Array

JSON_FILE, MARKDOWN_FILE = 'bayesian.json', 'bayesian.md'
LEVEL = 0.95
IMPROPER = ('Sparse variational dropout has the log-uniform prior, which is improper: there is no '
            'normalised prior, no evidence, and where the likelihood of a zero weight is positive '
            'no normalised posterior either. What is drawn from is the Gaussian approximation that '
            'training ended with, not an approximation of a posterior that exists.')
COLUMNS = (                                    # key, heading, format
    ('network', 'network', '{}'),
    ('bytes', 'bytes', '{:,}'),
    ('test_error_percent', 'error %', '{:.2f}'),
    ('test_nll_nats', 'NLL nats', '{:.4f}'),
    ('test_expected_calibration_error_percent', 'ECE %', '{:.2f}'),
    ('test_brier', 'Brier', '{:.4f}'),
    ('ood_auroc_entropy', 'OOD AUROC entropy', '{:.4f}'),
    ('ood_auroc_max_probability', 'OOD AUROC max p', '{:.4f}'),
)


class Network(NamedTuple):
  """A predictive distribution on the test set and, with `ood`, on other images; and its bytes."""

  name: str
  log_probs: np.ndarray
  ood_log_probs: np.ndarray | None
  size: int


def evaluate(folder: str | pathlib.Path, *, draws: int, seed: int, ood: str = '',
             dense: str | pathlib.Path = '', console: Console | None = None) -> dict[str, Any]:
  """Writes bayesian.json and bayesian.md into the folder of a finished run; returns the former.

  Args:
    folder: of a run of a method with noise in its weights.
    draws: K, networks drawn from the distribution.
    seed: of the draws.
    ood: name of a data set with images of the same shape; '' for none.
    dense: folder of a finished run of the same data set to compare with; '' for none.
  Raises: ValueError for a deterministic method, a folder that is damaged or of other data, or an
    argument out of range; and as `datasets.load`.
  """
  if draws < 1:
    raise ValueError(f'draws={draws}; draw at least one network, 30 or more for a good average')
  run = read_run(folder)
  recipe, dataset = _rebuild(run)
  require_stochastic(recipe.regulariser, run.params, run.state, str(folder))
  others = _load_ood(ood, dataset)
  drawn, drawn_ood = _draw_logits(run, recipe, dataset, others, draws, seed)
  networks = [
      Network('posterior', statistics.posterior_predictive(drawn),
              None if drawn_ood is None else statistics.posterior_predictive(drawn_ood),
              codec.float32_bytes(run.params)),
      _deployed('deployed', run, recipe, dataset, others),
  ]
  if dense:
    other = read_run(dense)
    if other.ledger['data_hash'] != run.ledger['data_hash']:
      raise ValueError(f'{dense} is a run on {other.ledger["dataset"]}, {folder} on '
                       f'{run.ledger["dataset"]}; both must be of the same data')
    networks.append(_deployed('dense', other, _rebuild(other)[0], dataset, others))
  result = {
      'config': run.ledger['config'], 'config_hash': run.ledger['config_hash'],
      'dataset': dataset.name, 'data_hash': dataset.hash,
      'ood': ood or None, 'ood_hash': None if others is None else others.hash,
      'dense_config': other.ledger['config'] if dense else None,
      'dense_config_hash': other.ledger['config_hash'] if dense else None,
      'draws': draws, 'seed': seed,
      'weights_total': run.ledger['weights_total'], 'weights_kept': run.ledger['weights_kept'],
      'networks': [_row(network, dataset.test_labels) for network in networks],
      'single_draws': _single(drawn, dataset.test_labels),
      'differences': [_difference(a, b, dataset.test_labels, seed)
                      for i, a in enumerate(networks) for b in networks[i + 1:]],
      'notes': notes(run, draws, ood, dataset.name, dense),
      'run': ledger.describe_run(),
  }
  text = json.dumps(result, indent=1, allow_nan=False) + '\n'
  codec.write_atomically(run.folder / JSON_FILE, text.encode())
  codec.write_atomically(run.folder / MARKDOWN_FILE, markdown(result).encode())
  if console is not None:
    console.print(table(result), *result['notes'],
                  f'Written: {run.folder / JSON_FILE}, {run.folder / MARKDOWN_FILE}', sep='\n')
  return result


# --- drawing --------------------------------------------------------------------------------------


def draw_weights(regulariser: Regulariser, params: Tree, state: Tree, key: Array) -> Tree:
  """Draws one network: plain weights, also where the method hands structured ones to the layers."""
  def draw(path, leaf):
    if isinstance(leaf, Gaussian):
      standard = jax.random.normal(fold(fold(key, 'posterior draw'), path), leaf.shape)
      return leaf.mean + (jnp.sqrt(leaf.var) * standard).astype(leaf.dtype)
    if isinstance(leaf, Gated):
      shape = [1] * leaf.ndim
      shape[leaf.axis] = -1
      return leaf.value * leaf.draw(1)[0].reshape(shape)
    if isinstance(leaf, Stochastic):
      raise ValueError(f'no rule says how to draw one network from the {type(leaf).__name__} at '
                       f'{path}; add it to draw_weights')
    return leaf
  return map_leaves(draw, regulariser.weights(params, state, key))


def require_stochastic(regulariser: Regulariser, params: Tree, state: Tree, where: str) -> None:
  """Raises ValueError if two keys draw the same weights."""
  one, two = (flatten(draw_weights(regulariser, params, state, jax.random.key(seed)))
              for seed in (0, 1))
  if all(np.array_equal(one[path], two[path]) for path in one):
    raise ValueError(f'{where}: nothing to draw: the method of this run is deterministic, its '
                     'weights are the same for every key; give a run of a method with noise, such '
                     'as sparse_variational_dropout, l0_hard_concrete or dropout')


def _draw_logits(run: Run, recipe: Recipe, dataset: Dataset, others: Dataset | None, draws: int,
                 seed: int) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns logits (K, n, c) on the test set, and on the other one if there is one."""
  sample = jax.jit(lambda key: draw_weights(recipe.regulariser, run.params, run.state, key))
  predict = jit_logits(recipe)
  collections = _collections(run)
  test = jnp.asarray(dataset.test_images)
  other = None if others is None else jnp.asarray(others.test_images)
  logits, ood_logits = [], []
  for draw in range(draws):
    variables = {'params': sample(jax.random.fold_in(jax.random.key(seed), draw)), **collections}
    logits.append(np.asarray(predict(variables, test)))
    if other is not None:
      ood_logits.append(np.asarray(predict(variables, other)))
  return np.stack(logits), np.stack(ood_logits) if ood_logits else None


def _deployed(name: str, run: Run, recipe: Recipe, dataset: Dataset,
              others: Dataset | None) -> Network:
  """The deployed network of a run, whose stored test logits must be what is computed here."""
  predict = jit_logits(recipe)
  variables = codec.read(run.folder / 'deployed.safetensors')

  def log_probs(images):
    logits = np.asarray(predict(variables, jnp.asarray(images)))
    return statistics.posterior_predictive(logits[None])
  found = log_probs(dataset.test_images)
  error = statistics.scores(found, dataset.test_labels)['test_error_percent']
  # Another machine may round an example on the boundary to the other side: one of them is let go.
  if abs(error - run.ledger['test_error_percent']) > 100 / len(found) + 1e-9:
    raise ValueError(f'{run.folder}: the deployed network has {error:.3f} % test error here, its '
                     f'ledger says {run.ledger["test_error_percent"]:.3f} %; its files and the '
                     'code do not belong together')
  return Network(name, found, None if others is None else log_probs(others.test_images),
                 run.ledger['bytes_file'])


def _rebuild(run: Run) -> tuple[Recipe, Dataset]:
  """Returns the recipe of a run from its config.json, and its data set."""
  config = ml_collections.ConfigDict(_tuples(run.config))
  data = load(config)
  if data.dataset.hash != run.ledger['data_hash']:
    raise ValueError(f'{run.folder} was trained on other bytes of {config.dataset} (data_hash '
                     'differs); point SPARSEJAX_DATA_DIR to the data it was trained on')
  return build.recipe(config, data.images), data.dataset


def _tuples(value: Any) -> Any:
  """Returns the config as it was before JSON, which knows no tuples."""
  if isinstance(value, Mapping):
    return {key: _tuples(item) for key, item in value.items()}
  return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _collections(run: Run) -> Tree:
  stored = codec.read(run.folder / 'deployed.safetensors')
  return {name: tree for name, tree in stored.items() if name != 'params'}


def _load_ood(name: str, dataset: Dataset) -> Dataset | None:
  if not name:
    return None
  others: Any = datasets.load(name)
  shapes = [images.shape[1:] for images in (dataset.test_images, others.test_images)]
  if name == dataset.name or shapes[0] != shapes[1]:
    raise ValueError(f'ood={name!r} has images {shapes[1]}, {dataset.name} has {shapes[0]}; give '
                     'another data set with images of the same shape')
  return others


# --- scoring --------------------------------------------------------------------------------------


def _row(network: Network, labels: np.ndarray) -> dict[str, Any]:
  row = {'network': network.name, 'bytes': network.size,
         **statistics.scores(network.log_probs, labels),
         'ood_auroc_entropy': None, 'ood_auroc_max_probability': None}
  if network.ood_log_probs is not None:
    test, ood = network.log_probs, network.ood_log_probs
    row['ood_auroc_entropy'] = statistics.auroc(statistics.entropy(test), statistics.entropy(ood))
    row['ood_auroc_max_probability'] = statistics.auroc(-test.max(axis=1), -ood.max(axis=1))
  return row


def _single(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
  """Mean and standard deviation over the draws of what one drawn network scores."""
  each = [ledger.classification_scores(one, labels) for one in logits]
  summary: dict[str, float | None] = {}
  for key in ('test_error_percent', 'test_nll_nats'):
    values = np.array([scores[key] for scores in each])
    summary[f'{key}_mean'] = float(values.mean())
    summary[f'{key}_sd'] = float(values.std(ddof=1)) if len(values) > 1 else None
  return summary


def _difference(a: Network, b: Network, labels: np.ndarray, seed: int) -> dict[str, Any]:
  """a - b on the same test examples: error by bootstrap and McNemar, NLL by Student's interval."""
  a_wrong, b_wrong = (network.log_probs.argmax(axis=1) != labels for network in (a, b))
  examples = np.arange(len(labels))
  nats = b.log_probs[examples, labels] - a.log_probs[examples, labels]
  error = statistics.difference_interval(a_wrong, b_wrong, seed, level=LEVEL)
  low, high = statistics.mean_interval(nats, LEVEL)
  return {
      'a': a.name, 'b': b.name,
      'error_percent': error.percent, 'error_percent_low': error.low,
      'error_percent_high': error.high,
      'mcnemar_mid_p': statistics.mcnemar(~a_wrong, ~b_wrong).mid_p,
      'nll_nats': float(nats.mean()), 'nll_nats_low': low, 'nll_nats_high': high,
  }


# --- words ----------------------------------------------------------------------------------------


def notes(run: Run, draws: int, ood: str, dataset: str, dense: str | pathlib.Path) -> list[str]:
  """What a reader must know about the numbers."""
  lines = [
      f'posterior: the mean of the probabilities of {draws} networks drawn from the trained '
      'distribution. Its bytes are those of all its parameters in float32: none is left out and '
      'nothing is coded. deployed: the bytes of its compact file.',
      'Differences hold for these trained networks and other test examples; that another training '
      'would differ too is not in them.',
  ]
  methods = set(_methods(run.config['regulariser']))
  if 'sparse_variational_dropout' in methods:
    lines.append(IMPROPER)
  if 'l0_hard_concrete' in methods:
    lines.append('Under L0 gates only the gates are drawn; the weights under them are points, '
                 'without a posterior.')
  if 'dropout' in methods:
    lines.append('Under dropout the draws are dropout masks at their trained rate (Gal and '
                 'Ghahramani, 2016, arXiv:1506.02142).')
  if ood:
    lines.append(f'OOD AUROC: probability that an image of {ood} has more predictive entropy (less '
                 f'maximum probability) than one of {dataset}, both test sets; 0.5 is chance.')
  if dense:
    lines.append('dense: the deployed network of the other run, with the bytes of its own file.')
  return lines


def _methods(rules: Mapping[str, Any]) -> Iterator[str]:
  """Names of all methods in the rules of a config, nested ones too."""
  for key, value in rules.items():
    if isinstance(value, Mapping):
      yield from _methods(value)
    elif key == 'method':
      yield value


def table(result: Mapping[str, Any]) -> Table:
  """Returns the scores as a table for the terminal."""
  sheet = Table(title=escape(_title(result)), title_justify='left')
  columns = _columns(result)
  for index, (_, heading, _) in enumerate(columns):
    sheet.add_column(heading, justify='right' if index else 'left', no_wrap=index < 2)
  for row in result['networks']:
    sheet.add_row(*(form.format(row[key]) for key, _, form in columns))
  return sheet


def markdown(result: Mapping[str, Any]) -> str:
  """Returns the text of bayesian.md."""
  columns = _columns(result)
  lines = [f'# {_title(result)}', '',
           '| ' + ' | '.join(heading for _, heading, _ in columns) + ' |',
           '| --- ' + '| ---: ' * (len(columns) - 1) + '|']
  for row in result['networks']:
    lines.append('| ' + ' | '.join(form.format(row[key]) for key, _, form in columns) + ' |')
  single = result['single_draws']
  lines += ['', '## One draw', '', (
      f'A single network of the {result["draws"]} has {single["test_error_percent_mean"]:.2f} % '
      f'error and {single["test_nll_nats_mean"]:.4f} nats on average'
      + (f' (standard deviations over the draws {single["test_error_percent_sd"]:.2f} and '
         f'{single["test_nll_nats_sd"]:.4f})' if result['draws'] > 1 else '') + '.'), '',
      f'## Differences, with {100 * LEVEL:g} % intervals', '',
      '| a - b | error, points | mid-p | NLL, nats |', '| --- | ---: | ---: | ---: |']
  for row in result['differences']:
    lines.append(
        f'| {row["a"]} - {row["b"]} | {row["error_percent"]:+.2f} ({row["error_percent_low"]:+.2f} '
        f'to {row["error_percent_high"]:+.2f}) | {row["mcnemar_mid_p"]:.3f} | '
        f'{row["nll_nats"]:+.4f} ({row["nll_nats_low"]:+.4f} to {row["nll_nats_high"]:+.4f}) |')
  run = result['run']
  lines += ['', '## How to read it', '', *(f'- {note}' for note in result['notes']), '',
            f'{run["device"]}, JAX {run["jax_version"]}, commit {run["commit"]}, seed of the draws '
            f'{result["seed"]}, {run["time_utc"]}.', '']
  return '\n'.join(lines)


def _title(result: Mapping[str, Any]) -> str:
  return f'Posterior against deployed network: {result["config"]} on {result["dataset"]}'


def _columns(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
  return [column for column in COLUMNS
          if result['ood'] is not None or not column[0].startswith('ood')]
