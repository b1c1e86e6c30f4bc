"""The choice at a budget, on contents of point.json written by hand."""
import numpy as np
import pytest

from experiments.evidence.selection import ROUNDING, candidates, choose_candidate


def network(validation, kept, at=None, total=1000, written=500):
  # Without the test set's error: nothing here may ask for it.
  return {'deployed_at': at, 'validation_error_percent': validation, 'weights_kept': kept,
          'weights_total': total, 'bytes_file': written, 'bytes_dense': 4000}


def content(density, seed, *networks, error=''):
  return {'overrides': {'density': density}, 'seed': seed, 'error': error,
          'networks': list(networks)}


def chosen_density(contents, budget, measure='weights'):
  found = choose_candidate(candidates(contents), measure, budget)
  return found and dict(found.overrides)['density']


def test_a_candidate_gathers_its_seeds():
  found, = candidates([content(0.1, 3, network(5.0, 90)), content(0.1, 1, network(7.0, 110))])
  assert found.overrides == (('density', 0.1),) and found.deployed_at is None
  assert sorted(found.seeds) == [1, 3]
  np.testing.assert_array_equal(found.values('weights_kept'), [110, 90])    # by seed
  assert found.ratio('weights') == 1000 / 100 and found.ratio('bytes') == 8.0


def test_the_ratio_is_of_means_and_not_the_mean_of_ratios():
  found, = candidates([content(0.1, 0, network(5.0, 10)), content(0.1, 1, network(5.0, 190))])
  assert found.ratio('weights') == 10.0           # the mean of ratios would be 52.6


def test_each_value_of_deployment_is_a_candidate():
  found = candidates([content(1, seed, network(5.0, 500, 1.0), network(6.0, 100, 2.0))
                      for seed in range(2)])
  assert [(c.deployed_at, c.ratio('weights')) for c in found] == [(1.0, 2.0), (2.0, 10.0)]
  best = choose_candidate(found, 'weights', 5)
  assert best.deployed_at == 2.0 and [index for _, index in best.seeds.values()] == [1, 1]


def test_the_lowest_validation_error_within_the_budget():
  rows = [content(0.5, 0, network(1.0, 500)), content(0.1, 0, network(3.0, 100)),
          content(0.05, 0, network(2.5, 50)), content(0.01, 0, network(9.0, 10))]
  assert chosen_density(rows, 1) == 0.5
  assert chosen_density(rows, 3) == 0.05          # smaller than asked for, and better than 0.1
  assert chosen_density(rows, 30) == 0.01
  assert chosen_density(rows, 101) is None


def test_the_edge_of_a_budget_allows_for_rounding_alone():
  exact = [content('a', 0, network(1.0, 100))]
  assert chosen_density(exact, 10) == 'a'
  assert chosen_density(exact, 10 * ROUNDING * 0.9999) == 'a'
  assert chosen_density(exact, 10 * ROUNDING * 1.0001) is None
  third = [content('a', 0, network(1.0, 88_734, total=266_200))]       # 1/3, rounded up
  assert 266_200 / 88_734 < 3 and chosen_density(third, 3) == 'a'


def test_bytes_are_a_budget_of_their_own():
  rows = [content('few weights', 0, network(1.0, 10, written=1000)),
          content('few bytes', 0, network(2.0, 500, written=100))]
  assert chosen_density(rows, 4, 'bytes') == 'few weights'
  assert chosen_density(rows, 5, 'bytes') == 'few bytes'
  assert chosen_density(rows, 5, 'weights') == 'few weights'


def test_ties_go_to_the_smaller_network():
  rows = [content('big', 0, network(2.0, 100)), content('small', 0, network(2.0, 50)),
          content('middle', 0, network(2.0, 70))]
  assert chosen_density(rows, 5) == chosen_density(rows[::-1], 5) == 'small'


def test_the_mean_over_the_seeds_decides():
  rows = [content('lucky', 0, network(0.5, 100)), content('lucky', 1, network(4.0, 100)),
          content('even', 0, network(2.0, 100)), content('even', 1, network(2.0, 100))]
  assert chosen_density(rows, 5) == 'even'


def test_a_budget_is_met_by_the_mean_size():
  rows = [content('a', 0, network(1.0, 90)), content('a', 1, network(1.0, 110))]
  assert chosen_density(rows, 10) == 'a'
  rows[1]['networks'][0]['weights_kept'] = 111
  assert chosen_density(rows, 10 * ROUNDING) is None


def test_a_diverged_seed_removes_the_candidate():
  rows = [content('a', 0, network(1.0, 100)), content('a', 1, error='the loss is not finite'),
          content('b', 0, network(5.0, 100)), content('b', 1, network(5.0, 100))]
  assert chosen_density(rows, 5) == 'b'
  # Even if it alone has results for the other seeds, and whatever their order.
  assert [dict(c.overrides)['density'] for c in candidates(rows[::-1])] == ['b']


def test_fewer_seeds_are_no_match_for_more():
  rows = [content('a', 0, network(1.0, 100)),
          content('b', 0, network(5.0, 100)), content('b', 1, network(5.0, 100))]
  assert chosen_density(rows, 5) == 'b'
  assert chosen_density([*rows, content('a', 1, network(1.0, 100))], 5) == 'a'


def test_more_seeds_of_a_network_too_big_leave_nothing():
  rows = [content('a', 0, network(1.0, 100)),
          content('b', 0, network(5.0, 900)), content('b', 1, network(5.0, 900))]
  assert chosen_density(rows, 5) is None


@pytest.mark.parametrize('rows', [[], [content('a', 0, error='not finite')],
                                  [content('a', 0, network(1.0, 999))]])
def test_nothing_fits(rows):
  assert chosen_density(rows, 3) is None


def test_a_network_without_weights_has_a_ratio():
  found, = candidates([content('a', 0, network(90.0, 0))])
  assert np.isfinite(found.ratio('weights')) and found.ratio('weights') > 1e6


def test_a_network_of_which_nothing_is_left_is_never_chosen():
  def network(kept):
    return {'deployed_at': None, 'validation_error_percent': 1.0, 'weights_kept': kept,
            'weights_total': 1000, 'bytes_file': 300, 'bytes_dense': 4000}
  contents = [{'seed': seed, 'overrides': {'strength': strength}, 'error': '',
               'networks': [network(kept)]}
              for strength, seed, kept in ((1.0, 0, 50), (1.0, 1, 0), (2.0, 0, 90), (2.0, 1, 90))]
  chosen = choose_candidate(candidates(contents), 'weights', 10)
  assert chosen is not None and dict(chosen.overrides) == {'strength': 2.0}
  assert choose_candidate(candidates(contents), 'weights', 15) is None
