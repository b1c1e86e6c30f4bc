"""An epoch in pieces is the epoch, and is looked at in between."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.training import fit, loop, pieces
from sparsejax.training.checkpoint import named_leaves
from tests.training import sequential_test


class Watch:
  """A clock that goes on by a minute whenever it is read, so that pieces are as short as can be."""

  def __init__(self):
    self.now = 0.0

  def __call__(self):
    self.now += 60.0
    return self.now


def assert_bits_equal(a, b):
  a, b = named_leaves(a), named_leaves(b)
  assert list(a) == list(b)
  for name in a:
    assert np.asarray(a[name]).tobytes() == np.asarray(b[name]).tobytes(), name


@pytest.fixture
def single_steps(monkeypatch):
  monkeypatch.setattr(pieces, '_STEPS_AT_ONCE', 1)


@pytest.fixture(scope='module')
def whole(tiny_data, tiny_recipe):
  """(recipe, data, start, [state after each of two epochs], [losses])."""
  recipe = tiny_recipe(ema_decay=0.9)
  data = tuple(map(jnp.asarray, tiny_data))
  start = jax.jit(lambda key, images: fit.start(recipe, key, images))(jax.random.key(0), data[0])
  epoch = fit.jit_epoch(recipe)
  first, first_losses = epoch(start, *data)
  second, losses = epoch(first, *data)
  return recipe, data, start, (first, second), (first_losses, losses)


def test_pieces_give_the_bits_of_the_whole_epoch(whole, single_steps):
  recipe, data, start, states, losses = whole
  seen = []
  run = pieces.Pieces(recipe, lambda state, found: seen.append((state, found)), clock=Watch())
  for before, after, wanted in zip((start, states[0]), states, losses, strict=True):
    state, found = run(before, *data)
    assert_bits_equal(state, after)
    np.testing.assert_array_equal(found, wanted)
  assert [(int(state.step), len(found)) for state, found in seen] == [
      (1, 1), (2, 2), (3, 3), (5, 1), (6, 2), (7, 3)]
  # From the middle of the second epoch, in another process so to speak.
  middle, taken = seen[4]
  state, found = pieces.Pieces(recipe, lambda *_: None, taken)(middle, *data)
  assert_bits_equal(state, states[1])
  np.testing.assert_array_equal(found, losses[1])


def test_a_recurrent_state_is_handed_on_from_piece_to_piece(single_steps):
  text = sequential_test.text.__wrapped__()
  recipe = sequential_test.recipe()
  state, _ = fit.jit_epoch(recipe)(sequential_test.started(recipe, text), *text)
  wanted, losses = fit.jit_epoch(recipe)(state, *text)
  middle = []
  run = pieces.Pieces(recipe, lambda *args: middle.append(args), clock=Watch())
  found, seen = run(state, *text)
  assert_bits_equal(found, wanted)
  np.testing.assert_array_equal(seen, losses)
  assert len(middle) == sequential_test.STEPS - 1


def test_quick_epochs_are_one_call_once_a_step_is_known(whole):
  recipe, data, start, states, _ = whole
  looks = []
  run = pieces.Pieces(recipe, lambda *args: looks.append(args), clock=lambda: 0.0)
  for before in (start, states[0]):
    run(before, *data)
  assert not looks                                    # 4 steps are taken at once


@pytest.mark.parametrize('steps, at_once', [(600, 15), (429, 13), (16, 16), (17, 1), (1, 1)])
def test_steps_taken_at_once_divide_an_epoch(steps, at_once):
  assert pieces.steps_at_once(steps) == at_once


def test_a_piece_that_is_not_finite_ends_the_epoch_and_is_not_looked_at(tiny_data, tiny_recipe,
                                                                        single_steps):
  images, labels = tiny_data
  images = images.astype(np.float32)
  recipe = tiny_recipe()
  state = fit.start(recipe, jax.random.key(0), jnp.asarray(images))
  order = np.asarray(fit.epoch_order(recipe, state, len(images)))
  images[order[2, 5]] = np.nan
  seen = []
  run = pieces.Pieces(recipe, lambda *args: seen.append(args), clock=Watch())
  data = jnp.asarray(images), jnp.asarray(labels)
  with pytest.raises(loop.NonFiniteLoss, match='epoch 1, step 2;'):
    list(loop.run_epochs(recipe, state, *data, last=1, run_epoch=run))
  assert [len(found) for _, found in seen] == [1, 2]
  # The same from inside the epoch: the step is still counted from its start.
  middle, losses = seen[-1]
  run = pieces.Pieces(recipe, pytest.fail, taken=losses, clock=Watch())
  with pytest.raises(loop.NonFiniteLoss, match='epoch 1, step 2;') as caught:
    list(loop.run_epochs(recipe, middle, *data, last=1, run_epoch=run, taken=2))
  assert caught.value.last_good is middle
