"""Whether results of older code still hold: the first epochs of one training, repeated.

Editing a module that every training imports makes all results stale, though most edits change no
number. A result keeps the training loss of its first epochs. If the present code repeats them to
the last bits, for one seed of a config, with the JAX, the device and the threads of that result,
then the results of that config are marked as attested by this code. What begins only later in the
training, and what follows it (choosing, compaction), is not repeated, and tables say so.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments import build
from experiments.data import Data, load
from experiments.evidence.code_hash import code_hash
from experiments.evidence.configs import load_config
from experiments.evidence.results import Result, add_results, read_results
from sparsejax import ledger
from sparsejax.training.fit import start
from sparsejax.training.loop import run_epochs

TOLERANCE = 1e-6        # relative, of losses printed in full: float32 sums in the same order


def attest(path: pathlib.Path, console: Console) -> int:
  """Marks the stale results of a file that the present code repeats; returns how many configs
  could not be attested."""
  results = read_results(path)
  refused = 0
  for name in dict.fromkeys(result.config for result in results):
    mine = [result for result in results if result.config == name]
    wanted = code_hash(load_config(name))
    stale = [result for result in mine if not result.holds_for(wanted)]
    if not stale:
      continue
    tried = min(stale, key=lambda result: result.ledger['seed'])
    problem = differs(tried)
    if problem:
      refused += 1
      console.print(f'{name}: not attested; {problem}')
      continue
    same = [result for result in stale if result.code_hash == tried.code_hash]
    add_results(path, [result._replace(attested=(*result.attested, wanted)) for result in same])
    console.print(f'{name}: {len(same)} results hold for the present code, as far as '
                  f'{len(tried.first_nll_nats)} epochs of seed {tried.ledger["seed"]} tell')
  return refused


def differs(result: Result) -> str:
  """Returns why the present code, here, does not repeat a result, or '' if it does."""
  if not result.first_nll_nats:
    return 'the result holds no losses to repeat; run again'
  here = ledger.describe_run()
  for key in ('device', 'threads', 'jax_version'):
    if here[key] != result.ledger[key]:
      return (f'{key} is {here[key]} here and {result.ledger[key]} in the result, and rounding '
              'with it; attest where it was obtained, or run again')
  config = load_config(result.config, result.ledger['seed'])
  data = load(config)
  if data.dataset.hash != result.ledger['data_hash']:
    return 'the data differ; run again'
  losses = repeat(config, data, len(result.first_nll_nats))
  off = relative_difference(losses, result.first_nll_nats)
  if off <= TOLERANCE:
    return ''
  return (f'the loss of the first {len(losses)} epochs differs by up to {off:.1e} of itself; the '
          'code trains differently, run again')


def repeat(config, data: Data, epochs: int) -> list[float]:
  """Returns the mean training loss, in nats, of each of the first epochs of a config."""
  recipe = build.recipe(config, data.images)
  state = start(recipe, jax.random.key(config.seed), jnp.asarray(data.images[:1]))
  return [epoch.nll for epoch in run_epochs(recipe, state, jnp.asarray(data.images),
                                            jnp.asarray(data.labels), last=epochs)]


def relative_difference(found: Sequence[float], wanted: Sequence[float]) -> float:
  """Returns the largest |found / wanted - 1|."""
  return float(np.abs(np.asarray(found) / np.asarray(wanted) - 1).max())
