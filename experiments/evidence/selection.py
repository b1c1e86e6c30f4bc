"""From the points of a frontier to matched budgets: one network per method, chosen on validation.

For a budget of k times smaller, a candidate is a training (its overrides) deployed at one value,
and counts if the mean size over the seeds is at most 1/k of the dense network's. The candidate with
the lowest mean validation error is chosen for all seeds, and only then is the test set read.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

SIZES = {       # what a budget is of: (size of the network, of the dense network)
    'weights': ('weights_kept', 'weights_total'),
    'bytes': ('bytes_file', 'bytes_dense'),
}
ROUNDING = 1.001        # a density of 1/3 of 266,200 weights is 88,733.3


class Candidate(NamedTuple):
  """One way to get a network, over its seeds.

  Attributes:
    overrides: of the config. deployed_at: value of the number read at deployment, or None.
    seeds: {seed: (content of point.json, index of the network in it)}.
  """

  overrides: tuple[tuple[str, Any], ...]
  deployed_at: float | None
  seeds: dict[int, tuple[Mapping[str, Any], int]]

  def values(self, key: str) -> np.ndarray:
    """Returns a number of each seed's network, in the order of the seeds."""
    return np.array([content['networks'][index][key]
                     for _, (content, index) in sorted(self.seeds.items())], float)

  def ratio(self, measure: str) -> float:
    """Returns how many times smaller than the dense network, by the mean over the seeds."""
    kept, total = SIZES[measure]
    return float(self.values(total).mean() / max(self.values(kept).mean(), 1e-9))


class Chosen(NamedTuple):
  """What a method reached within one budget.

  Attributes:
    task, method: names. measure: 'weights' or 'bytes'. budget: times smaller.
    candidate: the chosen one, or None where nothing is that small.
    test_errors: percent, one a seed, in the order of the seeds.
    difference: test error minus that of the dense network of the same seed: (mean, low, high).
  """

  task: str
  method: str
  measure: str
  budget: float
  candidate: Candidate | None
  test_errors: np.ndarray
  difference: tuple[float, float, float] | None


def candidates(contents: Sequence[Mapping[str, Any]]) -> list[Candidate]:
  """Returns the candidates of one method on one task, from the contents of its points.

  A training that diverged for one seed gives no candidate at all.
  """
  grouped: dict[Any, dict[int, Any]] = collections.defaultdict(dict)
  failed = set()
  for content in contents:
    overrides = tuple(sorted(content['overrides'].items()))
    if content['error']:
      failed.add(overrides)
    for index, network in enumerate(content['networks']):
      grouped[overrides, network['deployed_at']][content['seed']] = (content, index)
  return [Candidate(overrides, deployed_at, seeds)
          for (overrides, deployed_at), seeds in grouped.items() if overrides not in failed]


def choose_candidate(found: Sequence[Candidate], measure: str, budget: float) -> Candidate | None:
  """Returns the candidate of lowest mean validation error within the budget, or None.

  Only candidates with the largest number of seeds count, so that all are compared over the same
  ones, and only those of which something is left for every seed; ties go to the smaller network.
  """
  most = max((len(candidate.seeds) for candidate in found), default=0)
  within = [candidate for candidate in found if len(candidate.seeds) == most
            and candidate.values('weights_kept').min() > 0
            and candidate.ratio(measure) * ROUNDING >= budget]
  return min(within, default=None, key=lambda candidate: (
      candidate.values('validation_error_percent').mean(), -candidate.ratio(measure)))
