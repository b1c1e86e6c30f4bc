"""How good and how well calibrated a classifier's logits are. Plain NumPy in float64.

Logits are (n, classes), finite; labels (n,) integers in [0, classes). Every function raises a
ValueError that says which of these does not hold.
"""
from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def nll_nats(logits: ArrayLike, labels: ArrayLike) -> float:
  """Mean negative log-likelihood of the labels, in nats per example."""
  logits, labels = _checked(logits, labels)
  return float(-np.mean(log_softmax(logits)[np.arange(len(labels)), labels]))


def error_percent(logits: ArrayLike, labels: ArrayLike) -> float:
  """Percentage of examples whose largest logit (the first of equals) is not the label's."""
  logits, labels = _checked(logits, labels)
  return float(100 * np.mean(logits.argmax(axis=1) != labels))


def expected_calibration_error(logits: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
  """Mean of |accuracy - confidence| over equal-width bins of confidence, weighted by their counts.

  Bin m of M holds the confidences in ((m - 1) / M, m / M]. A fraction in [0, 1].
  Source: Guo, Pleiss, Sun, Weinberger, 2017, arXiv:1706.04599, eqs. 2 and 3; 15 bins as there.
  """
  logits, labels = _checked(logits, labels)
  confidence = np.exp(log_softmax(logits)).max(axis=1)
  return _calibration_error(confidence, logits.argmax(axis=1) == labels, bins)


def _calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
  if bins < 1:
    raise ValueError(f'bins is {bins}; use at least 1')
  edges = np.arange(1, bins) / bins                     # inner edges, each closing the bin below it
  index = np.searchsorted(edges, confidence, side='left')
  gaps = np.bincount(index, weights=correct - confidence, minlength=bins)
  return float(np.abs(gaps).sum() / len(confidence))


def brier_score(logits: ArrayLike, labels: ArrayLike) -> float:
  """Mean squared distance of the probabilities from the one-hot label, in [0, 2] (Brier, 1950)."""
  logits, labels = _checked(logits, labels)
  distance = np.exp(log_softmax(logits))
  distance[np.arange(len(labels)), labels] -= 1
  return float(np.mean(np.sum(distance**2, axis=1)))


def classification_scores(logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
  """The four test scores of the ledger, under its keys."""
  return {
      'test_error_percent': error_percent(logits, labels),
      'test_nll_nats': nll_nats(logits, labels),
      'test_expected_calibration_error_percent': 100 * expected_calibration_error(logits, labels),
      'test_brier': brier_score(logits, labels),
  }


def scores_of_predictions(nll: ArrayLike, wrong: ArrayLike, confidence: ArrayLike,
                          brier: ArrayLike) -> dict[str, float]:
  """The same scores, of what is known of each prediction where its logits were not kept.

  Args:
    nll: nats. wrong: bool. confidence: largest probability. brier: squared distance of the
      probabilities to the one-hot label. All of one shape, finite.
  """
  names = ('nll', 'wrong', 'confidence', 'brier')
  arrays = [np.asarray(values, np.float64).reshape(-1)
            for values in (nll, wrong, confidence, brier)]
  for name, values in zip(names, arrays):
    if values.shape != arrays[0].shape or not values.size or not np.isfinite(values).all():
      raise ValueError(f'{name} holds {values.size} values for {arrays[0].size} of nll, '
                       f'{np.count_nonzero(~np.isfinite(values))} of them not finite; give one '
                       'finite number a prediction, at least one')
  nats, missed, sure, distance = arrays
  return {
      'test_error_percent': float(100 * missed.mean()),
      'test_nll_nats': float(nats.mean()),
      'test_expected_calibration_error_percent': 100 * _calibration_error(sure, missed == 0),
      'test_brier': float(distance.mean()),
  }


def log_softmax(logits: np.ndarray) -> np.ndarray:
  """Log-probabilities (n, classes); the largest logit is subtracted first, so nothing overflows."""
  shifted = logits - logits.max(axis=1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  logits, labels = np.asarray(logits), np.asarray(labels)
  if logits.ndim != 2 or 0 in logits.shape:
    raise ValueError(f'logits have shape {logits.shape}; expected (n, classes), neither of them 0')
  if labels.shape != logits.shape[:1]:
    raise ValueError(f'labels have shape {labels.shape}; expected ({logits.shape[0]},), one '
                     'integer for each row of logits')
  if not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(f'labels have dtype {labels.dtype}; expected integer class indices')
  if labels.min() < 0 or labels.max() >= logits.shape[1]:
    raise ValueError(f'labels lie in [{labels.min()}, {labels.max()}]; expected [0, '
                     f'{logits.shape[1] - 1}], the columns of logits')
  logits = logits.astype(np.float64)
  if not np.isfinite(logits).all():
    row = int(np.argwhere(~np.isfinite(logits))[0, 0])
    raise ValueError(f'logits of row {row} are not finite: {logits[row]}; the network has diverged')
  return logits, labels
