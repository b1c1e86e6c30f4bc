"""k-means against the exact solution by dynamic programming, and what its steps must keep."""
import itertools

import numpy as np
import pytest

from sparsejax.post_training.kmeans import INITIALISATIONS, initial_centroids, kmeans, nearest

EPSILON = np.finfo(np.float64).eps


def exact(values, clusters):
  """The least within-cluster sum of squares of n values in `clusters` intervals, O(k n^2)."""
  values = np.sort(values)
  cost = {(i, j): np.square(values[i:j] - values[i:j].mean()).sum()
          for i, j in itertools.combinations(range(len(values) + 1), 2)}
  best = [0.0] + [np.inf] * len(values)
  for _ in range(clusters):
    best = [0.0] + [min(best[i] + cost[i, j] for i in range(j)) for j in range(1, len(values) + 1)]
  return best[-1]


@pytest.mark.parametrize('initialisation', INITIALISATIONS)
def test_never_below_the_exact_solution_and_equal_from_the_best_of_many_starts(initialisation):
  rng = np.random.default_rng(0)
  for _ in range(5):
    values = rng.normal(size=14)
    least = exact(values, 3)
    found = [kmeans(values, 3, initialisation, rng=np.random.default_rng(start)).wcss[-1]
             for start in range(60 if initialisation == 'random' else 1)]
    assert min(found) >= least * (1 - 14 * EPSILON)
    if initialisation == 'random':
      np.testing.assert_allclose(min(found), least, rtol=14 * EPSILON)


@pytest.mark.parametrize('initialisation', INITIALISATIONS)
def test_exact_where_clusters_stand_apart(initialisation):
  rng = np.random.default_rng(1)
  centres = np.array([-3.0, -1.0, 1.0, 3.0])
  values = (centres[:, None] + 0.05 * rng.normal(size=(4, 6))).reshape(-1)
  if initialisation == 'random':      # one value of each cluster
    found = min((kmeans(values, 4, 'random', rng=np.random.default_rng(i)) for i in range(60)),
                key=lambda clusters: clusters.wcss[-1])
  else:
    found = kmeans(values, 4, initialisation)
  np.testing.assert_allclose(found.wcss[-1], exact(values, 4), rtol=1e-12)
  np.testing.assert_array_equal(found.codes, np.repeat(np.arange(4), 6))


@pytest.mark.parametrize('initialisation', INITIALISATIONS)
@pytest.mark.parametrize('clusters', [1, 2, 7, 64])
def test_sum_of_squares_never_increases(initialisation, clusters):
  rng = np.random.default_rng(clusters)
  values = rng.standard_t(3, size=500)
  found = kmeans(values, clusters, initialisation, rng=rng)
  steps = np.diff(found.wcss)
  assert np.all(steps <= 500 * EPSILON * found.wcss[0])
  # Where it stopped, every value is at its nearest centroid, every centroid is its cluster's mean.
  distance = np.abs(values[:, None] - found.centroids)
  np.testing.assert_array_equal(distance.argmin(1), found.codes)
  for code in np.unique(found.codes):
    np.testing.assert_allclose(found.centroids[code], values[found.codes == code].mean(),
                               rtol=0, atol=500 * EPSILON * np.abs(values).max())


def test_linear_start_sees_only_the_extremes():
  few, many = np.array([-1.0, 2.0]), np.array([-1.0, -0.99, -0.98, 0.0, 0.01, 2.0])
  np.testing.assert_array_equal(initial_centroids(few, 4, 'linear'), [-1, 0, 1, 2])
  np.testing.assert_array_equal(initial_centroids(many, 4, 'linear'), [-1, 0, 1, 2])


def test_density_start_has_equal_shares():
  values = np.arange(100.0) ** 3
  centroids = initial_centroids(values, 5, 'density')
  np.testing.assert_array_equal([(values <= c).sum() for c in centroids], [10, 30, 50, 70, 90])


def test_random_start_draws_values_and_depends_on_the_generator():
  values = np.arange(50.0)
  first = initial_centroids(values, 8, 'random', np.random.default_rng(3))
  assert np.isin(first, values).all() and len(np.unique(first)) == 8
  np.testing.assert_array_equal(first, initial_centroids(values, 8, 'random',
                                                         np.random.default_rng(3)))
  assert not np.array_equal(first, initial_centroids(values, 8, 'random',
                                                     np.random.default_rng(4)))


def test_empty_clusters_keep_their_centroid():
  values = np.array([0.0, 0.1, 9.9, 10.0])
  found = kmeans(values, 6, 'linear')       # 0, 2, 4, 6, 8, 10: the inner four stand empty
  np.testing.assert_allclose(found.centroids, [0.05, 2, 4, 6, 8, 9.95], rtol=1e-15)
  np.testing.assert_array_equal(found.codes, [0, 0, 5, 5])


def test_more_clusters_than_distinct_values_leave_no_error():
  found = kmeans(np.array([1.0, 2.0, 2.0]), 8, 'linear')
  np.testing.assert_array_equal(found.centroids[found.codes], [1, 2, 2])
  assert kmeans(np.full(5, 3.0), 4, 'density').wcss[-1] == 0


def test_nearest_takes_the_lower_of_two_as_near():
  np.testing.assert_array_equal(nearest(np.array([0.5, 0.6, -7.0]), np.array([0.0, 1.0])),
                                [0, 1, 0])


@pytest.mark.parametrize('values, clusters, initialisation, rng, message', [
    (np.zeros(0), 2, 'linear', None, 'at least one'),
    (np.zeros((2, 2)), 2, 'linear', None, 'shape'),
    (np.array([1.0, np.nan]), 2, 'linear', None, '1 not finite'),
    (np.ones(3), 0, 'linear', None, 'clusters=0'),
    (np.ones(3), 2, 'linearly', None, "'linearly' is not one of"),
    (np.ones(3), 2, 'random', None, 'give rng'),
    (np.ones(3), 4, 'random', np.random.default_rng(0), 'fewer clusters'),
])
def test_refuses(values, clusters, initialisation, rng, message):
  with pytest.raises(ValueError, match=message):
    kmeans(values, clusters, initialisation, rng=rng)
