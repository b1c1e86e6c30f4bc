"""Predictive distributions against direct formulas, hand-worked cases and scikit-learn."""
import math

import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics

from sparsejax import ledger
from sparsejax.statistics import auroc, entropy, posterior_predictive, scores


def test_the_predictive_is_the_mean_of_the_probabilities():
  logits = np.random.default_rng(0).normal(0, 3, (5, 7, 4))
  expected = np.mean(np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True), axis=0)
  np.testing.assert_allclose(np.exp(posterior_predictive(logits)), expected, rtol=1e-12)


def test_one_draw_is_that_network():
  logits = np.random.default_rng(0).normal(0, 3, (7, 4))
  np.testing.assert_allclose(posterior_predictive(logits[None]),
                             special.log_softmax(logits, axis=1), rtol=1e-12, atol=1e-15)


def test_nothing_underflows_where_probabilities_do():
  # Probabilities (1, e^-2000) and (e^-3000, 1): a class has log(1/2) where the other draw has ~0.
  log_probs = posterior_predictive(np.float32([[[2000, 0]], [[-3000, 0]]]))
  np.testing.assert_allclose(log_probs, np.full((1, 2), -math.log(2)), rtol=1e-12)
  one = posterior_predictive(np.float32([[[2000, 0]]]))
  np.testing.assert_allclose(one, [[0, -2000]], rtol=0, atol=1e-9)
  assert entropy(one) == 0.0


def test_averaging_never_costs_nats_against_the_mean_of_the_draws():
  """Jensen: -log mean p <= mean -log p, for every example and label."""
  logits = np.random.default_rng(1).normal(0, 2, (6, 50, 3))
  mean_nll = -special.log_softmax(logits, axis=2).mean(axis=0)
  assert np.all(-posterior_predictive(logits) <= mean_nll + 1e-12)


def test_the_scores_are_the_ledgers():
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(0, 2, (200, 5)), rng.integers(0, 5, 200)
  log_probs = posterior_predictive(logits[None])
  found, expected = scores(log_probs, labels), ledger.classification_scores(logits, labels)
  assert found.keys() == expected.keys()
  for key, value in expected.items():
    assert found[key] == pytest.approx(value, rel=1e-12), key


def test_entropy_is_scipys_and_has_its_ends():
  p = np.random.default_rng(0).dirichlet(np.ones(6), 20)
  np.testing.assert_allclose(entropy(np.log(p)), stats.entropy(p, axis=1), rtol=1e-12)
  with np.errstate(divide='ignore'):
    np.testing.assert_array_equal(entropy(np.log([[1.0, 0.0, 0.0]])), [0.0])
  assert entropy(np.full((1, 8), -math.log(8)))[0] == pytest.approx(math.log(8))


def mann_whitney(score_in, score_out):
  """Every pair, by comparison."""
  larger = np.subtract.outer(score_out, score_in)
  return np.mean((larger > 0) + 0.5 * (larger == 0))


@pytest.mark.parametrize('levels', [3, 1000, 10**6])
def test_auroc_counts_the_pairs_and_is_scikit_learns(levels):
  rng = np.random.default_rng(levels)
  score_in = rng.integers(0, levels, 60) / levels
  score_out = rng.integers(1, levels + 1, 90) / levels
  found = auroc(score_in, score_out)
  assert found == pytest.approx(mann_whitney(score_in, score_out), rel=1e-12)
  truth = np.repeat([0, 1], [60, 90])
  assert found == pytest.approx(
      metrics.roc_auc_score(truth, np.concatenate([score_in, score_out])), rel=1e-12)


def test_auroc_by_hand_and_at_its_ends():
  # Pairs (0, 1), (0, 2) won, (1, 1) tied, (1, 2) won: 3.5 of 4.
  assert auroc([0, 1], [1, 2]) == 3.5 / 4
  assert auroc([1, 2], [0, -np.inf]) == 0.0
  assert auroc([1, 1], [1]) == 0.5


def test_mistakes_are_named():
  with pytest.raises(ValueError, match=r'shape \(2, 3\).*draws'):
    posterior_predictive(np.zeros((2, 3)))
  with pytest.raises(ValueError, match='draw 1 are not finite'):
    posterior_predictive(np.array([[[0.0, 1]], [[0, np.inf]]]))
  with pytest.raises(ValueError, match='row 1 sum to exp.*not logits'):
    scores([[np.log(0.5), np.log(0.5)], [0.0, 1.0]], np.array([0, 1]))
  with pytest.raises(ValueError, match=r'shape \(2,\)'):
    entropy(np.zeros(2))
  with pytest.raises(ValueError, match=r'score_out has shape \(0,\)'):
    auroc([1.0], [])
  with pytest.raises(ValueError, match='score_in .* 1 NaN'):
    auroc([np.nan], [1.0])
