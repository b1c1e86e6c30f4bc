"""Rows of the table of runs with a target: what was wanted, what was reached, and how."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
from rich.console import Console

from experiments.configs.frontier import steered_mlp
from experiments.evidence.code_hash import code_hash
from experiments.run import run
from sparsejax.codec import write_atomically

CONFIG = 'experiments/configs/frontier/steered_mlp.py'
NAMES = {'l0': 'L0 gates', 'vd': 'sparse VD', 'group_lasso': 'group lasso'}
LEDGER = ('weights_kept', 'weights_total', 'target_relative_difference', 'target_natural_density',
          'target_weights_cut', 'target_weights_reopened', 'validation_error_percent',
          'test_error_percent', 'bytes_coded', 'dataset', 'seed', 'epochs', 'wall_seconds',
          'device', 'jax_version', 'commit')


class Member(NamedTuple):
  """One run: a variant of the config, how many times fewer weights, and the config itself."""

  method: str
  compression: float
  config: ml_collections.ConfigDict


def members(methods: Sequence[str], compressions: Sequence[str], dataset: str,
            epochs: int | None) -> list[Member]:
  """Returns the runs, methods first.

  Raises:
    ValueError: for a method that the config does not have, or a compression that is no number
      above 1.
  """
  found = []
  for method in methods:
    for text in compressions:
      try:
        compression = float(text)
      except ValueError:
        compression = 0.0
      if compression <= 1:
        raise ValueError(f'--compressions has {text!r}, which is no number above 1')
      config = steered_mlp.get_config(method)
      config.dataset = dataset
      config.target.density = 1 / compression
      if dataset == 'digits':                    # 1,437 images to train and to watch
        config.validation_examples = 237
        config.batch_size = 50
      if epochs is not None:
        config.optimiser.learning_rate.epochs = (0.8 * epochs, epochs)
        config.epochs = epochs
      found.append(Member(method, compression, config))
  return found


def train(member: Member, workdir: str | pathlib.Path, console: Console) -> dict[str, Any]:
  """Returns the ledger of the run, which is trained if it has not ended yet."""
  folder = pathlib.Path(workdir) / f'{member.method}_{member.compression:g}x'
  return run(member.config, folder, f'{CONFIG}:{member.method}', console)


def row(member: Member, sheet: Mapping[str, Any]) -> dict[str, Any]:
  """Returns one row of the results; keys of the ledger that it lacks are empty."""
  return {'method': member.method, 'times_fewer_weights': member.compression,
          **{key: sheet.get(key, '') for key in LEDGER}, 'code_hash': code_hash(member.config)}


def write(rows: Sequence[Mapping[str, Any]], results: str | pathlib.Path,
          report: str | pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes steered.csv and steered.md; returns their paths."""
  text = io.StringIO()
  writer = csv.DictWriter(text, list(rows[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  paths = pathlib.Path(results) / 'steered.csv', pathlib.Path(report) / 'steered.md'
  for path, data in zip(paths, (text.getvalue(), document(rows)), strict=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data.encode())
  return paths


def document(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns the report: the table, and what its columns are."""
  first = rows[0]
  return f"""# Strength by target

The MLP 784-300-100 on {first['dataset']}, {first['epochs']} epochs, seed {first['seed']}.
Strengths are moved in training towards a density; for the last part of the training, the landing,
what stays is chosen by rank and held without strengths and noise (`sparsejax.targeted`). The config
says what was tuned. Weights are those of the compact network's kernels.

{table(rows)}

*Before the landing*: what the strengths had reached by themselves. *Cut*, *reopened*: the weights
that the choice by rank took away and gave back. The test set was read once, at the end of each run.
Computed on {first['device']}, JAX {first['jax_version']}.

Again: `python -m experiments.steered --workdir=out/steered`
"""


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns the table in Markdown."""
  lines = ['| method | target | reached | off by | before the landing | cut | reopened '
           '| validation error | test error | minutes |',
           '|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|']
  for line in rows:
    total, target = line['weights_total'], 1 / line['times_fewer_weights']
    natural = line['target_natural_density']
    before = '' if natural == '' else f'{100 * (natural / target - 1):+.1f} %'
    counts = ' | '.join('' if line[key] == '' else f'{line[key]:,}'
                        for key in ('target_weights_cut', 'target_weights_reopened'))
    lines.append(
        f'| {NAMES[line["method"]]} | {line["times_fewer_weights"]:g}x '
        f'| {total / line["weights_kept"]:.2f}x '
        f'| {100 * line["target_relative_difference"]:+.2f} % | {before} | {counts} '
        f'| {line["validation_error_percent"]:.2f} % | {line["test_error_percent"]:.2f} % '
        f'| {line["wall_seconds"] / 60:.1f} |')
  return '\n'.join(lines)
