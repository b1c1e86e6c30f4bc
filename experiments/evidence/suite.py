"""What a frontier is made of: tasks, and for each method the grid of its one number.

A method is one row of METHODS: the variant of the frontier's configs that runs it, the fields of
that config that make the network smaller with the values to train at, and, where a number is read
only when the network is deployed, the values to deploy one training at.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.evidence.point import Deployment, Point

BUDGETS = (3, 10, 30, 60)                 # times smaller than the dense network
DENSITIES = (1 / 3, 1 / 10, 1 / 30, 1 / 60, 1 / 120)
SPARSITIES = tuple(1 - density for density in DENSITIES)


class Task(NamedTuple):
  """A network on a data set: a file of experiments/configs/frontier with fields overridden."""

  name: str
  config: str
  seeds: int
  overrides: Mapping[str, Any] = {}


class Method(NamedTuple):
  """One row: `grid` maps a field of the config to the values that it takes, all fields in step."""

  name: str
  variant: str
  grid: Mapping[str, tuple[float, ...]] = {}
  deployment: Deployment | None = None

  def overrides(self) -> list[dict[str, Any]]:
    """Returns one dict of overrides per training."""
    if not self.grid:
      return [{}]
    return [dict(zip(self.grid, values, strict=True))
            for values in zip(*self.grid.values(), strict=True)]


METHODS = (
    Method('dense', 'dense'),
    Method('random mask', 'random', {'regulariser.weights.density': DENSITIES}),
    Method('magnitude', 'magnitude', {'regulariser.weights.sparsity.final': SPARSITIES}),
    Method('L1 and magnitude', 'l1_magnitude',
           {'regulariser.weights.outer.sparsity.final': SPARSITIES}),
    Method('iterative magnitude, rewound', 'iterative',
           {'regulariser.weights.sparsity.final': SPARSITIES}),
    Method('straight-through magnitude', 'straight_through',
           {'regulariser.weights.sparsity.final': SPARSITIES}),
    Method('SET', 'set', {'regulariser.weights.density': DENSITIES}),
    Method('RigL', 'rigl', {'regulariser.weights.density': DENSITIES}),
    Method('sparse VD', 'vd', deployment=Deployment(
        'weights', 'threshold', (-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0))),
    Method('L0 gates', 'l0', {'regulariser.inputs.strength': (0.1, 0.3, 0.4, 0.5, 1.0, 1.5),
                              'regulariser.hidden.strength': (0.5, 3.0, 5.0, 10.0, 20.0, 40.0)}),
    Method('group lasso', 'group_lasso', {'regulariser.units.strength': (1.0, 2.0, 4.0, 6.0)},
           Deployment('units', 'threshold', (1e-3, 3e-3, 1e-2, 2e-2, 3e-2))),
)

SUITES = {
    'small': (
        Task('MNIST MLP', 'mlp', 5),
        Task('Fashion-MNIST MLP', 'mlp', 5, {'dataset': 'fashion_mnist'}),
        Task('MNIST LeNet-5', 'lenet_5', 1),
    ),
    'smoke': (
        Task('digits MLP', 'mlp', 2, {
            'dataset': 'digits', 'validation_examples': 237, 'batch_size': 16}),
    ),
}


def points(task: Task, method: Method) -> list[Point]:
  """Returns every training of a method on a task, seed by seed."""
  return [Point(f'frontier/{task.config}:{method.variant}', {**task.overrides, **overrides}, seed,
                method.deployment)
          for seed in range(task.seeds) for overrides in method.overrides()]


def select(suite: str, tasks: str = '', methods: str = '') -> list[tuple[Task, Method]]:
  """Returns the (task, method) pairs of a suite whose names contain, or are, the given texts.

  Raises:
    ValueError: for an unknown suite, or texts that leave nothing.
  """
  if suite not in SUITES:
    raise ValueError(f'no suite {suite!r}; suites are {", ".join(SUITES)}')
  pairs = list(itertools.product(_matching(SUITES[suite], tasks), _matching(METHODS, methods)))
  if not pairs:
    raise ValueError(f'no task with {tasks!r} and method with {methods!r} in the suite {suite!r}; '
                     f'tasks are {", ".join(t.name for t in SUITES[suite])}; methods are '
                     f'{", ".join(m.name for m in METHODS)}')
  return pairs


def _matching(rows: Sequence[Any], text: str) -> list[Any]:
  """Returns the row of that name or, without one, the rows whose name contains the text."""
  return [row for row in rows if row.name == text] or [row for row in rows if text in row.name]
