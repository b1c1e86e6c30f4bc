"""Strength by target: `config.target` in place of strengths tried by hand.

  config.target = {'density': 0.02}                    # of the weights of all kernels
  config.target = {'bytes': 20_000}                    # of the network's file, model.sjx
  config.target = {'validation_error_percent': 1.5}    # as few weights as that allows

Further fields: begin_epoch (0), ramp_epochs (0.4 of all), response_steps (a twentieth of the
training), landing_epochs (the last 0.4 of all), rules, the names of those whose strengths move (all
but weight decay), and steering (True; False: strengths stay as given until the landing). What moves
them is `sparsejax.targeted`. The density is that of the compact network. In the landing what stays
is chosen by rank; where a rule's method has no ranking (see `RANKINGS`) there is none, and the
strengths are steered to the end.

For bytes and error the density is set anew after each epoch:

* bytes: by the power law through the dense network and the present one, the file's header aside.
  Its exponent lies between 1 (each weight costs the same) and 2 (half of the units that are left
  hold a quarter of the weights); 2 before there is anything to learn it from, which is careful, and
  1 in the landing.
* error: after the ramp, down by 5 % where the error is below the target by a tenth and more, up by
  5 % for each tenth that it is above, at most by 25 %; in between it stays.
"""

from __future__ import annotations

import functools
import math
import pathlib
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import sparsejax
from experiments import build           # which imports this module in turn: used in calls only
from experiments.data import Data
from experiments.model_file import MODEL_FILE, with_packed
from experiments.names import near
from experiments.schedules import whole_steps
from sparsejax import codec, ranking
from sparsejax.codec import container
from sparsejax.compaction.compact import compact
from sparsejax.compaction.couplings import Coupling
from sparsejax.paths import Tree
from sparsejax.targeted import CONTROL, kernel_density
from sparsejax.training.evaluate import deployed_weights, jit_summary
from sparsejax.training.fit import Recipe, TrainState, deployed_collections, evaluation_params

KINDS = ('density', 'bytes', 'validation_error_percent')
OPTIONS = ('begin_epoch', 'ramp_epochs', 'landing_epochs', 'response_steps', 'rules', 'steering')
UNMOVED = ('weight_decay', 'dropout')
RAMP, LANDING = 0.4, 0.4  # of all epochs
RESPONSES = 20             # times that a response fits into the training
LOOKS = 20                 # in a response time
LEAST_DENSITY = 1e-4
LEARNT = 0.9               # below this density a network tells how its bytes follow it
ERROR_BAND, STEP, LARGEST_RISE = 0.1, 0.05, 0.25
FIRST_ERROR_DENSITY = 0.1  # the ramp's end, where the search for the error begins


# How the parameters of a method are ranked, given its fields in the config.
RANKINGS: dict[str, Callable[[Mapping[str, Any]], ranking.Ranking]] = {
    'l0_hard_concrete': lambda rule: ranking.gates(
        **{name: rule[name] for name in ('axis', 'tied', 'gamma', 'zeta') if name in rule}),
    'sparse_variational_dropout': lambda rule: ranking.variances(),
    'group_lasso': lambda rule: ranking.norms(rule.get('axis', -2)),
    'l1': lambda rule: ranking.magnitudes(),
    'bayesian_rnn': lambda rule: ranking.recurrent(
        **{name: rule[name] for name in ('groups', 'cells', 'embedding', 'head') if name in rule}),
}


class Target(NamedTuple):
  """What is to be met: one of `KINDS`, its value, and how the strengths get there (epochs)."""

  kind: str
  value: float
  begin_epoch: float
  ramp_epochs: float
  landing_epochs: float
  response_steps: float | None
  rules: tuple[str, ...]
  steering: bool


