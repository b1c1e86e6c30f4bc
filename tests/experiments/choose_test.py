"""A threshold is chosen on validation data by the stated rule, and only where there is any."""

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

import sparsejax
from experiments.choose import choose, require_number
from sparsejax.models import MLP
from sparsejax.paths import flatten
from sparsejax.training.fit import Recipe, start

VALUES = (0.0, 0.05, 0.1, 0.15, 0.2, 1.0)


@pytest.fixture(scope='module')
def trained():
  """(recipe, state, images, labels): a linear network, its input norms unlike, its own labels."""
  model = MLP(widths=(), classes=3)
  regulariser = sparsejax.partition(groups=('head/kernel', sparsejax.group_lasso(0.1)))
  recipe = Recipe(model, regulariser, optax.sgd(0.1), num_terms=200, batch_size=10,
                  preprocess=lambda images: images.astype(jnp.float32) / 255)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (200, 3, 4, 1), dtype=np.uint8)
  state = start(recipe, jax.random.key(0), jnp.asarray(images))
  kernel = rng.normal(size=(12, 3)) * np.geomspace(0.01, 1, 12)[:, None]
  state.params['groups']['head']['kernel'] = jnp.asarray(kernel, jnp.float32)
  labels = (images.reshape(200, -1) @ kernel).argmax(1)
  return recipe, state, images, labels


def numpy_candidate(state, images, labels, threshold):
  """(error in percent, weights kept) with the rows above the threshold, in NumPy."""
  kernel = np.asarray(state.params['groups']['head']['kernel'], np.float64)
  rows = np.sqrt((kernel**2).mean(1)) >= threshold
  logits = images.reshape(len(images), -1) / 255 @ (kernel * rows[:, None])
  return 100 * (logits.argmax(1) != labels).mean(), 3 * rows.sum()


def config(slack, number='threshold', rule='groups'):
  return ml_collections.ConfigDict(
      {'rule': rule, 'number': number, 'values': VALUES, 'slack_percent': slack})


@pytest.mark.parametrize('slack', [0.0, 5.0, 100.0])
def test_the_fewest_weights_within_the_slack_are_taken(trained, slack):
  recipe, state, images, labels = trained
  chosen, words, candidates = choose(config(slack), recipe, state, jnp.asarray(images),
                                     jnp.asarray(labels))
  wanted = [numpy_candidate(state, images, labels, value) for value in VALUES]
  for candidate, (error, kept) in zip(candidates, wanted, strict=True):
    # One image of 200 may tie in float32 where it does not in float64.
    assert abs(candidate.error_percent - error) <= 0.5 + 1e-4
    assert candidate.weights_kept == kept
  lowest = min(error for error, _ in wanted)
  within = [i for i, (error, _) in enumerate(wanted) if error <= lowest + slack + 1e-9]
  best = VALUES[min(within, key=lambda i: wanted[i][1])]
  assert float(chosen.method_state['groups']['threshold']) == pytest.approx(best)
  assert f'groups.threshold = {best:g} of 0, 0.05' in words
  # Nothing else changes, and the state given stays as it was.
  assert float(chosen.method_state['groups']['strength']) == pytest.approx(0.1)
  assert float(state.method_state['groups']['threshold']) == pytest.approx(1e-3)


def test_a_number_of_a_method_inside_another_is_named_by_its_path(trained):
  recipe, state, images, labels = trained
  rule = sparsejax.chain(sparsejax.l1(0.0), sparsejax.group_lasso(0.1))
  inside = recipe._replace(regulariser=sparsejax.partition(groups=('head/kernel', rule)))
  nested = start(inside, jax.random.key(0), jnp.asarray(images))
  nested.params['groups']['head']['kernel'] = state.params['groups']['head']['kernel']
  paths = [path for path in flatten(nested.method_state) if path.endswith('threshold')]
  number = paths[0].removeprefix('groups/')
  assert len(paths) == 1 and '/' in number
  require_number(config(5.0, number=number), nested, validation_set=True)
  chosen, words, candidates = choose(config(5.0, number=number), inside, nested,
                                     jnp.asarray(images), jnp.asarray(labels))
  plain, _, wanted = choose(config(5.0), recipe, state, jnp.asarray(images), jnp.asarray(labels))
  assert candidates == wanted and f'groups.{number} = ' in words
  expected = {**flatten(nested.method_state), paths[0]: plain.method_state['groups']['threshold']}
  chex.assert_trees_all_equal(flatten(chosen.method_state), expected)
  with pytest.raises(ValueError, match=f"'threshold' is no number .* it has .*{number}"):
    require_number(config(5.0), nested, validation_set=True)


def test_what_cannot_be_chosen_is_refused(trained):
  _, state, _, _ = trained
  require_number(config(0.1), state, validation_set=True)
  with pytest.raises(ValueError, match='needs held-out data; set config.validation_examples'):
    require_number(config(0.1), state, validation_set=False)
  with pytest.raises(ValueError, match="'gates' is no rule; rules are groups"):
    require_number(config(0.1, rule='gates'), state, validation_set=True)
  with pytest.raises(ValueError, match="'treshold' is no number .* it has strength, threshold"):
    require_number(config(0.1, number='treshold'), state, validation_set=True)
