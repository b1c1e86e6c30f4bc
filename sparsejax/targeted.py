"""Strength by target: a controller inside the regulariser that moves strengths to meet a density.

The strength is the multiplier of the constraint that a fraction of the weights stays; here it is
moved while training goes on, as a dual variable is. Every few steps the density that would be
deployed now, d, is compared with a reference r, which falls from 1 to the target. (Early on d is
the density of the draw where that is smaller: gates are seen to close before they are shut.) With
h steps between two looks and T `response_steps`,

  error       = log d(t) + T * slope of log d - log r(t + T),
  log factor += error * h / T + error - error before,
  strength    = factor * strength given.

Closing is easier than opening: what is shut gets hardly a gradient that would open it. So the
factor starts low, the reference slows down as it nears the target, the slope is looked ahead, and
in the sum an error below 0 (too few weights) counts twice. The factor rises by no more than e^2 in
a time T and falls at most twice as fast, lest it swing between extremes.

No strength lands on a density by itself. With a `Ranking` the last part of the training is a
landing: what stays is chosen by the method's own scores, as much of it as the density allows, and
held while the rest of the training goes on without the strengths and without noise. What the
strengths had reached by themselves, and what was cut and reopened to land, is kept in the state.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax.compaction.couplings import Coupling
from sparsejax.compaction.unread import without_unread
from sparsejax.paths import Tree, flatten, map_leaves
from sparsejax.ranking import Ranking, chosen
from sparsejax.regulariser import Regulariser
from sparsejax.regulariser import finalise as deployed_weights
from sparsejax.structured import densify, is_structured

Array = jax.Array

CONTROL = 'control'          # the controller's part of the state, beside that of the method
FIRST_FACTOR = 0.03
RETREAT = 2.0
SMOOTHING = 0.9              # of the slope
RISE, FALL = 2.0, 4.0        # of the log of the factor in a response time, at most
LARGEST_FACTOR = 1e6
MARGIN = 1.02                # of the target, because what drifts at the end drifts downwards
AIM = 1.1                    # of the target, where a landing follows: cutting is the safer repair
SETTLING = 0.5               # of the ramp, after it: from then on only what is deployed counts
LEAST = 0.1                  # of the target: a density below it is taken for this


def targeted(regulariser: Regulariser, density: Any, *, ramp_steps: int, begin_step: int = 0,
             every: int = 25, response_steps: float = 500,
             strengths: str = r'(.*/)?strength', ranking: Ranking | None = None,
             landing_step: int | None = None, steering: bool = True,
             couplings: Callable[[Tree], Sequence[Coupling]] | None = None) -> Regulariser:
  """Returns the regulariser with strengths that are moved until the deployed density is met.

  Args:
    regulariser: a method, or a partition of methods, whose state holds strengths as numbers. Give
      them a sensible order of magnitude; their ratios are kept. A strength that follows a schedule
      does so no more.
    density: fraction of the entries of all kernels (leaves of two axes and more, those of no rule
      too) that are to be other than zero; a number or a traced array. It is kept in the state, as
      `control/density`, where it may be moved.
    begin_step, ramp_steps: the reference leaves 1 at the one, and reaches the target this many
      steps later. Leave about as many steps again for the weights to settle.
    every: steps between two looks at the density.
    response_steps: T above. A twentieth of the training, and no less than the steps a gate or a
      variance takes to answer; where it is too short, the factor overshoots.
    strengths: pattern of the paths in the state that are moved.
    ranking: of the method's parameters, see `ranking.py`. landing_step: the landing begins at the
      first look from this step on. Both or neither. If `control/density` is moved in the landing,
      the next look chooses again.
    steering: False leaves the strengths as they are until the landing.
    couplings: weights -> the model's couplings. What makes units that nobody reads is then deployed
      as zeros, as the compact network has it (packed weights are left as they are).

  State: that of `regulariser`, and `control` with density, base (the strengths given, by path with
  dots), now (log d), slope, error, log_factor and, with a ranking, landing: landed (bool), ranked
  (the density chosen for), mask (bools, as the scores), natural (the density before the landing),
  and the weights that were cut and reopened by choices, in sum.

  Raises:
    ValueError: for a density outside (0, 1], steps below 1, a ranking without its step, and from
      `init` if no strength matches or the state has an entry `control` already.
  """
  if isinstance(density, (int, float)) and not 0 < density <= 1:
    raise ValueError(f'density={density} must lie in (0, 1]: the fraction of weights that stay')
  for name, value in (('ramp_steps', ramp_steps), ('every', every),
                      ('response_steps', response_steps)):
    if value < 1:
      raise ValueError(f'{name}={value} must be at least 1')

  if (ranking is None) != (landing_step is None):
    raise ValueError(f'landing_step={landing_step} and a ranking go together; give both or neither')
  if not steering and ranking is None:
    raise ValueError('steering=False without a ranking leaves nothing to do; give a ranking and '
                     'its landing_step')

  def split(state):
    return {name: part for name, part in state.items() if name != CONTROL}, state[CONTROL]

  def moved(state, control):
    strengths = {path.replace('.', '/'): value for path, value in control['base'].items()}
    factor = jnp.exp(control['log_factor'])
    if ranking is not None:
      factor = jnp.where(control['landing']['landed'], 0.0, factor)
    return map_leaves(lambda path, leaf: strengths[path] * factor
                      if path in strengths else leaf, state)

  def held(params, state, control):
    """Returns the method's (params, state), once landed those of what was chosen."""
    if ranking is None:
      return params, state
    landing = control['landing']
    return jax.tree.map(lambda then, now: jnp.where(landing['landed'], then, now),
                        ranking.hold(params, state, landing['mask']), (params, state))

  def read(weights):
    """Zeros where nobody reads."""
    if couplings is None or any(map(is_structured, flatten(weights).values())):
      return weights
    return without_unread(weights, couplings(weights))

  def deployed(params, state, control):
    return read(regulariser.weights(*held(params, state, control)))

  def init(key, weights):
    params, state = regulariser.init(key, weights)
    if CONTROL in state:
      raise ValueError(f'the state of the method has an entry {CONTROL!r}, which is the '
                       "controller's; rename the rule, or wrap a method once")
    base = {path.replace('/', '.'): leaf for path, leaf in flatten(state).items()
            if re.fullmatch(strengths, path)}
    if not base:
      raise ValueError(f'no number in the state matches strengths={strengths!r}; it holds '
                       f'{", ".join(flatten(state)) or "nothing"}')
    control = {'density': jnp.asarray(density, jnp.float32), 'base': base, 'now': jnp.zeros(()),
               'slope': jnp.zeros(()), 'error': jnp.zeros(()),
               'log_factor': jnp.full((), math.log(FIRST_FACTOR) if steering else 0.0)}
    if ranking is not None:
      kept = jax.tree.map(lambda score: jnp.ones(score.shape, bool), ranking.scores(params, state))
      control['landing'] = {'mask': kept, 'landed': jnp.zeros((), bool), 'ranked': jnp.zeros(()),
                            'natural': jnp.ones(()), 'cut': jnp.zeros((), jnp.int32),
                            'reopened': jnp.zeros((), jnp.int32)}
    return params, {**moved(state, control), CONTROL: control}

  def weights(params, state, key=None):
    if key is None:
      return deployed(params, *split(state))
    return regulariser.weights(*held(params, *split(state)), key)

  def penalty(params, state, key=None):
    return regulariser.penalty(*held(params, *split(state)), key)

  def log_density(params, state, step, key, target):
    """The log of the density deployed; early in the ramp, that of the draw if it is smaller."""
    fixed = read(regulariser.weights(params, state))
    drawn = fixed if key is None else regulariser.weights(params, state, key)
    drawn = map_leaves(lambda path, draw, leaf: leaf if is_structured(draw) else draw, drawn,
                       fixed)
    now, soft = (jnp.log(jnp.maximum(kernel_density(weights), LEAST * target))
                 for weights in (fixed, read(drawn)))
    settled = jnp.clip((step - begin_step - ramp_steps) / (SETTLING * ramp_steps), 0.0, 1.0)
    return (1 - settled) * jnp.minimum(now, soft) + settled * now

  def look(params, state, control, step, key):
    """Returns the controller's state after a look at the density."""
    target, share = control['density'], every / response_steps
    now = log_density(params, state, step, key, target)
    slope = SMOOTHING * control['slope'] + (1 - SMOOTHING) * (now - control['now']) / every
    margin = MARGIN if ranking is None else AIM
    error = now + response_steps * slope - log_reference(step + response_steps, begin_step,
                                                         ramp_steps, target, margin)
    change = (jnp.where(error < 0, RETREAT, 1.0) * error * share
              + error - control['error'])
    factor = control['log_factor'] + jnp.clip(change, -FALL * share, RISE * share)
    bound = math.log(LARGEST_FACTOR)
    begun = step >= begin_step
    return {**control, 'now': now, 'slope': slope, 'error': jnp.where(begun, error, 0.0),
            'log_factor': jnp.where(begun, jnp.clip(factor, -bound, bound),
                                    control['log_factor'])}

  def update(params, state, *, step, weight_grads=None, key=None):
    inner, control = split(state)
    params, inner = regulariser.update(params, inner, step=step, weight_grads=weight_grads, key=key)
    due = step % every == 0
    if steering:
      looks = due if ranking is None else due & (step < landing_step)
      control = jax.lax.cond(looks, lambda control: look(params, inner, control, step, key),
                             lambda control: control, control)
    if ranking is not None:
      control = jax.lax.cond(due & (step >= landing_step),
                             lambda control: choose(params, inner, control),
                             lambda control: control, control)
    return params, {**moved(inner, control), CONTROL: control}

  def choose(params, state, control):
    """Returns the controller's state after a look in the landing."""
    # A condition of its own: of a population it is an array, for which both branches are computed.
    return jax.lax.cond(control['landing']['ranked'] != control['density'],
                        lambda control: {**control, 'landing': land(params, state, control)},
                        lambda control: control, control)

  def land(params, state, control):
    """Returns the landing after what stays was chosen for the density wanted now."""
    landing = control['landing']
    before = deployed(params, state, control)

    def left(kept):
      return read(regulariser.weights(*ranking.hold(params, state, kept)))
    kept = chosen(ranking.scores(params, state), lambda kept: kernel_density(left(kept)),
                  control['density'])
    after = left(kept)
    return {'mask': kept, 'landed': jnp.ones((), bool), 'ranked': control['density'],
            'natural': jnp.where(landing['landed'], landing['natural'], kernel_density(before)),
            'cut': landing['cut'] + lost(before, after),
            'reopened': landing['reopened'] + lost(after, before)}

  def finalise(params, state):
    weights = deployed_weights(regulariser, *held(params, *split(state)))
    return jax.device_get(read(weights))

  return Regulariser(init, weights, penalty, update, finalise, regulariser.needs_weight_grads)


