"""Every verdict from values built for it; the interval is SciPy's own t quantile, worked here."""
import math

import numpy as np
import pytest
from scipy import stats

from experiments.evidence import verdict as module
from experiments.evidence.sheet import Figure, Row
from experiments.evidence.verdict import EXPLANATIONS, verdict

ERROR, RATIO, COUNT = 'test_error_percent', 'compression_weights', 'parameters_compact'
OFFSETS = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
SD = math.sqrt(10 / 4)                        # of OFFSETS, with n - 1


def half(spread, level, n=5):
  """Half-width of the prediction interval of mean + spread * OFFSETS."""
  return stats.t.ppf((1 + level) / 2, n - 1) * spread * SD * math.sqrt(1 + 1 / n)


def row(error=None, size=None, key=RATIO, verified=(True, True)):
  return Row('net', 'method', {}, error and Figure(error, ERROR, verified[0]),
             size and Figure(size, key, verified[1]))


def values(error=2.0, size=60.0, key=RATIO, spread=0.02, size_spread=0.5):
  return {ERROR: error + spread * OFFSETS, key: size + size_spread * OFFSETS}


def said(*arguments, **options):
  found = verdict(*arguments, **options)
  assert found.name in EXPLANATIONS
  return found.name


# Half-widths at the joint level of two: 0.121 points of error, 3.03 of a ratio of 60.
H_ERROR, H_SIZE = half(0.02, 0.975), half(0.5, 0.975)


def test_the_half_widths_that_the_cases_below_stand_on():
  assert 0.11 < H_ERROR < 0.13 and 2.9 < H_SIZE < 3.1
  assert stats.t.ppf(0.9875, 4) == pytest.approx(3.4954, abs=1e-4)     # a printed table's value


@pytest.mark.parametrize('error, size, name', [
    (2.0, 60.0, 'match'),
    (2.0 + 0.999 * H_ERROR, 60.0, 'match'),
    (2.0 - 0.999 * H_ERROR, 60.0 + 0.999 * H_SIZE, 'match'),
    (2.0 + 1.001 * H_ERROR, 60.0, 'better'),              # published worse than all we would get
    (2.0 - 1.001 * H_ERROR, 60.0, 'near'),
    (2.0, 60.0 - 1.001 * H_SIZE, 'better'),               # published less compressed
    (2.0, 60.0 + 1.001 * H_SIZE, 'near'),
    (5.0, 20.0, 'better'),
    (2.0 - 0.299, 60.0, 'near'),
    (2.0 - 0.301, 60.0, 'miss'),
    (2.0, 79.9, 'near'),                                  # 19.9 of 79.9 is 24.9 %
    (2.0, 80.1, 'miss'),                                  # 20.1 of 80.1 is 25.1 %
    (2.0 + 0.2, 60.0 + 5.0, 'near'),                      # better in one, worse in the other
    (2.0 - 0.2, 60.0 - 5.0, 'near'),
    (2.0 - 0.4, 60.0 - 5.0, 'miss'),
])
def test_a_pair_of_error_and_compression(error, size, name):
  assert said(row(error, size), values()) == name


@pytest.mark.parametrize('size, name', [
    (40_000, 'match'), (39_000, 'near'), (41_000, 'better'), (31_900, 'miss'), (90_000, 'better')])
def test_fewer_parameters_are_better(size, name):
  assert half(100, 0.975) < 1000
  assert said(row(2.0, size, COUNT), values(2.0, 40_000, COUNT, 0.02, 100)) == name


@pytest.mark.parametrize('published, name', [
    (2.0 + 0.999 * half(0.02, 0.95), 'match'), (2.0 + 1.001 * half(0.02, 0.95), 'better'),
    (2.0 - 1.001 * half(0.02, 0.95), 'near'), (1.6, 'miss')])
def test_an_error_alone_has_the_whole_level(published, name):
  assert said(row(published), {ERROR: 2.0 + 0.02 * OFFSETS}) == name


def test_a_size_alone_has_the_whole_level():
  found = verdict(row(None, 60.0), {RATIO: 60 + 0.5 * OFFSETS})
  assert found.name == 'match'
  np.testing.assert_allclose(found.intervals[RATIO],
                             [60 - half(0.5, 0.95), 60 + half(0.5, 0.95)], rtol=1e-12)


@pytest.mark.parametrize('verified, level', [
    ((True, True), 0.975), ((True, False), 0.95), ((False, True), 0.95), ((False, False), 0.975)])
