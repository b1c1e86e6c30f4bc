"""Variational posteriors of a tiny regression network beside samples of the exact one.

Sampling by NUTS is the ground truth where it mixes: it has no family to be wrong about. Mean-field
VI has the same model, so its distance is the price of its family. Sparse VD has another prior, so
its distance says nothing about its family; its scores on the test set can be compared all the same.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from rich.console import Console
from rich.table import Table

from experiments.datasets import uci
from experiments.evidence import posteriors
from experiments.evidence.posteriors import Chains, Draws, SparseDraws
from sparsejax import codec, ledger, statistics

LEVEL = 0.9
MIXED = 1.05       # largest R-hat of predictions at which NUTS is called the ground truth
COLUMNS = (        # key, heading, format
    ('posterior', 'posterior', '{}'),
    ('rmse', 'RMSE', '{:.4f}'),
    ('log_likelihood', 'log-lik.', '{:.4f}'),
    ('coverage_percent', 'covered %', '{:.1f}'),
    ('coverage_interval', '95 % interval', '{}'),
    ('mean_distance', 'distance', '{:.4f}'),
    ('sd_ratio', 'sd ratio', '{:.2f}'),
    ('noise', 'noise', '{:.4f}'),
    ('seconds', 'seconds', '{:.0f}'),
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a comparison is made of, and the seed of all its draws.

  Attributes:
    dataset, split: one of `uci.SETS`, and the published split, 0 to 19.
    hidden: tanh units. seed: of all draws.
    warmup, draws, chains: of NUTS; draws are kept of each chain. The variational methods give as
      many draws as all chains together.
    steps: of Adam, in both variational methods.
  """
  dataset: str
  seed: int
  split: int = 0
  hidden: int = 10
  warmup: int = 400
  draws: int = 500
  chains: int = 2
  steps: int = 5000


def evaluate(settings: Settings, folder: str | pathlib.Path,
             console: Console | None = None) -> dict[str, Any]:
  """Infers the three posteriors, writes nuts_<dataset>.json and .md into the folder; returns JSON.

  Raises: ValueError for a number out of range, or as `uci.load`; OSError if the folder cannot be
    made.
  """
  _check(settings)
  folder = pathlib.Path(folder)
  dataset = uci.load(settings.dataset)
  part, mean, scale = uci.standardise(uci.split(dataset, settings.split))
  folder.mkdir(parents=True, exist_ok=True)
  inputs, targets, test_inputs = (jnp.asarray(array, jnp.float32) for array in (
      part.train_inputs, part.train_targets, part.test_inputs))
  nuts_key, field_key, sparse_key = jax.random.split(jax.random.key(settings.seed), 3)
  total = settings.draws * settings.chains

  chains = posteriors.run_nuts(posteriors.network_model, nuts_key, inputs, targets,
                               settings.hidden, warmup=settings.warmup, draws=settings.draws,
                               chains=settings.chains)
  functions = posteriors.predictions(chains.samples, test_inputs)    # (chains, draws, m)
  exact = Draws(np.asarray(functions).reshape(total, -1),
                np.asarray(chains.samples['noise']).reshape(total), chains.seconds)
  common: dict[str, Any] = {'hidden': settings.hidden, 'steps': settings.steps, 'draws': total}
  field = posteriors.mean_field(field_key, inputs, targets, test_inputs, **common)
  sparse = posteriors.sparse_vd(sparse_key, inputs, targets, test_inputs, **common)

  def row(name: str, draws: Draws) -> dict[str, Any]:
    return _row(name, draws, exact, part.test_targets * scale + mean, mean, scale)
  result: dict[str, Any] = {
      'dataset': dataset.name, 'data_hash': dataset.hash, 'settings': dataclasses.asdict(settings),
      'train_examples': len(part.train_targets), 'test_examples': len(part.test_targets),
      'posteriors': [
          row('NUTS', exact), row('mean-field VI', field),
          row('sparse VD', sparse.posterior), row('sparse VD, deployed', sparse.deployed)],
      'nuts': _diagnostics(chains, functions),
      'sparse_vd': {'kernels_total': sparse.kernels_total, 'kernels_kept': sparse.kernels_kept},
      'run': ledger.describe_run() | {'numpyro_version': numpyro.__version__},
  }
  result['notes'] = notes(result, sparse)
  name = f'nuts_{dataset.name}'
  text = json.dumps(result, indent=1, allow_nan=False) + '\n'
  codec.write_atomically(folder / f'{name}.json', text.encode())
  codec.write_atomically(folder / f'{name}.md', markdown(result).encode())
  if console is not None:
    console.print(table(result), *result['notes'],
                  f'Written: {folder / name}.json, {folder / name}.md', sep='\n')
  return result


def _check(settings: Settings) -> None:
  least = {'split': 0, 'hidden': 1, 'warmup': 1, 'draws': 4, 'chains': 2, 'steps': 1, 'seed': 0}
  for name, low in least.items():
    value = getattr(settings, name)
    if value < low:
      why = '; chains are compared with each other' if name == 'chains' else ''
      raise ValueError(f'{name}={value} must be at least {low}{why}')


