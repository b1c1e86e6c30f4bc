"""Which members of a sweep make one program.

Nobody lists the fields that may vary. The step and the evaluation of every member are lowered, with
its state and its numbers as arguments: members whose programs are the same text, and whose states
have the same form, differ in nothing but these arguments. So strengths, temperatures and seeds
share a program because they live in the state, initial values because the step never reads them,
and what a method treats as structure splits the sweep without further ado.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from experiments import build
from experiments.data import Data, load
from experiments.sweeps.members import Member
from experiments.sweeps.numbers import numbers_of, with_numbers
from sparsejax.training import fit
from sparsejax.training.evaluate import jit_summary
from sparsejax.training.population import forms

# What the host reads while it trains; the members of one program agree in it.
HOST_FIELDS = ('dataset', 'training_examples', 'validation_examples', 'batch_size', 'epochs',
               'evaluate_every', 'checkpoint_every', 'sequence', 'task')
# Fields with a loop of their own on the host: such a member is run by itself.
ALONE = ('early_stopping', 'target')


def programs(members: Sequence[Member]) -> list[list[Member]]:
  """Returns the members by the program they share, in the order of their first members.

  Within a program members of one seed stand together.

  Raises:
    ValueError: for a config that does not hold together, with the name of the member.
  """
  groups: dict[Any, list[Member]] = {}
  known: dict[str, str] = {}
  data: dict[str, Data] = {}
  for member in members:
    try:
      key = _program(member.config, known, data)
    except ValueError as error:
      raise ValueError(f'member {member.name}: {error}') from error
    groups.setdefault((key, member.name) if runs_alone(member.config) else key, []).append(member)
  return [sorted(group, key=lambda member: member.config.seed) for group in groups.values()]


def runs_alone(config: ml_collections.ConfigDict) -> bool:
  """Returns whether training this config takes more than epochs of one program."""
  return any(config.get(field) for field in ALONE)


def _program(config: ml_collections.ConfigDict, known: dict[str, str],
             data: dict[str, Data]) -> str:
  """Returns a checksum that members share if they can be trained by one program."""
  build.require_whole(config)
  plain = config.to_dict()
  plain['seed'] = 0                  # a seed changes no program
  text = json.dumps(plain, sort_keys=True, default=str)
  if text not in known:
    host = json.dumps({field: plain.get(field) for field in HOST_FIELDS}, sort_keys=True)
    if host not in data:
      data[host] = load(config)
    known[text] = f'{host}{fingerprint(config, data[host])}'
  return known[text]


def fingerprint(config: ml_collections.ConfigDict, data: Data) -> str:
  """Returns a checksum of the step, the evaluation and the state of a config, hexadecimal."""
  recipe = build.recipe(config, data.images)
  numbers = numbers_of(config, recipe)
  steps = len(data.images) // config.batch_size

  def program(numbers, state, images, labels):
    own = with_numbers(config, recipe, steps, numbers)
    return fit.train_step(own, state, images, labels), jit_summary(own)(state, images, labels)

  images, labels = data.images[:config.batch_size], data.labels[:config.batch_size]
  state = jax.eval_shape(lambda key: fit.start(recipe, key, jnp.asarray(images[:1])),
                         jax.random.key(0))
  text = jax.jit(program).lower(numbers, state, images, labels).as_text()
  parts = [text, forms(state), recipe.sequential, recipe.ema_decay, len(data.images)]
  return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
