"""The ratios this library wants to reach, and the ratios of a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from benchmarks.timing import Estimate, ratio

OURS = 'sparsejax'
# (network, method) -> the step's time over the dense step's, at most.
OVER_DENSE = {('lenet_300_100', 'l0'): 1.25, ('lenet_300_100', 'vd'): 3.0}
# (network, method) -> how many times faster than PyTorch's best, at least.
OVER_TORCH = {
    ('lenet_300_100', 'dense'): 1.15,
    ('lenet_300_100', 'l0'): 1.5,
    ('lenet_300_100', 'vd'): 1.9,
    ('lenet_5_caffe', 'dense'): 1.2,
}


class Ratio(NamedTuple):
  """One quotient of times.

  Attributes:
    network, method: which step. against: what the other time is of, 'dense' or a PyTorch row.
    value: of the quotient. at_most, at_least: the target, None where there is none.
  """

  network: str
  method: str
  against: str
  value: Estimate
  at_most: float | None = None
  at_least: float | None = None

  @property
  def verdict(self) -> str:
    """'reached' or 'missed' if the whole interval says so, else 'undecided'; '' without target."""
    if self.at_most is not None:
      good, bad = self.value.high <= self.at_most, self.value.low > self.at_most
    elif self.at_least is not None:
      good, bad = self.value.low >= self.at_least, self.value.high < self.at_least
    else:
      return ''
    return 'reached' if good else 'missed' if bad else 'undecided'


def ratios(network: str, samples: Mapping[tuple[str, str], np.ndarray]) -> list[Ratio]:
  """Returns our steps over our dense step, and PyTorch's fastest over ours.

  Args:
    samples: (method, framework) -> milliseconds of each round; the framework is 'sparsejax' or
      begins with 'torch'.
  """
  found = []
  methods = list(dict.fromkeys(method for method, _ in samples))
  for method in methods:
    ours = samples.get((method, OURS))
    dense = samples.get(('dense', OURS))
    if method != 'dense' and ours is not None and dense is not None:
      found.append(Ratio(network, method, 'dense', ratio(ours, dense),
                         at_most=OVER_DENSE.get((network, method))))
  for method in methods:
    ours = samples.get((method, OURS))
    theirs = {name: times for (other, name), times in samples.items()
              if other == method and name != OURS}
    if ours is not None and theirs:
      best = min(theirs, key=lambda name: float(np.median(theirs[name])))
      found.append(Ratio(network, method, best, ratio(theirs[best], ours),
                         at_least=OVER_TORCH.get((network, method))))
  return found