def read(config: ml_collections.ConfigDict) -> Target:
  """Returns the target of a config.

  Raises:
    ValueError: for no or several kinds, a field that is not known, a value out of range, a rule
      that is not there, has no strength, or whose strength follows a schedule.
  """
  fields = config.target.to_dict()
  for name in fields:
    if name not in (*KINDS, *OPTIONS):
      raise ValueError(f'config.target has no field {name!r}; {near(name, (*KINDS, *OPTIONS))}'
                       f'fields are {", ".join((*KINDS, *OPTIONS))}')
  given = [kind for kind in KINDS if kind in fields]
  if len(given) != 1:
    raise ValueError(f'config.target needs one of {", ".join(KINDS)}; it has '
                     f'{" and ".join(given) or "none"}')
  kind = given[0]
  value = fields[kind]
  most = {'density': 1.0, 'bytes': math.inf, 'validation_error_percent': 100.0}[kind]
  if not (isinstance(value, (int, float)) and 0 < value <= most and math.isfinite(value)):
    raise ValueError(f'config.target.{kind}={value!r} must be above 0'
                     + (f' and at most {most:g}' if math.isfinite(most) else ''))
  moved = tuple(fields.get('rules') or (name for name, rule in config.regulariser.items()
                                        if 'strength' in rule and rule.method not in UNMOVED))
  for name in moved:
    if name not in config.regulariser:
      raise ValueError(f'config.target.rules: {name!r} is no rule; '
                       f'{near(name, list(config.regulariser))}rules are '
                       f'{", ".join(config.regulariser)}')
    strength = config.regulariser[name].get('strength')
    if not isinstance(strength, (int, float)) or strength <= 0:
      raise ValueError(f'config.regulariser.{name}.strength={strength!r} must be a number above 0 '
                       'for config.target to move it: its order of magnitude')
  if not moved:
    raise ValueError('config.target finds no rule with a strength to move; rules are '
                     f'{", ".join(config.regulariser) or "none"}')
  if config.get('early_stopping'):
    raise ValueError('config.early_stopping keeps the epoch of the lowest validation NLL, which '
                     'may lie before config.target is met; leave one of the two out')
  landing = fields.get('landing_epochs', LANDING * config.epochs)
  if not 0 <= landing <= config.epochs:
    raise ValueError(f'config.target.landing_epochs={landing} must be from 0, for none, to '
                     f'config.epochs={config.epochs}')
  steering = fields.get('steering', True)
  if not isinstance(steering, bool):
    raise ValueError(f'config.target.steering={steering!r} must be True or False')
  return Target(kind, float(value), float(fields.get('begin_epoch', 0)),
                float(fields.get('ramp_epochs', RAMP * config.epochs)),
                float(landing),
                fields.get('response_steps'), moved, steering)


def steered(config: ml_collections.ConfigDict, regulariser: sparsejax.Regulariser,
            steps_per_epoch: int) -> sparsejax.Regulariser:
  """Returns the regulariser with strengths that move towards config.target."""
  target = read(config)
  landing = landing_of(config, target)
  if landing is None and not target.steering:
    raise ValueError('config.target.steering=False without a landing leaves nothing to do; '
                     f'landing_epochs must be above 0, and the method one of {", ".join(RANKINGS)}')

  def steps(name: str) -> int:
    return whole_steps(getattr(target, name), steps_per_epoch, f'config.target.{name}')
  response = target.response_steps or config.epochs * steps_per_epoch / RESPONSES
  first = {'density': target.value, 'bytes': 1.0,
           'validation_error_percent': FIRST_ERROR_DENSITY}[target.kind]
  return sparsejax.targeted(
      regulariser, first, begin_step=round(target.begin_epoch * steps_per_epoch),
      ramp_steps=steps('ramp_epochs'), response_steps=max(1, response),
      every=max(1, round(response / LOOKS)),
      strengths=f'({"|".join(map(re.escape, target.rules))})/(.*/)?strength',
      ranking=landing, steering=target.steering,
      landing_step=None if landing is None else round(landing_epoch(config) * steps_per_epoch),
      couplings=functools.partial(couplings_of, config))


def landing_of(config: ml_collections.ConfigDict, target: Target) -> ranking.Ranking | None:
  """Returns the ranking of the rules that are moved, or None where there is no landing."""
  methods = {name: config.regulariser[name].method for name in target.rules}
  if target.landing_epochs == 0 or not RANKINGS.keys() >= set(methods.values()):
    return None
  return ranking.of_rules({name: RANKINGS[method](config.regulariser[name].to_dict())
                           for name, method in methods.items()})


def landing_epoch(config: ml_collections.ConfigDict) -> float:
  """Returns after how many epochs the landing begins; all of them where there is none."""
  target = read(config)
  return config.epochs - (0 if landing_of(config, target) is None else target.landing_epochs)


def couplings_of(config: ml_collections.ConfigDict, weights: Tree) -> Sequence[Coupling]:
  """Returns the couplings of the config's model, for weights of which the shapes count."""
  return build.model(config.model).couplings({'params': weights}, None)


