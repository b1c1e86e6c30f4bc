"""Patterns of blocks that are chosen before training, and how fast they mix.

Gray, Radford, Kingma, "GPU kernels for block-sparse weights", OpenAI technical report, 2017,
section 2: small-world graphs whose nodes are blocks of units. Each node keeps its own block, so a
square pattern is symmetric with a full diagonal. Barabasi and Albert, "Emergence of scaling in
random networks", Science 286, 1999; Watts and Strogatz, "Collective dynamics of 'small-world'
networks", Nature 393, 1998. All but `dealt` run on the host. Patterns are bool, True where a block
is kept.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

SWAPS_PER_EDGE = 10    # double-edge swaps that make a regular graph random
GRAPHS = ('barabasi_albert', 'watts_strogatz')


def barabasi_albert(n: int, m: int, seed: int) -> np.ndarray:
  """A graph grown node by node, each joined to m others with probability in proportion to degree.

  The first m nodes are joined to each other as in the authors' code, which fills that corner. Hubs
  make some columns much fuller than others. It keeps 2 m (n - m) + n + m (m - 1) blocks.

  Args:
    n: nodes, 1 <= m < n. seed: of the draw.

  Returns: (n, n) bool, symmetric, True on the diagonal.
  """
  _require(1 <= m < n, f'barabasi_albert(n={n}, m={m}) needs 1 <= m < n')
  rng = np.random.default_rng(seed)
  mask = np.eye(n, dtype=bool)
  mask[:m, :m] = True
  ends: list[int] = []                 # each node as often as it has edges
  targets = list(range(m))
  for node in range(m, n):
    mask[node, targets] = mask[targets, node] = True
    ends += [*targets, *[node] * m]
    chosen: set[int] = set()
    while len(chosen) < m:
      chosen.add(ends[rng.integers(len(ends))])
    targets = sorted(chosen)
  return mask


def watts_strogatz(n: int, neighbours: int, rewiring: float, seed: int) -> np.ndarray:
  """A ring, each node joined to its nearest, of whose edges some are moved to random places.

  It keeps n (neighbours + 1) blocks, whatever is rewired.

  Args:
    n: nodes. neighbours: edges of a node before rewiring, half on each side: even, below n.
    rewiring: probability that an edge's far end moves. seed: of the draw.

  Returns: (n, n) bool, symmetric, True on the diagonal; with rewiring=0 a band that wraps around.
  """
  _require(neighbours % 2 == 0 and 0 <= neighbours < n,
           f'watts_strogatz(n={n}, neighbours={neighbours}) needs an even number below n')
  _require(0 <= rewiring <= 1, f'rewiring={rewiring} must lie in [0, 1]')
  rng = np.random.default_rng(seed)
  mask = _ring(n, neighbours)
  for distance in range(1, neighbours // 2 + 1):
    for node in range(n):
      free = np.flatnonzero(~mask[node])
      if rng.random() >= rewiring or not free.size:
        continue
      old, new = (node + distance) % n, free[rng.integers(free.size)]
      mask[node, old] = mask[old, node] = False
      mask[node, new] = mask[new, node] = True
  return mask


def balanced_random(rows: int, columns: int, per_column: int, seed: int) -> np.ndarray:
  """Exactly `per_column` random blocks in each column, and as equal a number in each row.

  A square pattern is a random regular graph: symmetric with a full diagonal, so that each row has
  `per_column` blocks too. Any other is dealt column by column to the rows that have fewest; rows
  then differ by at most one block.

  Args:
    rows, columns: of the grid. per_column: from 1 to rows, in a square pattern the diagonal
      included; there rows * (per_column - 1) must be even, as it counts every edge twice.
    seed: of the draw.

  Returns: (rows, columns) bool.
  """
  _require(1 <= per_column <= rows,
           f'per_column={per_column} must be a number from 1 to {rows}, the rows of the grid')
  if rows == columns:
    return _regular(rows, per_column - 1, np.random.default_rng(seed))
  return np.asarray(dealt(jax.random.key(seed), rows, columns, per_column * columns))


def dealt(key: Array, rows: int, columns: int, blocks: int) -> Array:
  """Deals a number of blocks to a grid of any form, as evenly as it goes; traceable.

  Columns differ by at most one block, and so do rows: each column in turn takes the rows that have
  fewest so far, ties by lot.

  Args:
    key: of the draw. rows, columns: of the grid. blocks: from 0 to rows * columns.

  Returns: (rows, columns) bool.
  """
  _require(0 <= blocks <= rows * columns,
           f'{blocks} blocks do not go into a grid of {rows} x {columns}')
  order_key, key = jax.random.split(key)
  each, more = divmod(blocks, columns)
  counts = each + jax.random.permutation(order_key, jnp.arange(columns) < more)

  def take(held, column):
    key, count = column
    rank = jnp.argsort(jnp.argsort(held + jax.random.uniform(key, (rows,))))
    taken = rank < count
    return held + taken, taken
  _, taken = jax.lax.scan(take, jnp.zeros(rows), (jax.random.split(key, columns), counts))
  return taken.T


def stretched(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
  """Returns the pattern on a larger grid, each of its blocks standing for several neighbours.

  Block (i, j) of the grid takes the place (i * n // rows, j * n // columns) of a pattern of n rows,
  and likewise for columns: no row or column of the pattern is lost, and an edge between two nodes
  becomes all blocks between their shares.
  """
  _require(rows >= mask.shape[0] and columns >= mask.shape[1],
           f'a pattern of {mask.shape} does not stretch to ({rows}, {columns}); use a smaller one')
  up = np.arange(rows) * mask.shape[0] // rows
  across = np.arange(columns) * mask.shape[1] // columns
  return mask[up][:, across]


def graph_pattern(kind: str, rows: int, columns: int, density: float, *, seed: int,
                  rewiring: float = 0.2) -> np.ndarray:
  """Returns the pattern of a graph whose density is nearest to the one asked for.

  The graph has min(rows, columns) nodes; on a grid that is not square it is `stretched`.

  Args:
    kind: 'barabasi_albert' or 'watts_strogatz'. density: fraction of the blocks kept, in (0, 1].
    seed: of the draw. rewiring: of Watts-Strogatz; 0.2 in the report.

  Raises:
    ValueError: for another kind, or a density more than half a step below the sparsest such graph.
  """
  _require(kind in GRAPHS, f'graph {kind!r} is not known; choose from {", ".join(GRAPHS)}')
  n = min(rows, columns)
  draw: Callable[..., np.ndarray]
  if kind == 'barabasi_albert':
    counts = {m: 2 * m * (n - m) + n + m * (m - 1) for m in range(1, n)}
    draw = barabasi_albert
  else:
    counts = {neighbours: n * (neighbours + 1) for neighbours in range(2, n, 2)}
    draw = functools.partial(watts_strogatz, rewiring=rewiring)
  if not counts:
    _require(density == 1, f'{kind} needs more than {n} nodes, but the grid is {rows} x {columns}; '
             'leave this leaf out of the rule, or take smaller blocks')
    return np.ones((rows, columns), bool)
  wanted = density * n * n
  nearest = min(counts, key=lambda number: (abs(counts[number] - wanted), number))
  sparsest = min(counts.values())
  # One step of either graph is about 2 n blocks.
  _require(wanted >= sparsest - n, f'density {density:g} of a {rows} x {columns} grid is below the '
           f'{sparsest / n**2:.3g} of the sparsest {kind} graph on {n} nodes; raise it, or take '
           'smaller blocks')
  return stretched(draw(n, nearest, seed=seed), rows, columns)


# --- mixing ---------------------------------------------------------------------------------------


def connected_share(masks: np.ndarray | Sequence[np.ndarray], steps: int) -> float:
  """Returns the share of (input block, output block) pairs with a path through `steps` layers.

  Args:
    masks: the pattern of every layer, or a sequence of patterns that the layers go through and
      start again. steps: layers, at least 1.
  """
  _require(steps >= 1, f'steps={steps} must be at least 1')
  cycle = _cycle(masks)
  reach = cycle[0]
  for step in range(1, steps):
    reach = _through(reach, cycle[step % len(cycle)])
  return float(reach.mean())


def steps_to_mix(masks: np.ndarray | Sequence[np.ndarray]) -> int:
  """Returns how many layers until every input block reaches every output block.

  The report chooses the internal steps of its LSTM so. For one symmetric pattern with a full
  diagonal this is the diameter of its graph, about log n / log(degree) for a small world.

  Args:
    masks: as for `connected_share`.

  Raises:
    ValueError: if that never happens.
  """
  cycle = _cycle(masks)
  reach, step, seen = cycle[0], 1, set()
  while not reach.all():
    if step % len(cycle) == 0:
      state = reach.tobytes()
      _require(state not in seen, f'the patterns never mix: after any number of layers only '
               f'{reach.mean():.1%} of the pairs of blocks or so are connected; add blocks')
      seen.add(state)
    reach = _through(reach, cycle[step % len(cycle)])
    step += 1
  return step


def predicted_steps(n: int, degree: float) -> float:
  """Returns log n / log(degree): the steps in which a random graph of n nodes should mix."""
  return math.log(n) / math.log(degree)


def _cycle(masks) -> list[np.ndarray]:
  """Returns the patterns as a list; each must take what the one before gives."""
  cycle = [np.asarray(mask, bool) for mask in ([masks] if _is_one(masks) else masks)]
  for mask in cycle:
    _require(mask.ndim == 2, f'a pattern of shape {mask.shape} is no grid (rows, columns)')
  return cycle


def _is_one(masks) -> bool:
  return getattr(masks, 'ndim', None) == 2


def _through(reach: np.ndarray, mask: np.ndarray) -> np.ndarray:
  _require(reach.shape[1] == mask.shape[0],
           f'a pattern with {mask.shape[0]} rows cannot follow one with {reach.shape[1]} columns; '
           'mixing over more layers needs patterns that fit')
  # float32 counts paths exactly up to 2^24 nodes.
  return (reach.astype(np.float32) @ mask.astype(np.float32)) > 0


# --- graphs ---------------------------------------------------------------------------------------


def _ring(n: int, neighbours: int) -> np.ndarray:
  offset = (np.arange(n)[:, None] - np.arange(n)) % n
  return np.minimum(offset, n - offset) <= neighbours // 2


def _regular(n: int, degree: int, rng: np.random.Generator) -> np.ndarray:
  """A random regular graph and the diagonal, by double-edge swaps from a ring."""
  _require(n * degree % 2 == 0, f'no symmetric pattern of {n} rows has a diagonal and {degree} '
           f'more blocks in each row, for {n} * {degree} is odd; take per_column={degree} or '
           f'{degree + 2}')
  mask = _ring(n, degree - degree % 2)
  if degree % 2:                                   # n is even: join the opposite node too
    mask |= np.roll(np.eye(n, dtype=bool), n // 2, axis=1)
  edges = np.argwhere(np.triu(mask, 1))
  if not len(edges):
    return mask
  for _ in range(SWAPS_PER_EDGE * len(edges)):
    first, second = rng.integers(len(edges), size=2)
    (a, b), (c, d) = edges[first], edges[second]
    if rng.random() < 0.5:
      c, d = d, c
    # a-b, c-d become a-d, c-b, unless one is there already or joins a node to itself.
    if mask[a, d] or mask[c, b]:
      continue
    for i, j, kept in ((a, b, False), (c, d, False), (a, d, True), (c, b, True)):
      mask[i, j] = mask[j, i] = kept
    edges[first], edges[second] = (a, d), (c, b)
  return mask


def _require(holds: bool, message: str) -> None:
  if not holds:
    raise ValueError(message)
