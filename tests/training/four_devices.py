"""What data-parallel training computes on four virtual devices; run by `sharding_test.py`.

XLA fixes the number of devices at its start, so this is a process of its own, one for all cases. It
prints one JSON object with what it found.
"""
import functools
import json
import re
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

import sparsejax
from sparsejax.models.convnet import ConvNet
from sparsejax.models.lenet import MLP
from sparsejax.models.recurrent import RecurrentLanguageModel
from sparsejax.training import each_member, fit, population, sharding
from sparsejax.training.checkpoint import Checkpoints
from sparsejax.training.evaluate import jit_summary
from sparsejax.training.token_scores import jit_token_scores

# 52 and its quarter 13 are numbers that no other axis has; a text has 8 streams.
EXAMPLES, BATCH, STREAMS = 60, 52, 8
COLLECTIVES = re.compile(
    r' (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(')


def mesh_of(devices):
  return Mesh(np.array(jax.devices()[:devices]), (sharding.AXIS,)) if devices > 1 else None


@functools.cache
def recipes():
  """{name: (recipe, inputs, targets)}"""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 255, (EXAMPLES, 4, 4, 1)).astype(np.uint8)
  labels = rng.integers(0, 4, EXAMPLES).astype(np.int32)
  words = rng.integers(0, 6, (5 * STREAMS, 4)).astype(np.uint8)
  after = rng.integers(0, 6, (5 * STREAMS, 4)).astype(np.int32)
  example = sparsejax.l0_hard_concrete(0.05, drop_rate=0.3, per='example')
  gates = sparsejax.l0_hard_concrete(0.05, drop_rate=0.3)
  local = sparsejax.sparse_variational_dropout(1.0, noise='local', init_log_sigma2=-3.0)
  per_weight = sparsejax.sparse_variational_dropout(1.0, noise='weight', init_log_sigma2=-3.0)
  common = {'num_terms': EXAMPLES, 'batch_size': BATCH}
  every_noise = sparsejax.partition(
      folded=('dense0/kernel', gates), gated=('dense1/kernel', example),
      drawn=('dense2/kernel', per_weight), dropped=('dense3/kernel', sparsejax.dropout(0.3)),
      local=('head/kernel', local))
  rows = sparsejax.partition(all=('conv.*kernel', gates))
  recurrent = sparsejax.partition(head=('head/kernel', local),
                                  cell=('cell0/.*kernel', per_weight))
  return {
      'mlp': (fit.Recipe(MLP(widths=(8, 8, 8, 8), classes=4), every_noise, optax.adam(1e-2),
                         ema_decay=0.9, **common), images, labels),
      'batch norm': (fit.Recipe(ConvNet(widths=(3,), classes=4, pool_after=(),
                                        conv_bias=False), rows, optax.sgd(0.1),
                                train_kwargs={'train': True}, eval_kwargs={'train': False},
                                **common), images, labels),
      'sequential': (fit.Recipe(RecurrentLanguageModel(6, widths=(4,), carried=True), recurrent,
                                optax.sgd(0.1), preprocess=fit.as_tokens,
                                loss=fit.token_cross_entropy, sequential=True, num_terms=160,
                                batch_size=STREAMS),
                     words, after),
  }


def arrays(state):
  raw = state._replace(key=jax.random.key_data(state.key))
  return [np.asarray(leaf) for leaf in jax.tree.leaves(raw)]


def distance(found, wanted):
  """The largest difference of two lists of arrays, relative to the largest entry of each array."""
  worst = 0.0
  for a, b in zip(found, wanted, strict=True):
    assert a.dtype == b.dtype and a.shape == b.shape
    a, b = a.astype(np.float64), b.astype(np.float64)
    worst = max(worst, float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-12)))
  return worst


def same(found, wanted):
  return all(a.tobytes() == b.tobytes() for a, b in zip(found, wanted, strict=True))


def on(recipe, devices, state, *data):
  """Returns (recipe, state, *data) for that many devices."""
  mesh = mesh_of(devices)
  return (recipe._replace(mesh=mesh), sharding.place_state(mesh, state, rows=(fit.CARRY,)),
          *(sharding.place(mesh, array) for array in data))


@functools.cache
def started(name):
  recipe, inputs, _ = recipes()[name]
  return jax.jit(lambda key: fit.start(recipe, key, inputs[:1]))(jax.random.key(0))