def test_the_level_is_shared_by_the_scored_figures(verified, level):
  intervals = verdict(row(2.0, 60.0, verified=verified), values()).intervals
  assert set(intervals) == {ERROR, RATIO}
  for key, mean, spread in ((ERROR, 2.0, 0.02), (RATIO, 60.0, 0.5)):
    np.testing.assert_allclose(intervals[key], [mean - half(spread, level),
                                                mean + half(spread, level)], rtol=1e-12)


def test_more_seeds_narrow_the_interval_by_their_own_quantile():
  seeds = np.array([1.9, 2.0, 2.1, 1.95, 2.05, 2.0, 1.98, 2.02])
  low, high = verdict(row(2.0), {ERROR: seeds}).intervals[ERROR]
  wanted = stats.t.ppf(0.975, 7) * seeds.std(ddof=1) * math.sqrt(1 + 1 / 8)
  assert (low + high) / 2 == pytest.approx(seeds.mean(), rel=1e-12)
  assert (high - low) / 2 == pytest.approx(wanted, rel=1e-12)


def test_inconclusive_by_error_where_the_half_width_passes_0_3_points():
  unit = half(1.0, 0.975)
  assert said(row(2.0, 60.0), values(spread=0.3 / unit * 0.9999)) == 'match'
  assert said(row(2.0, 60.0), values(spread=0.3 / unit * 1.0001)) == 'inconclusive'


def test_inconclusive_by_size_where_the_half_width_passes_a_quarter_of_our_mean():
  unit = half(1.0, 0.975)
  assert said(row(2.0, 60.0), values(size_spread=15 / unit * 0.9999)) == 'match'
  assert said(row(2.0, 60.0), values(size_spread=15 / unit * 1.0001)) == 'inconclusive'
  # Of ours, not of the published figure: 12 is above a quarter of 40 and below one of 60.
  assert said(row(2.0, 40.0), values(size_spread=12 / unit)) == 'better'


def test_a_wide_interval_excuses_no_published_figure_far_outside():
  """Inconclusive comes before all others: not even 'better' is said of scattered seeds."""
  assert said(row(50.0, 60.0), values(spread=0.5)) == 'inconclusive'
  assert said(row(0.1, 60.0), values(spread=0.5)) == 'inconclusive'


@pytest.mark.parametrize('count', [1, 2, 4])
def test_too_few_seeds_have_no_interval(count):
  few = {key: seeds[:count] for key, seeds in values().items()}
  assert verdict(row(2.0, 60.0), few) == ('too few seeds', {})
  assert verdict(row(2.0, 60.0, verified=(False, False)), few) == ('unverified, not scored', {})


def test_no_seed_is_not_run():
  assert verdict(row(2.0, 60.0), {ERROR: [], RATIO: []}) == ('not run', {})


def test_an_unverified_row_is_shown_and_not_scored():
  far = row(50.0, 1.0, verified=(False, False))
  found = verdict(far, values())
  assert found.name == 'unverified, not scored' and set(found.intervals) == {ERROR, RATIO}


def test_an_unverified_figure_takes_no_part():
  assert said(row(0.1, 60.0, verified=(False, True)), values()) == 'match'
  assert said(row(2.0, 900.0, verified=(True, False)), values()) == 'match'
  assert said(row(0.1, 60.0, verified=(True, False)), values()) == 'miss'
  assert said(row(2.0, 60.0, verified=(False, True)), values(spread=1.0)) == 'match'


def test_the_constants_are_those_of_the_words():
  assert (module.LEVEL, module.SEEDS, module.ERROR_LIMIT_POINTS, module.SIZE_LIMIT) == (
      0.95, 5, 0.3, 0.25)
  assert '0.3 points' in EXPLANATIONS['near'] and '25 %' in EXPLANATIONS['near']
  assert '0.3 points' in EXPLANATIONS['inconclusive'] and '25 %' in EXPLANATIONS['inconclusive']
  assert 'fewer than 5' in EXPLANATIONS['too few seeds']


@pytest.mark.parametrize('key, mean, published, name', [
    ('test_bits_per_token', 1.43, 1.43 - 0.019, 'near'),
    ('test_bits_per_token', 1.43, 1.409, 'miss'),
    ('test_bits_per_token', 1.43, 1.46, 'better'),
    ('test_perplexity', 110.0, 107.0, 'near'),             # 3 is 2.8 % of 107
    ('test_perplexity', 110.0, 106.0, 'miss'),             # 4 is 3.8 % of 106
    ('test_perplexity', 110.0, 120.0, 'better'),
])
def test_scores_of_language_models_have_limits_of_their_own(key, mean, published, name):
  spread = 1e-3 * mean                                     # half-widths 0.007 bits, 0.53
  figure = Row('net', 'method', {}, Figure(published, key, True), None)
  assert said(figure, {key: mean + spread * OFFSETS}) == name