class Steering:
  """Sets the density that the controller steers to, after each epoch; for a density, nothing.

  Args:
    recipe, data: of the run. config: with a target.
  """

  def __init__(self, config: ml_collections.ConfigDict, recipe: Recipe, data: Data):
    self._target = read(config)
    self._recipe = recipe
    self._watched = jnp.asarray(data.watched_images), jnp.asarray(data.watched_labels)
    self._example_shape = (1, *data.images.shape[1:])
    self._summary = jit_summary(recipe._replace(mesh=None))
    if self._target.kind == 'validation_error_percent' and data.watched != 'validation':
      raise ValueError('config.target.validation_error_percent needs held-out examples; set '
                       'config.validation_examples above 0')

  def after(self, epoch: int, state: TrainState) -> TrainState:
    """Returns the state after `epoch` whole epochs with the density wanted from now on."""
    target = self._target
    if target.kind == 'density':
      return state
    if target.kind == 'bytes':
      now = float(kernel_density(deployed_weights(self._recipe, state)))
      landed = landing_in(state.method_state).get('landed', False)
      wanted = density_of_bytes(now, target.value, file_bytes(self._recipe, state,
                                                              self._example_shape), bool(landed))
    elif epoch < target.begin_epoch + target.ramp_epochs:
      return state
    else:
      error = float(self._summary(state, *self._watched)['error_percent'])
      wanted = next_density(float(state.method_state[CONTROL]['density']), error, target.value)
    wanted = min(max(wanted, LEAST_DENSITY), 1.0)
    control = {**state.method_state[CONTROL], 'density': jnp.asarray(wanted, jnp.float32)}
    return state._replace(method_state={**state.method_state, CONTROL: control})


def next_density(density: float, error: float, wanted: float) -> float:
  """Returns the density to steer to after an epoch whose error was `error`, both in percent."""
  above = error / wanted - 1
  if above <= -ERROR_BAND:
    return density * (1 - STEP)
  if above <= 0:
    return density
  return density * (1 + min(math.ceil(above / ERROR_BAND) * STEP, LARGEST_RISE))


class FileBytes(NamedTuple):
  """Bytes of a file, of its header, and of the dense network's weights in float32."""

  whole: int
  header: int
  dense: int


def density_of_bytes(now: float, wanted: float, size: FileBytes, landed: bool = False) -> float:
  """Returns the density at which a file is expected to have `wanted` bytes.

  Args:
    now: density of the present network, whose file is of that `size`.
    landed: whether the density is by now chosen, not steered to.
  """
  payload = max(size.whole - size.header, 1)
  exponent = 1.0 if landed else 2.0
  if now < LEARNT and not landed:
    exponent = min(max(math.log(payload / size.dense) / math.log(now), 1.0), 2.0)
  return now * (max(wanted - size.header, 1) / payload) ** (1 / exponent)


def file_bytes(recipe: Recipe, state: TrainState,
               example_shape: tuple[int, ...]) -> FileBytes:
  """Returns the size of the container that the compact network would be shipped in."""
  params = jax.device_get(evaluation_params(recipe, state))
  deployed = sparsejax.finalise(recipe.regulariser, params, jax.device_get(state.method_state))
  variables = {'params': sparsejax.densify(deployed),
               **jax.device_get(deployed_collections(state.collections))}
  compacted = compact(recipe.model, variables, example_shape=example_shape)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / MODEL_FILE
    whole = container.write(path, with_packed(compacted.variables, deployed),
                            model=compacted.model, facts={}, provenance={})
    return FileBytes(whole, container.Container(path).header_bytes,
                     codec.float32_bytes(variables))


def landing_in(method_state: Tree) -> Tree:
  """Returns the landing's part of the state, empty where there is no landing."""
  return method_state[CONTROL].get('landing', {})


def ledger_keys(config: ml_collections.ConfigDict, sheet: Mapping[str, Any],
                method_state: Tree) -> dict[str, Any]:
  """Returns the ledger's keys on how near a run came to its target, and how.

  Args:
    sheet: what was measured: weights_kept, weights_total, bytes_coded, validation_error_percent.
    method_state: at the end of the training.
  """
  target = read(config)
  reached = {'density': lambda: sheet['weights_kept'] / sheet['weights_total'],
             'bytes': lambda: float(sheet['bytes_coded']),
             'validation_error_percent': lambda: sheet['validation_error_percent']}[target.kind]()
  landing = landing_in(method_state)
  how = {} if not landing or not landing['landed'] else {
      'target_natural_density': float(landing['natural']),
      'target_weights_cut': int(landing['cut']),
      'target_weights_reopened': int(landing['reopened'])}
  return {'target': target.kind, 'target_value': target.value, 'target_reached': float(reached),
          'target_relative_difference': float(np.float64(reached) / target.value - 1), **how}