def steps(found):
  """One step on 4 devices against one, and checkpoints of it from number to number of devices."""
  for name, (recipe, inputs, targets) in recipes().items():
    state = started(name)
    for devices in (1, 4):
      here, placed, x, y = on(recipe, devices, state, inputs, targets)
      compiled = jax.jit(lambda state, x, y: fit.train_steps(here, state, x, y, 1)).lower(
          placed, x, y).compile()
      after, losses = compiled(placed, x, y)
      if devices == 1:
        one, one_loss = after, losses
        continue
      if name == 'mlp':
        program(found, compiled.as_text())
      assert len(losses.sharding.device_set) == devices
      found[name] = distance(
          [*arrays(after), np.asarray(losses)], [*arrays(one), np.asarray(one_loss)])
      assert {leaf.sharding.is_fully_replicated
              for leaf in jax.tree.leaves(after.params)} == {True}
      if name == 'sequential':
        found['carry'] = [leaf.addressable_shards[0].data.shape
                          for leaf in jax.tree.leaves(after.collections[fit.CARRY])]
      ways, there = [], after
      for before, behind in ((4, 2), (2, 1), (1, 4)):
        restored = checkpointed(mesh_of(before), there, state)
        assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(restored))
        there = sharding.place_state(mesh_of(behind), restored, rows=(fit.CARRY,))
        assert len(there.step.devices()) == behind
        ways.append(same(arrays(there), arrays(after)))
      found[f'{name} restored'] = ways


def checkpointed(mesh, state, like):
  """Returns the state, written to a checkpoint and read on one device."""
  with tempfile.TemporaryDirectory() as folder:
    checkpoints = Checkpoints(folder)
    checkpoints.save(3, sharding.gather_state(mesh, state))
    number, restored = checkpoints.restore(like)
    checkpoints.close()
  assert number == 3
  return restored


def in_float64(found):
  """100 steps in float64 on 4 devices against one."""
  with jax.enable_x64(True):
    recipe, inputs, targets = recipes()['mlp']
    # Variational dropout computes its variances in float32 whatever the weights are.
    recipe = recipe._replace(model=MLP(widths=(8, 8), classes=4), regulariser=sparsejax.partition(
        folded=('dense0/kernel', sparsejax.l0_hard_concrete(0.05, drop_rate=0.3)),
        gated=('dense1/kernel', sparsejax.l0_hard_concrete(0.05, per='example')),
        dropped=('head/kernel', sparsejax.dropout(0.3))))
    state = fit.start(recipe, jax.random.key(0), inputs[:1])
    state = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
        state)
    ends = []
    for devices in (1, 4):
      here, placed, x, y = on(recipe, devices, state, inputs, targets)
      epoch = fit.jit_epoch(here)
      for _ in range(100):
        placed, _ = epoch(placed, x, y)
      assert int(placed.step) == 100
      ends.append(arrays(placed))
    found['float64'] = distance(ends[1], ends[0])
    found['float64 moved'] = distance(arrays(state)[:4], ends[0][:4])
    found['dtypes'] = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(placed.params)})


class Noise(nn.Module):
  """Layers on inputs of ones, whose outputs are what was drawn, without a sum of several terms."""

  @nn.compact
  def __call__(self, x):
    ones = jnp.ones((x.shape[0], 1))
    layers = [nn.Dense(16, use_bias=False, name=name)(ones)
              for name in ('gated', 'folded', 'local', 'drawn', 'dropped')]
    # The position of an example comes from the whole batch, so that no device may draw for its own.
    return jnp.concatenate([*layers, nn.Dropout(0.5, deterministic=False)(ones + 0 * x)], axis=1)


def draws(found):
  """What layers draw in a batch that is split as the training step splits it."""
  vd = sparsejax.sparse_variational_dropout
  regulariser = sparsejax.partition(
      gated=('gated/.*', sparsejax.l0_hard_concrete(0.1, axis=-1, per='example')),
      folded=('folded/.*', sparsejax.l0_hard_concrete(0.1, axis=-1)),
      local=('local/.*', vd(0.1, noise='local', init_log_sigma2=-2.0)),
      drawn=('drawn/.*', vd(0.1, noise='weight', init_log_sigma2=-2.0)),
      dropped=('dropped/.*', sparsejax.dropout(0.5, axis=-1)))
  weights = {name: {'kernel': jnp.full((1, 16), 0.0 if name in ('local', 'drawn') else 1.0)}
             for name in ('gated', 'folded', 'local', 'drawn', 'dropped')}
  params, method_state = regulariser.init(jax.random.key(1), weights)

  def draw(mesh, key, x):
    x = sharding.split(mesh, x)
    drawn = regulariser.weights(params, method_state, key)
    return sparsejax.apply(Noise(), {'params': drawn}, x, rngs={'noise': key, 'dropout': key})
  ends = {}
  for devices in (1, 2, 4):
    mesh = mesh_of(devices)
    key = jax.random.fold_in(jax.random.key(2), 3)
    outputs = jax.jit(lambda key, x: draw(mesh, key, x))(key, sharding.place(mesh, np.ones((8, 1))))
    ends[devices] = np.asarray(outputs)
    found[f'draws {devices}'] = ends[devices].tobytes() == ends[1].tobytes()
  parts = np.split(ends[1], [16, 32, 48, 64, 80], axis=1)
  found['rows drawn'] = [len(np.unique(part, axis=0)) for part in parts]


