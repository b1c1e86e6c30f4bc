import numpy as np
import pytest

from benchmarks import targets
from benchmarks.timing import Estimate


def test_ratios_are_over_dense_and_over_the_fastest_other():
  ones = np.ones(6)
  samples = {('dense', 'sparsejax'): 2 * ones, ('dense', 'torch eager'): 3 * ones,
             ('dense', 'torch compiled'): 4 * ones, ('l0', 'sparsejax'): 3 * ones}
  over_dense, over_torch = targets.ratios('lenet_300_100', samples)
  assert over_dense[:4] == ('lenet_300_100', 'l0', 'dense', (1.5, 1.5, 1.5))
  assert over_dense.at_most == 1.25 and over_dense.verdict == 'missed'
  assert over_torch[:4] == ('lenet_300_100', 'dense', 'torch eager', (1.5, 1.5, 1.5))
  assert over_torch.at_least == 1.15 and over_torch.verdict == 'reached'


def test_without_the_dense_step_or_the_other_framework_there_is_no_ratio():
  assert targets.ratios('lenet_300_100', {('l0', 'sparsejax'): np.ones(6)}) == []


@pytest.mark.parametrize('low, high, verdict', [
    (1.0, 1.25, 'reached'), (1.2, 1.3, 'undecided'), (1.26, 1.4, 'missed')])
def test_a_verdict_takes_the_whole_interval(low, high, verdict):
  value = Estimate((low + high) / 2, low, high)
  assert targets.Ratio('n', 'l0', 'dense', value, at_most=1.25).verdict == verdict
  inverse = Estimate(1 / value.median, 1 / high, 1 / low)
  assert targets.Ratio('n', 'l0', 'torch', inverse, at_least=0.8).verdict == verdict
  assert targets.Ratio('n', 'l0', 'dense', value).verdict == ''
