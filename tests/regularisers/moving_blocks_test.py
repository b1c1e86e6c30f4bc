"""Moving blocks against plain loops over blocks by place, and in the trainer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.models.lenet import MLP
from sparsejax.training import fit

KEY = jax.random.key(0)
RNG = np.random.default_rng(11)
METHODS = {
    'set': lambda **options: sparsejax.block_set((2, 3), 0.5, fraction=0.4, **options),
    'rigl': lambda **options: sparsejax.block_rigl((2, 3), 0.5, fraction=0.8,
                                                   **{'end': 9, **options}),
}


def blocks_of(method, params, state):
  """Returns {(row, column): block} of what layers see."""
  box = method.weights(params, state)['w']
  return {(int(r), int(c)): np.asarray(block)
          for r, c, block in zip(box.layout.row, box.layout.col, box.blocks)}


def survivors(blocks, moved):
  """The places left when the least go, but for the largest of each column."""
  norms = {place: np.linalg.norm(block) for place, block in blocks.items()}
  safe = {max((place for place in blocks if place[1] == column), key=norms.get)
          for column in {place[1] for place in blocks}}
  dropped = sorted(blocks.keys() - safe, key=norms.get)[:moved]
  return blocks.keys() - set(dropped)


def gradients_with(method, params, state, scores):
  """What the trainer passes on: gradients with respect to the drawn weights."""
  drawn = method.weights(params, state, KEY)['w']
  zeros = jax.tree.map(jnp.zeros_like, drawn)
  return {'w': zeros.replace(probe=zeros.probe._replace(scores=jnp.asarray(scores)))}


@pytest.mark.parametrize('name', METHODS)
def test_updates_are_those_of_a_loop_over_blocks(name):
  method = METHODS[name](every=2)
  params, state = method.init(KEY, {'w': jnp.ones((12, 12))})       # 12 of 6 x 4 blocks
  update, changes = jax.jit(method.update), 0
  for step in range(8):
    params = {'w': RNG.normal(size=(12, 2, 3)).astype(np.float32)}
    before = blocks_of(method, params, state)
    scores = RNG.uniform(size=(6, 4)).astype(np.float32)
    options = ({'weight_grads': gradients_with(method, params, state, scores)} if name == 'rigl'
               else {'key': jax.random.key(step)})
    assert bool(state['due']) == (step % 2 == 1)
    params, state = update(params, state, step=jnp.int32(step), **options)
    after = blocks_of(method, params, state)
    if step % 2 == 0:
      assert before.keys() == after.keys()
      continue
    share = 0.4 if name == 'set' else 0.4 * (1 + np.cos(np.pi * (step + 1) / 9))
    moved = min(round(12 * share), 8)
    stay = survivors(before, moved)
    places = {(r, c) for r in range(6) for c in range(4)}
    assert stay <= after.keys() and len(after) == 12
    if name == 'rigl':
      grown = sorted(places - stay, key=lambda place: -scores[place])[:moved]
      assert after.keys() == stay | set(grown)
      kept = before.keys() & after.keys()       # what comes back at once never left
    else:
      assert not (after.keys() - stay) & before.keys()
      kept = stay
    for place, block in after.items():
      np.testing.assert_array_equal(block, before[place] if place in kept else 0)
    changes += len(after.keys() - before.keys())
  assert changes >= 6


@pytest.mark.parametrize('name', METHODS)
def test_every_output_keeps_a_block_and_the_places_stay_a_permutation(name):
  method = METHODS[name](every=1, **({'end': 99} if name == 'rigl' else {}))
  params, state = method.init(KEY, {'w': jnp.ones((12, 12))})
  update = jax.jit(method.update)
  for step in range(20):
    # Most columns are weak: without care they would lose all their blocks to the strong ones.
    params = jax.tree.map(lambda w: RNG.normal(size=w.shape).astype(np.float32) ** 9, params)
    scores = np.repeat([[9.0, 0, 0, 0]], 6, axis=0).astype(np.float32)
    options = ({'weight_grads': gradients_with(method, params, state, scores)} if name == 'rigl'
               else {'key': jax.random.key(step)})
    params, state = update(params, state, step=step, **options)
    layout = state['layout']['w']
    assert set(np.asarray(layout['col'])) == set(range(4)) and np.all(layout['live'])
    assert sorted(np.asarray(layout['slot'])) == list(range(12))
    sparsejax.BlockSparse.from_blocks(params['w'], layout['row'], layout['col'], (12, 12))


@pytest.mark.slow
def test_every_free_place_is_as_likely_to_grow():
  method = sparsejax.block_set(2, 0.5, fraction=0.25, every=1)
  params, state = method.init(KEY, {'w': jnp.ones((8, 8))})           # 8 of 16, 2 move
  free = ~np.asarray(method.weights(params, state)['w'].mask())

  def grown(key):
    return method.weights(*method.update(params, state, step=0, key=key))['w'].mask()
  masks = np.asarray(jax.jit(jax.vmap(grown))(jax.random.split(jax.random.key(2), 1000)))
  # Binomial(1000, 2 / 8) / 1000 each; five standard deviations.
  assert np.abs(masks.mean(0)[free] - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 1000)


def test_moments_of_a_living_block_stay_its_own():
  # Momentum alone moves the blocks here: whoever lived through an update goes on as before.
  method = sparsejax.block_set(2, 0.5, fraction=0.5, every=1)
  params, state = method.init(KEY, {'w': RNG.normal(size=(8, 8)).astype(np.float32)})
  velocity = {'w': RNG.normal(size=(8, 2, 2)).astype(np.float32)}
  before, speeds = blocks_of(method, params, state), blocks_of(method, velocity, state)
  params, state = method.update(params, state, step=0, key=jax.random.key(1))
  after = blocks_of(method, jax.tree.map(jnp.add, params, velocity), state)
  lived = [place for place in after if place in before]
  assert 4 <= len(lived) < 8
  for place in lived:
    np.testing.assert_allclose(after[place], before[place] + speeds[place], rtol=1e-6)


@pytest.mark.slow
def test_rigl_finds_the_inputs_that_matter_in_the_trainer():
  # Only the first 4 of 32 pixels tell the class; of the 8 blocks of 4 pixels, 2 are stored. Without
  # centring, the gradient of every pixel would be that of the bias.
  rng = np.random.default_rng(1)
  images = rng.integers(0, 256, (240, 4, 8, 1)).astype(np.uint8)
  informative = images.reshape(240, -1)[:, :4].astype(np.float64) @ np.array([1, -1, 1, -1])
  labels = (informative > 0).astype(np.int32)
  rule = sparsejax.block_rigl((4, 2), 0.25, fraction=0.9, every=3, end=60)
  method = sparsejax.partition(kernel=('head/kernel', rule))
  recipe = fit.Recipe(MLP((), 2), method, optax.adam(0.02), 240, 120,
                      preprocess=fit.Preprocess(mean=127.5))

  def rows(state):
    return np.asarray(state.method_state['kernel']['layout']['head']['kernel']['row'])
  epoch, missing = fit.jit_epoch(recipe), 0
  for seed in range(4):
    state = fit.start(recipe, jax.random.key(seed), images)
    missing += 0 not in rows(state)
    for _ in range(30):
      state, losses = epoch(state, jnp.asarray(images), jnp.asarray(labels))
    assert np.all(np.isfinite(losses))
    assert 0 in rows(state) and rows(state).size == 2
  assert missing >= 1       # by lot, 3 of 4 starts are without it
  deployed = sparsejax.finalise(method, state.params, state.method_state)
  assert (deployed['head']['kernel'] != 0).sum() <= 16


def test_updates_without_what_they_need_are_refused():
  for method, message in (
      (sparsejax.block_set(2, 0.5, every=1), 'block_set grows blocks at random; give update the k'),
      (sparsejax.block_rigl(2, 0.5, every=1, end=9), 'block_rigl grows blocks by their gradients')):
    params, state = method.init(KEY, {'w': jnp.ones((4, 4))})
    with pytest.raises(ValueError, match=message):
      method.update(params, state, step=0)


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize('options, message', [
    ({'every': 0}, 'every=0 and end=9 must be at least 1'),
    ({'every': 1, 'layout': 'given'}, "layout='given' is not 'random' or 'magnitude', with which")])
def test_options_that_make_no_sense_are_refused(name, options, message):
  with pytest.raises(ValueError, match=message):
    METHODS[name](**{'end': 9, **options})
