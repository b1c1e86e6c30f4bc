"""Patterns against SciPy's shortest paths, counted edges and hand-worked rings."""

import jax
import numpy as np
import pytest
from scipy.sparse import csgraph

from sparsejax import block_patterns as patterns

GRAPHS = {
    'barabasi_albert': lambda seed: patterns.barabasi_albert(40, 3, seed),
    'watts_strogatz': lambda seed: patterns.watts_strogatz(40, 6, 0.2, seed),
    'balanced_random': lambda seed: patterns.balanced_random(40, 40, 6, seed),
}


@pytest.mark.parametrize('name', GRAPHS)
def test_square_patterns_are_symmetric_with_a_full_diagonal(name):
  mask = GRAPHS[name](0)
  assert mask.dtype == bool and mask.shape == (40, 40)
  np.testing.assert_array_equal(mask, mask.T)
  assert mask.diagonal().all()
  np.testing.assert_array_equal(mask, GRAPHS[name](0))
  assert np.any(mask != GRAPHS[name](1))


@pytest.mark.parametrize('n, m', [(2, 1), (10, 1), (30, 4), (64, 8)])
def test_barabasi_albert_has_as_many_blocks_as_edges_were_added(n, m):
  mask = patterns.barabasi_albert(n, m, seed=5)
  # Each of the n - m later nodes brings m edges, the first m are all joined, and each keeps itself.
  edges = (n - m) * m + m * (m - 1) // 2
  assert mask.sum() == 2 * edges + n == 2 * m * (n - m) + n + m**2 - m
  degrees = mask.sum(0) - 1
  assert degrees[m:].min() >= m


def test_barabasi_albert_prefers_nodes_of_high_degree():
  # The mean degree of the oldest tenth grows as sqrt(n / age); a uniform choice gives log(n / age).
  degrees = np.mean([patterns.barabasi_albert(200, 2, seed).sum(0) - 1 for seed in range(20)], 0)
  # sum over later nodes: m sqrt(200 / i) for the mean-field solution of the model, i = 5 to 20
  mean_field = np.mean(2 * np.sqrt(200 / np.arange(5, 20)))
  uniform = np.mean(2 * (1 + np.log(200 / np.arange(5, 20))))
  got = degrees[5:20].mean()
  assert abs(got - mean_field) < abs(got - uniform)


def test_watts_strogatz_without_rewiring_is_a_band_that_wraps():
  mask = patterns.watts_strogatz(7, 2, 0.0, seed=0)
  wanted = np.eye(7, dtype=int) + np.eye(7, k=1, dtype=int) + np.eye(7, k=-1, dtype=int)
  wanted[0, 6] = wanted[6, 0] = 1
  np.testing.assert_array_equal(mask, wanted.astype(bool))


def test_watts_strogatz_rewires_the_share_it_is_asked_for():
  band = patterns.watts_strogatz(200, 10, 0.0, seed=0)
  for rewiring in (0.2, 1.0):
    mask = patterns.watts_strogatz(200, 10, rewiring, seed=3)
    assert mask.sum() == 200 * 11
    left = (band & ~mask).sum() / 2
    # Each of 1000 edges moves with probability p to one of some 189 places, of which at most the 10
    # of the band, once left, lie in it again; five standard deviations.
    expected, again = 1000 * rewiring, 10 / 189
    assert -again * expected < left - expected + 5 * np.sqrt(1000 * 0.25)
    assert left - expected < 5 * np.sqrt(1000 * 0.25)


@pytest.mark.parametrize('n, per_column', [(6, 1), (8, 4), (9, 5), (40, 7), (12, 12)])
def test_balanced_square_patterns_have_the_degree_asked_for(n, per_column):
  mask = patterns.balanced_random(n, n, per_column, seed=2)
  np.testing.assert_array_equal(mask.sum(0), per_column)
  np.testing.assert_array_equal(mask.sum(1), per_column)


@pytest.mark.parametrize('rows, columns, per_column', [(12, 7, 5), (5, 16, 2), (3, 1, 3)])
def test_balanced_rectangles_have_equal_columns_and_rows_within_one(rows, columns, per_column):
  mask = patterns.balanced_random(rows, columns, per_column, seed=2)
  np.testing.assert_array_equal(mask.sum(0), per_column)
  assert np.ptp(mask.sum(1)) <= 1


@pytest.mark.parametrize('rows, columns, blocks', [(12, 7, 40), (6, 6, 1), (4, 9, 36), (5, 3, 0)])
def test_any_number_of_blocks_is_dealt_evenly_also_under_jit(rows, columns, blocks):
  draw = jax.jit(jax.vmap(lambda key: patterns.dealt(key, rows, columns, blocks)))
  masks = np.asarray(draw(jax.random.split(jax.random.key(0), 400)))
  assert np.all(masks.sum((1, 2)) == blocks)
  assert np.ptp(masks.sum(1), axis=1).max() <= 1 and np.ptp(masks.sum(2), axis=1).max() <= 1
  # Every place is as likely as every other: Binomial(400, p) / 400, five standard deviations.
  p = blocks / (rows * columns)
  assert np.abs(masks.mean(0) - p).max() <= 5 * np.sqrt(p * (1 - p) / 400)


