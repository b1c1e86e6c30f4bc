"""Windows of a text in the order of time, with a recurrent state that is handed on."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import sparsejax
from sparsejax.training import fit
from sparsejax.training.evaluate import jit_summary
from sparsejax.training.token_scores import jit_token_scores, scores_of_logits

STREAMS, STEPS, LENGTH, SYMBOLS = 2, 4, 3, 5
VARIABLES = {'params': {'scale': jnp.arange(1.0, 6)[None, None],
                        'shift': jnp.ones((1, 1, SYMBOLS))}}


class Counter(nn.Module):
  """Sums its symbols in the carried state; logits are (sum of all so far) * scale + shift."""

  @nn.compact
  def __call__(self, tokens):
    scale = self.param('scale', nn.initializers.ones, (1, 1, SYMBOLS))
    shift = self.param('shift', nn.initializers.zeros, (1, 1, SYMBOLS))
    start = jnp.zeros(tokens.shape[0])
    kept = None
    if self.is_mutable_collection('carry') or self.has_variable('carry', 'sum'):
      kept = self.variable('carry', 'sum', lambda: start)
      start = kept.value
    sums = start[:, None] + jnp.cumsum(tokens.astype(jnp.float32), axis=1)
    if kept is not None and self.is_mutable_collection('carry'):
      kept.value = sums[:, -1]
    return sums[..., None] / 40 * scale + shift


@pytest.fixture(scope='module')
def text():
  """(windows, labels) of two texts side by side, in the order of time."""
  tokens = np.random.default_rng(0).integers(0, SYMBOLS, (STREAMS, STEPS * LENGTH + 1))
  windows = [tokens[:, i * LENGTH:(i + 1) * LENGTH] for i in range(STEPS)]
  labels = [tokens[:, i * LENGTH + 1:(i + 1) * LENGTH + 1] for i in range(STEPS)]
  return (jnp.asarray(np.concatenate(windows), jnp.uint8),
          jnp.asarray(np.concatenate(labels), jnp.int32))


def recipe(sequential=True):
  return fit.Recipe(Counter(), sparsejax.partition(all=('.*', sparsejax.weight_decay(0.1))),
                    optax.sgd(0.1), num_terms=24, batch_size=STREAMS, preprocess=fit.as_tokens,
                    loss=fit.token_cross_entropy, sequential=sequential)


def started(made, text):
  return fit.start(made, jax.random.key(0), text[0])


def test_the_state_starts_from_zeros_for_each_text_of_the_batch(text):
  state = started(recipe(), text)
  assert {name: leaf.tolist() for name, leaf in state.collections['carry'].items()} == {
      'sum': [0.0, 0.0]}


def test_windows_are_visited_in_the_order_of_time(text):
  order = fit.epoch_order(recipe(), started(recipe(), text), STREAMS * STEPS)
  assert order.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_the_recurrent_state_goes_through_the_epoch_and_starts_anew_with_the_next(text):
  made = recipe()
  epoch = fit.jit_epoch(made)
  first, _ = epoch(started(made, text), *text)
  sums = np.asarray(text[0], np.float64).reshape(STEPS, STREAMS, LENGTH).sum((0, 2))
  np.testing.assert_array_equal(first.collections['carry']['sum'], sums)
  second, _ = epoch(first, *text)
  np.testing.assert_array_equal(second.collections['carry']['sum'], sums)


@pytest.mark.parametrize('sequential', [True, False])
def test_an_epoch_in_two_parts_is_the_whole_epoch_bit_for_bit(text, sequential):
  made = recipe(sequential)
  state, _ = fit.jit_epoch(made)(started(made, text), *text)       # the second epoch is cut
  whole, losses = fit.jit_epoch(made)(state, *text)
  part = jax.jit(lambda state, count: fit.train_steps(made, state, *text, count),
                 static_argnums=1)
  middle, before = part(state, 1)
  end, after = part(middle, STEPS - 1)
  np.testing.assert_array_equal(np.concatenate([before, after]), losses)
  for found, wanted in zip(jax.tree.leaves(end.params), jax.tree.leaves(whole.params)):
    np.testing.assert_array_equal(found, wanted)
  if sequential:
    np.testing.assert_array_equal(end.collections['carry']['sum'],
                                  whole.collections['carry']['sum'])


def test_scores_are_those_of_the_whole_text_read_at_once(text):
  made = recipe()
  found = jit_token_scores(made)(VARIABLES, *text)
  tokens = np.asarray(text[0]).reshape(STEPS, STREAMS, LENGTH).swapaxes(0, 1).reshape(STREAMS, -1)
  whole = np.asarray(text[1]).reshape(STEPS, STREAMS, LENGTH).swapaxes(0, 1).reshape(STREAMS, -1)
  logits = np.cumsum(tokens, 1)[..., None] / 40 * np.arange(1.0, 6) + 1
  probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  one_hot = np.eye(SYMBOLS)[whole]

  def in_order(values):
    return values.reshape(STREAMS, STEPS, LENGTH).swapaxes(0, 1).reshape(-1, LENGTH)
  # Sums of five float32 exponentials.
  close = {'rtol': 2e-6, 'atol': 2e-6}
  np.testing.assert_allclose(found.nll_nats, in_order(-np.log((probs * one_hot).sum(-1))), **close)
  np.testing.assert_allclose(found.brier, in_order(((probs - one_hot) ** 2).sum(-1)), **close)
  np.testing.assert_allclose(found.confidence, in_order(probs.max(-1)), **close)
  np.testing.assert_array_equal(found.wrong, in_order(logits.argmax(-1) != whole))


def test_the_summary_of_an_epoch_does_not_see_the_state_of_training(text):
  made = recipe()
  state = started(made, text)
  dirty = state._replace(collections={'carry': {'sum': jnp.full(STREAMS, 100.0)}})
  summary = jit_summary(made)
  clean, other = summary(state, *text), summary(dirty, *text)
  assert float(clean['nll_nats']) == float(other['nll_nats'])


def test_windows_alone_are_scored_from_a_zero_state(text, monkeypatch):
  monkeypatch.setattr('sparsejax.training.token_scores.TOKENS_AT_ONCE', 3 * LENGTH)
  made = recipe(sequential=False)
  found = jit_token_scores(made)(VARIABLES, *text)
  sums = jnp.cumsum(text[0].astype(jnp.float32), 1)[..., None]
  logits = sums / 40 * VARIABLES['params']['scale'] + 1
  wanted = scores_of_logits(logits, text[1])
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


def test_a_text_that_was_cut_for_another_batch_size_is_refused(text):
  with pytest.raises(ValueError, match='7 windows are no whole number of batches of 2 texts'):
    jit_token_scores(recipe())({'params': {}}, text[0][:7], text[1][:7])


def test_a_model_that_keeps_no_state_is_refused(text):
  made = recipe()._replace(model=nn.Embed(SYMBOLS, SYMBOLS))
  with pytest.raises(ValueError, match="Embed keeps no recurrent state in the collection 'carry'"):
    started(made, text)