def program(found, text):
  """The compiled steps: what a device computes of the batch, and what is sent."""
  shapes = [tuple(map(int, shape.split(','))) for shape in re.findall(r'f32\[([\d,]+)\]', text)]
  found['batches'] = sum(BATCH in shape for shape in shapes)
  found['parts'] = sum(BATCH // 4 in shape for shape in shapes)
  found['images'] = re.findall(r'u8\[([\d,]+)\]\S* gather\(', text)
  found['sent'] = sorted(set(COLLECTIVES.findall(text)))


def evaluation(found):
  """The deployed network on images that the devices cannot share alike, and a text."""
  for name in ('mlp', 'sequential'):
    recipe, inputs, targets = recipes()[name]
    if name == 'mlp':
      inputs, targets = np.tile(inputs, (9, 1, 1, 1))[:-1], np.tile(targets, 9)[:-1]
    state = started(name)
    ends = []
    for devices in (1, 4):
      here, placed, x, y = on(recipe, devices, state, inputs, targets)
      if name == 'mlp':
        numbers = jit_summary(here)(placed, x, y)
      else:
        numbers = jit_token_scores(here)(
            {'params': recipe.regulariser.weights(placed.params, placed.method_state)}, x, y)
      leaves = jax.tree.leaves(numbers)
      assert {leaf.sharding.is_fully_replicated for leaf in leaves} == {True}
      ends.append([np.asarray(leaf) for leaf in leaves])
    found[f'evaluation {name}'] = distance(ends[1], ends[0])


def members(found):
  """Populations shared out over devices, evenly or not, against each member alone."""
  _, images, labels = recipes()['mlp']

  def build(rate):
    return fit.Recipe(MLP(widths=(5,), classes=4), sparsejax.partition(), optax.sgd(rate),
                      num_terms=EXAMPLES, batch_size=20)
  start = jax.jit(lambda key: fit.start(build(0.1), key, images[:1]))
  states = [start(jax.random.key(seed)) for seed in range(4)]
  alone = fit.jit_epoch(build(0.1))
  wanted = [alone(alone(state, images, labels)[0], images, labels)[0] for state in states]
  for devices, count in ((4, 4), (2, 3)):
    mesh = mesh_of(devices)
    rates = jnp.full(count, 0.1).at[3:].set(jnp.inf)               # a fourth one diverges
    placed = each_member.place_states(mesh, population.stack(states[:count]))
    numbers = each_member.place_members(mesh, rates)
    data = sharding.place(mesh, images), sharding.place(mesh, labels)
    _, epoch = population.fitting(build, numbers, placed, *data, mesh=mesh)
    first, second = population.run_epochs(build, numbers, placed, *data, last=2, epoch=epoch,
                                          mesh=mesh)
    ends = each_member.gather(mesh, second.states)
    found[f'members {count}'] = {
        'distance': max(distance(arrays(population.member(ends, index)), arrays(wanted[index]))
                        for index in range(3)),
        'diverged': [[error.step, len(error.last_good.step.devices()), same(
            arrays(error.last_good), arrays(population.member(ends, index)._replace(
                step=states[0].step)))] for index, error in first.diverged.items()],
        'part': len(jax.tree.leaves(second.states.params)[0].addressable_shards[0].data),
        'sent': sorted(set(COLLECTIVES.findall(epoch.as_text())))}


def main():
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  jax.config.update('jax_disable_most_optimizations', True)
  assert len(jax.devices()) == 4, jax.devices()
  found = {}
  for case in (draws, steps, in_float64, evaluation, members):
    case(found)
  print(json.dumps(found))


if __name__ == '__main__':
  sys.exit(main())
