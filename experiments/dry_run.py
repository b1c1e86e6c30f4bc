"""What a run would be, told without running it: config, rules and leaves, sizes, memory, time."""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import sparsejax
from experiments import run
from experiments.mesh import ONE, Devices
from experiments.workdir import config_text
from sparsejax.ledger.count import count_layers, parameters, totals
from sparsejax.paths import flatten
from sparsejax.regulariser import owners
from sparsejax.training.fit import Recipe, TrainState, deployed_collections, train_steps

TIMED_STEPS, WARM_CALLS = 20, 2


def dry_run(config: ml_collections.ConfigDict, console: Console, devices: Devices = ONE) -> None:
  """Prints what a run of this config would be; a few steps are taken on the side and forgotten.

  Args:
    devices: to train on, all of this process.

  Raises:
    ValueError: for whatever the run itself would refuse before its first step.
  """
  data, recipe, state = run.begin(config)
  weights = recipe.regulariser.weights(state.params, state.method_state)
  console.print(config_text(config), highlight=False, markup=False, end='')
  console.print(leaves_table(config, weights))
  for line in (*size_lines(recipe, state, weights, data.images),
               *cost_lines(config, recipe, state, data.images, data.labels, devices)):
    console.print(line, highlight=False, soft_wrap=True)
  console.print('Nothing was trained and nothing written.', highlight=False)


def leaves_table(config: ml_collections.ConfigDict, weights: Any) -> Table:
  """Returns a table: each leaf of the model, its shape, entries, rule and method."""
  flat = flatten(weights)
  rules = {name: rule['leaves'] for name, rule in config.regulariser.items()}
  owner = owners(list(flat), rules)
  table = Table(title='Leaves and the rules that own them', title_justify='left')
  for column in ('leaf', 'shape', 'entries', 'rule', 'method'):
    table.add_column(column, justify='right' if column == 'entries' else 'left')
  for path, leaf in flat.items():
    rule = owner[path]
    method = config.regulariser[rule].method if rule in config.regulariser else 'plain training'
    table.add_row(escape(path), ' x '.join(map(str, leaf.shape)) or 'number',
                  f'{math.prod(leaf.shape):,}', escape(rule), escape(method))
  return table


def size_lines(recipe: Recipe, state: TrainState, weights: Any, images: np.ndarray) -> list[str]:
  """Returns lines on parameters and on the operations of one example, all weights dense."""
  dense = jax.device_get(sparsejax.densify(weights))
  variables = {'params': dense, **jax.device_get(deployed_collections(state.collections))}
  sums = totals(count_layers(recipe.model, variables, recipe.preprocess(jnp.asarray(images[:1])),
                             apply_kwargs=recipe.eval_kwargs))
  entries = parameters(dense)
  trained = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  return [f'Parameters of the network: {entries:,} (of which {sums["weights_total"]:,} weights of '
          f'linear layers), {4 * entries:,} bytes of float32; trained by the optimiser: '
          f'{trained:,}',
          f'Operations of one example, dense: {sums["flops"]:,} flops']


def cost_lines(config: ml_collections.ConfigDict, recipe: Recipe, state: TrainState,
               images: np.ndarray, labels: np.ndarray, devices: Devices = ONE) -> list[str]:
  """Returns lines on memory, of the compiled program, and on time, of a few steps of it."""
  recipe, state = recipe._replace(mesh=devices.mesh), devices.place_state(state)
  steps = len(images) // recipe.batch_size
  count = min(TIMED_STEPS, steps)
  arrays = devices.place(images), devices.place(labels)
  program = jax.jit(functools.partial(train_steps, recipe), static_argnames='count')
  started = time.perf_counter()
  compiled = program.lower(state, *arrays, count=count).compile()
  compilation = time.perf_counter() - started
  memory = compiled.memory_analysis()
  spent = math.inf
  for _ in range(WARM_CALLS):
    started = time.perf_counter()
    jax.block_until_ready(compiled(state, *arrays))
    spent = min(spent, time.perf_counter() - started)
  each = spent / count
  whole = each * steps * config.epochs
  lines = [f'{len(images):,} training examples, {steps:,} steps an epoch, {config.epochs:,} epochs']
  if memory is not None:
    total = (memory.argument_size_in_bytes + memory.output_size_in_bytes
             + memory.temp_size_in_bytes)
    where = 'Memory' if devices.mesh is None else f'Memory on each of {devices.mesh.size} devices'
    lines.append(f'{where} of the training program: {total / 2**20:,.0f} MiB (data and state '
                 f'{memory.argument_size_in_bytes / 2**20:,.0f}, new state '
                 f'{memory.output_size_in_bytes / 2**20:,.0f}, scratch '
                 f'{memory.temp_size_in_bytes / 2**20:,.0f})')
  lines.append(f'Time: {1e3 * each:.2f} ms a step (of {count} steps on {_named(devices)}), so '
               f'{_duration(whole)} of training after {compilation:.0f} s of compilation; '
               'evaluation and files come on top')
  return lines


def _named(devices: Devices) -> str:
  if devices.mesh is None:
    return str(jax.devices()[0])
  return f'{devices.mesh.size} devices, {", ".join(map(str, devices.mesh.devices.flat))}'


def _duration(seconds: float) -> str:
  if seconds < 120:
    return f'{seconds:.0f} s'
  if seconds < 7200:
    return f'{seconds / 60:.0f} min'
  return f'{seconds / 3600:.1f} h'
