"""Scores against cases worked by hand, SciPy, and the expectation of a calibrated classifier."""
import numpy as np
import pytest
import scipy.special

from sparsejax import ledger


def two_class(*confidences):
  """Logits of two classes whose class 0 has these probabilities."""
  p = np.array(confidences)
  return np.stack([np.log(p), np.log1p(-p)], axis=1)


def test_scores_by_hand():
  logits, labels = two_class(0.9, 0.6, 0.2), np.array([0, 1, 1])
  assert ledger.error_percent(logits, labels) == pytest.approx(100 / 3, rel=1e-14)
  nll = -np.log([0.9, 0.4, 0.8]).mean()
  assert ledger.nll_nats(logits, labels) == pytest.approx(nll, rel=1e-14)
  assert ledger.brier_score(logits, labels) == pytest.approx(
      2 * np.mean([0.1**2, 0.6**2, 0.2**2]), rel=1e-13)
  # confidences .9 (right), .6 (wrong), .8 (right): with 4 bins (.5, .75] and (.75, 1].
  expected = (1 * 0.6 + 2 * abs(1.0 - 0.85)) / 3
  assert ledger.expected_calibration_error(logits, labels, bins=4) == pytest.approx(expected, 1e-13)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
  # Equal logits give exactly 1/2: with 2 bins it shares (0, 1/2], apart from the .75 in (1/2, 1].
  logits = np.array([[0.0, 0.0], [np.log(3), 0.0]])
  labels = np.array([0, 1])                             # gaps +.5 and -.75, not added together
  assert ledger.expected_calibration_error(logits, labels, bins=2) == pytest.approx(0.625, 1e-15)
  assert ledger.expected_calibration_error(logits, labels, bins=1) == pytest.approx(0.125, 1e-15)


def test_against_scipy_and_loops_on_random_logits():
  rng = np.random.default_rng(0)
  logits = 3 * rng.standard_normal((500, 7)).astype(np.float32)
  labels = rng.integers(0, 7, 500)
  p = scipy.special.softmax(logits.astype(np.float64), axis=1)
  nll = -np.mean([np.log(p[i, label]) for i, label in enumerate(labels)])
  assert ledger.nll_nats(logits, labels) == pytest.approx(nll, rel=1e-12)
  brier = np.mean([sum((p[i, k] - (k == label))**2 for k in range(7))
                   for i, label in enumerate(labels)])
  assert ledger.brier_score(logits, labels) == pytest.approx(brier, rel=1e-12)
  ece = 0.0
  for m in range(1, 16):
    members = [i for i in range(500) if (m - 1) / 15 < p[i].max() <= m / 15]
    if members:
      accuracy = np.mean([p[i].argmax() == labels[i] for i in members])
      ece += len(members) / 500 * abs(accuracy - np.mean([p[i].max() for i in members]))
  assert ledger.expected_calibration_error(logits, labels) == pytest.approx(ece, rel=1e-12)


def test_a_calibrated_classifier_has_a_calibration_error_within_sampling_noise():
  rng, n = np.random.default_rng(1), 200_000
  confidence = rng.uniform(0.5, 1.0, n)
  labels = (rng.random(n) > confidence).astype(int)     # class 0 with probability `confidence`
  # Each bin's gap has sd below 1/2 sqrt(n_m) / n; over 8 bins in use the sum of |gaps| is below
  # 5 sd each by Cauchy: 5/2 sqrt(8 / n).
  assert ledger.expected_calibration_error(two_class(*confidence), labels) < 2.5 * np.sqrt(8 / n)


def test_huge_logits_stay_finite_and_exact():
  logits, labels = np.array([[1e30, 0.0], [-1000.0, 0.0]]), np.array([1, 0])
  assert ledger.nll_nats(logits, labels) == pytest.approx((1e30 + 1000) / 2, rel=1e-15)
  assert ledger.expected_calibration_error(logits, labels) == 1.0
  assert ledger.brier_score(logits, labels) == 2.0
  assert ledger.error_percent(logits, labels) == 100.0


def test_half_precision_logits_are_scored_in_float64():
  logits = np.array([[1.0, 2.0, 3.0]], np.float16)
  assert ledger.nll_nats(logits, [2]) == pytest.approx(
      np.log(np.exp([-2.0, -1.0, 0.0]).sum()), rel=1e-15)


def test_classification_scores_are_the_ledger_keys():
  scores = ledger.classification_scores(two_class(0.9, 0.6), [0, 1])
  assert set(scores) == {key for key, about in ledger.KEYS.items()
                         if key.startswith('test_') and not about.added}
  assert scores['test_expected_calibration_error_percent'] == pytest.approx(35.0, rel=1e-12)


@pytest.mark.parametrize('logits, labels, message', [
    (np.zeros(3), [0], r'logits have shape \(3,\)'),
    (np.zeros((0, 3)), [], r'logits have shape \(0, 3\)'),
    (np.zeros((2, 3)), [0], r'labels have shape \(1,\); expected \(2,\)'),
    (np.zeros((2, 3)), [[0, 1, 0]] * 2, r'labels have shape \(2, 3\)'),
    (np.zeros((2, 3)), [0.0, 1.0], 'labels have dtype float64'),
    (np.zeros((2, 3)), [0, 3], r'labels lie in \[0, 3\]; expected \[0, 2\]'),
    (np.array([[0.0, 1.0], [np.nan, 0.0]]), [0, 1], 'row 1 are not finite'),
])
@pytest.mark.parametrize('score', [ledger.nll_nats, ledger.error_percent, ledger.brier_score,
                                   ledger.expected_calibration_error])
def test_bad_input_is_named(score, logits, labels, message):
  with pytest.raises(ValueError, match=message):
    score(logits, labels)


def test_no_bins_is_refused():
  with pytest.raises(ValueError, match='bins is 0'):
    ledger.expected_calibration_error(np.zeros((1, 2)), [0], bins=0)