def _row(name: str, draws: Draws, exact: Draws, targets: np.ndarray, mean: float,
         scale: float) -> dict[str, Any]:
  """Scores in the unit of the targets; distances from `exact` at the test inputs."""
  scores = statistics.mixture_scores(draws.functions * scale + mean, draws.sds * scale, targets,
                                     LEVEL)
  functions, exactly = (np.asarray(part.functions, np.float64) for part in (draws, exact))
  apart = functions.mean(axis=0) - exactly.mean(axis=0)
  ratio = 0.0
  if np.all(np.ptp(functions, axis=0) > 0):    # the deviation of equal numbers may round above 0
    ratio = float(np.exp(np.mean(np.log(functions.std(axis=0) / exactly.std(axis=0)))))
  return {
      'posterior': name, 'rmse': scores.rmse, 'log_likelihood': scores.log_likelihood,
      'coverage_percent': 100 * scores.coverage,
      'coverage_percent_low': 100 * scores.coverage_low,
      'coverage_percent_high': 100 * scores.coverage_high,
      'mean_distance': float(scale * np.sqrt(np.mean(apart**2))), 'sd_ratio': ratio,
      'noise': float(scale * draws.sds.mean()), 'seconds': draws.seconds,
  }


def _diagnostics(chains: Chains, functions: Any) -> dict[str, Any]:
  r_hat, size = posteriors.mixing(functions)
  noise_r_hat, noise_size = posteriors.mixing(chains.samples['noise'])
  weight_r_hat = max(posteriors.mixing(value)[0] for value in chains.samples.values())
  return {
      'predictions_r_hat_max': r_hat, 'predictions_ess_min': size, 'noise_r_hat': noise_r_hat,
      'noise_ess': noise_size, 'sites_r_hat_max': weight_r_hat,
      'divergences': chains.divergences, 'leapfrog_steps_mean': chains.steps,
      'acceptance_mean': chains.accepted,
  }


# --- words ----------------------------------------------------------------------------------------


def notes(result: Mapping[str, Any], sparse: SparseDraws) -> list[str]:
  """What a reader must know about the numbers."""
  nuts, settings = result['nuts'], result['settings']
  r_hat = nuts['predictions_r_hat_max']
  verdict = (f'at most {MIXED}: the chains agree, and NUTS stands for the exact posterior'
             if r_hat <= MIXED else
             f'above {MIXED}: the chains have NOT mixed, and NUTS is no ground truth here')
  return [
      f'NUTS: {settings["chains"]} chains of {settings["draws"]} draws after {settings["warmup"]}; '
      f'largest R-hat of a prediction {r_hat:.3f}, {verdict}; smallest effective sample size '
      f'{nuts["predictions_ess_min"]:.0f}, {nuts["divergences"]} divergences. R-hat of the weights '
      f'themselves ({nuts["sites_r_hat_max"]:.1f}) counts exchanges of hidden units too.',
      'Priors of NUTS and mean-field VI: N(0, 1 / fan in) kernels, N(0, 1) biases. The noise is '
      'inferred by all, under HalfNormal(1) of the standardised targets; both variational methods '
      'have a Gaussian factor on its logarithm.',
      f'Sparse VD: Gaussian factors on the kernels under the log-uniform prior, point estimates of '
      f'the biases; {sparse.kernels_kept} of {sparse.kernels_total} kernel entries are deployed. '
      'The log-uniform prior is improper, and its posterior with it: no exact posterior exists for '
      'sparse VD, so no sampler can check it. Its distance from NUTS is between two models.',
      f'Log-likelihood: nats per test example, density in the unit of the targets. Coverage: '
      f'targets inside the central {100 * LEVEL:.0f} % predictive interval, with the interval that '
      f'{result["test_examples"]} examples allow. Distance: root mean square difference of the '
      'predictive mean from that of NUTS. Sd ratio: standard deviation of the function over that '
      'of NUTS, geometric mean over test inputs; 0 for one network. Seconds: compilation included.',
      'One split and one seed. From another start a variational method may end in another optimum, '
      'sparse VD above all; what is seen here once is no ranking of methods.',
  ]


def table(result: Mapping[str, Any]) -> Table:
  """Returns the scores as a table for 80 columns; the report has three columns more."""
  sheet = Table(title=_title(result), title_justify='left')
  left_out = ('coverage_interval', 'noise', 'seconds')
  shown = [index for index, column in enumerate(COLUMNS) if column[0] not in left_out]
  for index in shown:
    sheet.add_column(COLUMNS[index][1], justify='right' if index else 'left', no_wrap=True)
  for cells in _cells(result):
    sheet.add_row(*(cells[index] for index in shown))
  return sheet


def markdown(result: Mapping[str, Any]) -> str:
  """Returns the text of the report."""
  run, settings = result['run'], result['settings']
  lines = [f'# {_title(result)}', '',
           '| ' + ' | '.join(heading for _, heading, _ in COLUMNS) + ' |',
           '| --- ' + '| ---: ' * (len(COLUMNS) - 1) + '|']
  lines += ['| ' + ' | '.join(cells) + ' |' for cells in _cells(result)]
  lines += ['', *(f'- {note}' for note in result['notes']), '',
            f'{settings["hidden"]} tanh units, {result["train_examples"]} training and '
            f'{result["test_examples"]} test examples (published split {settings["split"]}), seed '
            f'{settings["seed"]}, {settings["steps"]} steps of Adam. {run["device"]}, '
            f'JAX {run["jax_version"]}, NumPyro {run["numpyro_version"]}, commit {run["commit"]}, '
            f'{run["time_utc"]}.', '']
  return '\n'.join(lines)


def _title(result: Mapping[str, Any]) -> str:
  return f'Variational posteriors against NUTS on {result["dataset"]}'


def _cells(result: Mapping[str, Any]) -> list[list[str]]:
  rows = []
  for row in result['posteriors']:
    low, high = row['coverage_percent_low'], row['coverage_percent_high']
    shown = {**row, 'coverage_interval': f'{low:.1f} to {high:.1f}'}
    rows.append([form.format(shown[key]) for key, _, form in COLUMNS])
  return rows
