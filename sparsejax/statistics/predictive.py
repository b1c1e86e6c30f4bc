"""Scores of a predictive distribution: an average of draws, its uncertainty, what it can tell.

The scores themselves are those of the ledger (`sparsejax.ledger.calibration`): log-probabilities
are logits whose softmax is the distribution itself.
"""
from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from sparsejax.ledger import calibration

# Rows must sum to 1 up to the rounding of float32, the least precise dtype that logits come in: a
# sum over c classes of exponentials, each good to a few units in the last place.
_NORMALISED = 1e-5


def posterior_predictive(logits: ArrayLike) -> np.ndarray:
  """Log of the mean over draws of the probabilities, float64 (n, c).

  log((1/K) sum_k softmax(logits_k)) by logsumexp, so that nothing underflows. The mean of the
  logits would be another model.

  Args:
    logits: (K, n, c), K networks drawn from the posterior, finite.
  Raises: ValueError for another shape, an empty axis, or logits that are not finite.
  """
  logits = np.asarray(logits)
  if logits.ndim != 3 or 0 in logits.shape:
    raise ValueError(f'logits have shape {logits.shape}; expected (draws, n, classes), none of '
                     'them 0')
  logits = logits.astype(np.float64)
  if not np.isfinite(logits).all():
    draw = int(np.argwhere(~np.isfinite(logits))[0, 0])
    raise ValueError(f'logits of draw {draw} are not finite; the network has diverged')
  log_probs = special.log_softmax(logits, axis=2)
  return special.logsumexp(log_probs, axis=0) - np.log(len(logits))


def scores(log_probs: ArrayLike, labels: ArrayLike) -> dict[str, float]:
  """Error and NLL (nats), expected calibration error (15 bins, percent), Brier score (0 to 2).

  Args:
    log_probs: (n, c), normalised: each row's probabilities sum to 1. labels: (n,) integers.
  Returns: the ledger's keys: test_error_percent, test_nll_nats,
    test_expected_calibration_error_percent, test_brier.
  Raises: ValueError for rows that are not normalised, or as `ledger.classification_scores`.
  """
  return calibration.classification_scores(_normalised(log_probs), labels)


def entropy(log_probs: ArrayLike) -> np.ndarray:
  """Entropy of each row in nats, (n,), between 0 and log c; 0 log 0 = 0.

  Raises: ValueError for rows that are not normalised.
  """
  return special.entr(np.exp(_normalised(log_probs))).sum(axis=1)


def auroc(score_in: ArrayLike, score_out: ArrayLike) -> float:
  """Probability that a score from `score_out` exceeds one from `score_in`, a tie counting half.

  The area under the ROC curve of "large scores are out", which is the Mann-Whitney statistic over
  the number of pairs. 0.5 is chance. Nothing is trained or thresholded.

  Args:
    score_in: (n,) such as the predictive entropy on the data set trained on. score_out: (m,) the
      same on other data. No NaN; infinities are ordered as numbers are.
  Raises: ValueError for empty or not one-dimensional scores, or NaN.
  """
  parts = [np.asarray(part, np.float64) for part in (score_in, score_out)]
  for name, part in zip(('score_in', 'score_out'), parts, strict=True):
    if part.ndim != 1 or not len(part) or np.isnan(part).any():
      raise ValueError(f'{name} has shape {part.shape} and {np.isnan(part).sum()} NaN; expected '
                       '(n,) with n >= 1, one number for each example')
  inside, outside = parts
  ranks = stats.rankdata(np.concatenate(parts))[len(inside):]
  pairs = len(inside) * len(outside)
  return float((ranks.sum() - len(outside) * (len(outside) + 1) / 2) / pairs)


def _normalised(log_probs: ArrayLike) -> np.ndarray:
  log_probs = np.asarray(log_probs, np.float64)
  if log_probs.ndim != 2 or 0 in log_probs.shape:
    raise ValueError(f'log_probs have shape {log_probs.shape}; expected (n, classes), neither of '
                     'them 0')
  off = np.abs(special.logsumexp(log_probs, axis=1))
  if not off.max() < _NORMALISED:
    raise ValueError(f'probabilities of row {int(off.argmax())} sum to exp(+-{off.max():.2g}), not '
                     '1; give log-probabilities, as posterior_predictive returns, not logits')
  return log_probs