def log_reference(step: Array | float, begin_step: int, ramp_steps: int,
                  density: Array | float, margin: float = MARGIN) -> Array:
  """Returns the log density wanted at a step: 0 before the ramp, log(margin * target) after it.

  In between it is the log of the end times x (2 - x), where x is the fraction of the ramp done.
  """
  return ramp_done(step, begin_step, ramp_steps) * jnp.log(jnp.minimum(margin * density, 1.0))


def ramp_done(step: Array | float, begin_step: int, ramp_steps: int) -> Array:
  """Returns x (2 - x) for the fraction x of the ramp that is done: quick first, then slower."""
  done = jnp.clip((step - begin_step) / ramp_steps, 0.0, 1.0)
  return done * (2 - done)


def kernel_density(weights: Tree) -> Array:
  """Returns the fraction of entries other than zero of all leaves of two axes and more, float32."""
  kernels = [leaf for leaf in jax.tree.leaves(densify(weights)) if leaf.ndim >= 2]
  kept = sum((jnp.sum(kernel != 0) for kernel in kernels), jnp.zeros((), jnp.int32))
  return kept / sum(kernel.size for kernel in kernels)


def lost(before: Tree, after: Tree) -> Array:
  """Returns how many entries of the kernels are other than zero before, and zero after, int32."""
  pairs = zip(jax.tree.leaves(densify(before)), jax.tree.leaves(densify(after)), strict=True)
  return sum((jnp.sum((a != 0) & (b == 0)) for a, b in pairs if a.ndim >= 2),
             jnp.zeros((), jnp.int32))