def test_stretched_patterns_keep_every_edge_of_the_graph():
  small = np.array([[1, 0], [1, 1]], bool)
  np.testing.assert_array_equal(
      patterns.stretched(small, 3, 4),
      np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]], bool))
  with pytest.raises(ValueError, match='does not stretch'):
    patterns.stretched(small, 1, 4)


@pytest.mark.parametrize('kind', patterns.GRAPHS)
@pytest.mark.parametrize('rows, columns', [(32, 32), (64, 20), (20, 60)])
def test_graphs_come_near_the_density_on_any_grid(kind, rows, columns):
  mask = patterns.graph_pattern(kind, rows, columns, 0.3, seed=1)
  n = min(rows, columns)
  assert mask.shape == (rows, columns) and mask.any(0).all() and mask.any(1).all()
  # Half a step of the graph, 2 n of n^2 blocks, and uneven shares where n does not divide.
  stretch = max(-(-max(rows, columns) // n) / (max(rows, columns) / n), 1)
  assert abs(mask.mean() - 0.3) <= 1 / n + 0.3 * (stretch - 1) + 1e-9


def diameter(mask):
  return int(csgraph.shortest_path(mask.astype(float), unweighted=True).max())


@pytest.mark.parametrize('name', GRAPHS)
def test_mixing_takes_the_diameter_of_the_graph(name):
  mask = GRAPHS[name](3)
  steps = patterns.steps_to_mix(mask)
  assert steps == diameter(mask)
  assert patterns.connected_share(mask, steps) == 1 > patterns.connected_share(mask, steps - 1)
  distances = csgraph.shortest_path(mask.astype(float), unweighted=True)
  assert patterns.connected_share(mask, 2) == (distances <= 2).mean()


@pytest.mark.parametrize('draw', [
    lambda: patterns.balanced_random(256, 256, 9, seed=0),
    lambda: patterns.barabasi_albert(256, 8, seed=0),
    lambda: patterns.watts_strogatz(256, 8, 0.5, seed=0)])
def test_small_worlds_mix_within_the_steps_predicted(draw):
  mask = draw()
  # log n / log degree is where the mean distance lies; the largest is a step or two above it.
  predicted = patterns.predicted_steps(256, 8)
  assert np.log(256) / np.log(8) == pytest.approx(predicted)
  assert patterns.steps_to_mix(mask) <= np.ceil(predicted) + 2
  # The band alone needs its whole half-way round, 128 nodes at 4 a step.
  assert patterns.steps_to_mix(patterns.watts_strogatz(256, 8, 0.0, seed=0)) == 32


def test_layers_of_several_patterns_are_gone_through_in_turn():
  first = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], bool)      # 2 -> 4
  second = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], bool)  # 4 -> 2
  # One layer: half of the pairs; two: 0 -> {0, 1} -> {0, 1}, but 1 -> {2, 3} -> {1}.
  assert patterns.connected_share([first, second], 1) == 0.5
  assert patterns.connected_share([first, second], 2) == 0.75
  full_behind = [first, np.ones((4, 2), bool)]
  assert patterns.steps_to_mix(full_behind) == 2


def test_patterns_that_never_mix_are_told_so():
  with pytest.raises(ValueError, match='never mix: .* 50.0% of the pairs'):
    patterns.steps_to_mix(np.kron(np.eye(2), np.ones((3, 3))).astype(bool))
  with pytest.raises(ValueError, match='never mix'):       # 0 -> 1 -> 0: only ever one at a time
    patterns.steps_to_mix(np.array([[0, 1], [1, 0]], bool))


@pytest.mark.parametrize('make, message', [
    (lambda: patterns.barabasi_albert(5, 5, 0), 'needs 1 <= m < n'),
    (lambda: patterns.watts_strogatz(6, 3, 0.1, 0), 'needs an even number below n'),
    (lambda: patterns.watts_strogatz(6, 2, 1.1, 0), r'rewiring=1.1 must lie in \[0, 1\]'),
    (lambda: patterns.balanced_random(4, 6, 5, 0), 'per_column=5 must be a number from 1 to 4'),
    (lambda: patterns.balanced_random(5, 5, 2, 0), r'5 \* 1 is odd; take per_column=1 or 3'),
    (lambda: patterns.dealt(jax.random.key(0), 2, 3, 7), '7 blocks do not go into a grid of 2 x 3'),
    (lambda: patterns.graph_pattern('star', 4, 4, 0.5, seed=0), "graph 'star' is not known"),
    (lambda: patterns.graph_pattern('barabasi_albert', 50, 50, 0.02, seed=0),
     'density 0.02 .* is below the 0.0592 of the sparsest barabasi_albert graph on 50 nodes'),
    (lambda: patterns.graph_pattern('watts_strogatz', 9, 1, 0.5, seed=0), 'more than 1 nodes'),
    (lambda: patterns.steps_to_mix(np.eye(2, 3, dtype=bool)), 'cannot follow one with 3 columns'),
    (lambda: patterns.connected_share(np.eye(2, dtype=bool), 0), 'steps=0 must be at least 1')])
def test_what_cannot_be_is_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()
