"""Scores of a mixture of Gaussians against SciPy, a hand-worked case and Monte Carlo."""
import numpy as np
import pytest
from scipy import stats

from sparsejax.statistics import mixture_scores


def test_one_draw_is_a_gaussian():
  targets, means = np.array([0.0, 1.0, -1.0, 4.0]), np.array([[0.0, 0.5, 1.0, 0.0]])
  found = mixture_scores(means, [2.0], targets, level=0.9)
  assert found.rmse == pytest.approx(np.sqrt((0.25 + 4 + 16) / 4), rel=1e-12)
  assert found.log_likelihood == pytest.approx(
      stats.norm(means[0], 2).logpdf(targets).mean(), rel=1e-12)
  assert found.coverage == 0.75                          # 4 is 2 sd away, 1.645 are inside
  interval = stats.beta.ppf([0.025, 0.975], [3, 4], [2, 1])
  np.testing.assert_allclose(found[3:], interval, rtol=1e-9)


def test_a_mixture_is_what_its_samples_say():
  rng = np.random.default_rng(0)
  means, sds = rng.normal(0, 2, (7, 1)), rng.uniform(0.2, 1, 7)
  samples = (means + sds[:, None] * rng.normal(size=(7, 100_000))).ravel()
  low, high = np.quantile(samples, [0.1, 0.9])
  grid = np.linspace(low - 1, high + 1, 41)
  grid = grid[np.minimum(abs(grid - low), abs(grid - high)) > 0.05]    # ends by sampling are rough
  found = [mixture_scores(means, sds, [y], level=0.8).coverage for y in grid]
  np.testing.assert_array_equal(found, (grid > low) & (grid < high))
  density = np.mean([stats.norm(m, s).pdf(0.3) for m, s in zip(means[:, 0], sds, strict=True)])
  assert mixture_scores(means, sds, [0.3]).log_likelihood == pytest.approx(np.log(density))


def test_a_right_model_covers_what_it_promises():
  rng = np.random.default_rng(0)
  n = 5000
  scales = rng.uniform(0.5, 2, 20)
  function = rng.normal(0, 1, (20, n))
  drawn = rng.integers(0, 20, n)
  targets = function[drawn, np.arange(n)] + scales[drawn] * rng.normal(size=n)
  found = mixture_scores(function, scales, targets, level=0.9)
  assert abs(found.coverage - 0.9) < 4 * np.sqrt(0.09 / n)
  assert found.coverage_low < found.coverage < found.coverage_high


@pytest.mark.parametrize('means, sds, targets, message', [
    (np.ones((2, 3)), np.ones(3), np.ones(3), r'sds \(3,\)'),
    (np.ones((2, 3)), np.ones(2), np.ones(2), r'targets \(2,\)'),
    (np.ones((0, 3)), np.ones(0), np.ones(3), 'none of them 0'),
    (np.full((2, 3), np.nan), np.ones(2), np.ones(3), 'diverged'),
    (np.ones((2, 3)), np.array([1.0, 0.0]), np.ones(3), 'smallest is 0.0')])
def test_mistakes_are_named(means, sds, targets, message):
  with pytest.raises(ValueError, match=message):
    mixture_scores(means, sds, targets)
