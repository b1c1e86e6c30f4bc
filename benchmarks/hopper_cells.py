"""What the Hopper benchmark runs: problems, tile candidates, whole steps, and a way to time them.

A product on a GPU takes tens of microseconds and a call from Python about as long. So each timed
program holds several products, each on operands of its own: they run back to back on the device,
and what one leaves in the cache is of no use to the next.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.timing import interleaved
from sparsejax.kernels.block_sparse import BlockSparse, block_sparse_matmul, hopper
from sparsejax.kernels.block_sparse import pallas_mosaic_gpu as kernels
from sparsejax.kernels.block_sparse.backend import Epilogue, Problem
from sparsejax.kernels.block_sparse.cost import OPERATIONS
from sparsejax.kernels.block_sparse.hopper import Config
from sparsejax.kernels.block_sparse.layout import capacity_for, layout_of_mask

Array = jax.Array
IMPLEMENTATION = 'pallas_mosaic_gpu'
PROGRAM_SECONDS = 2e-3       # of work in one timed program: a hundred times what a call costs
COPIES = (2, 24)
EXPECTED_FLOPS = 5e14        # only to choose the number of copies


class Cell(NamedTuple):
  """x (m, side) times side x side, of which `density` of the blocks are not zero; bfloat16."""

  m: int
  side: int
  block: int
  density: float

  @property
  def goal(self) -> bool:
    """True where a share of the roofline is asked for."""
    return self.m >= 2048 and self.block >= 64 and 0.1 <= self.density <= 0.2

  @property
  def copies(self) -> int:
    """Products in one timed program."""
    seconds = 2 * self.m * self.side**2 * self.density / EXPECTED_FLOPS
    return int(min(max(PROGRAM_SECONDS / seconds, COPIES[0]), COPIES[1]))


# Those with a goal come first, so that a lease that ends early still tells about them.
CELLS = sorted((Cell(*values) for values in itertools.product(
    (2048, 8192, 128), (4096, 8192), (128, 64, 32), (0.1, 0.2, 0.05, 0.5))),
    key=lambda cell: not cell.goal)


class Operands(NamedTuple):
  """Of one product.

  Attributes:
    x, g: (m, side). blocks: (entries, b, b). weight: (side, side), dense, unrelated numbers.
  """

  x: Array
  g: Array
  blocks: Array
  weight: Array


def pattern(cell: Cell) -> np.ndarray:
  """Returns an exact number of blocks of the cell's size, at random, (rows, columns) bool."""
  n = cell.side // cell.block
  mask = np.zeros(n * n, bool)
  mask[np.random.default_rng(0).permutation(n * n)[:max(1, round(cell.density * n * n))]] = True
  return mask.reshape(n, n)


def weight_of(cell: Cell) -> BlockSparse:
  """Returns the weight of a cell with blocks of one; those below 64 merged, inner zeros kept."""
  fine, up = pattern(cell), max(1, hopper.SIDE // cell.block)
  n = len(fine) // up
  mask = fine.reshape(n, up, n, up).any(axis=(1, 3))
  layout = layout_of_mask(jnp.asarray(mask), capacity_for(mask))
  inner = fine.reshape(n, up, n, up).transpose(0, 2, 1, 3)[layout.row, layout.col]
  kept = np.kron(inner, np.ones((1, cell.block, cell.block)))
  return BlockSparse(jnp.asarray(kept, jnp.bfloat16), layout, (cell.side, cell.side))


def operands(cell: Cell, weight: BlockSparse, key: Array) -> Operands:
  """Draws numbers on the device; the zeros inside merged blocks stay."""
  shapes = ((cell.m, cell.side), (cell.m, cell.side), weight.blocks.shape, (cell.side, cell.side))
  x, g, blocks, dense = (jax.random.normal(k, shape, jnp.bfloat16)
                         for k, shape in zip(jax.random.split(key, 4), shapes))
  return Operands(x, g, blocks * weight.blocks, dense / math.sqrt(cell.side))


def products(cell: Cell, weight: BlockSparse) -> dict[str, Callable[[Operands], Any]]:
  """Returns {name: function of `Operands`}: ours and the dense one, forward and with gradients."""
  def ours(x, blocks):
    return block_sparse_matmul(x, weight.replace(blocks=blocks), implementation=IMPLEMENTATION)

  def three(function):
    def compute(x, w, g):
      y, pull_back = jax.vjp(function, x, w)
      return y, pull_back(g)
    return compute
  return {
      'dense': lambda o: jnp.dot(o.x, o.weight),
      'ours': lambda o: ours(o.x, o.blocks),
      'dense_training': lambda o: three(jnp.dot)(o.x, o.weight, o.g),
      'ours_training': lambda o: three(ours)(o.x, o.blocks, o.g),
  }


def flops_and_bytes(cell: Cell, weight: BlockSparse, product: str) -> tuple[float, float]:
  """Returns what cannot be avoided: multiply-adds of the cell's blocks twice, operands once each.

  The zeros that merging keeps are no work that was asked for: a merged cell pays for them.
  """
  count = 3 if product == 'training' else 1
  stored = pattern(cell).sum() * cell.block**2
  return (float(count * 2 * cell.m * stored),
          float(count * 2 * (2 * cell.m * cell.side + stored)))


def problem_of(cell: Cell, weight: BlockSparse, kind: str) -> Problem:
  """Returns the static facts of a cell."""
  return Problem(cell.m, weight.block_size, weight.grid, weight.capacity, 'bfloat16', 'gpu', kind)


def with_config(operation: str, weight: BlockSparse, problem: Problem,
                config: Config | None) -> Callable[[Operands], Array]:
  """Returns one product of our kernels with given tiles."""
  layout = weight.layout
  if operation == 'matmul':
    return lambda o: kernels.matmul(o.x, o.blocks, layout, problem, None, Epilogue(), jnp.bfloat16,
                                    config)
  if operation == 'transposed':
    return lambda o: kernels.transposed(o.g, o.blocks, layout, problem, jnp.float32, config)
  return lambda o: kernels.weight_gradient(o.x, o.g, layout, problem, config)


def candidates(operation: str, problem: Problem) -> list[Config]:
  """Returns the tiles worth timing, the default first: shapes, stages, order and cuts."""
  default = hopper.heuristic(operation, problem)
  found = [default]
  if operation == 'weight_gradient':
    shapes = itertools.product((1, 2, 3), (1, 2, 3), (64, 128))
    found += [default._replace(tile_m=stacked, warpgroups=workers, tile_k=tile_k)
              for stacked, workers, tile_k in shapes]
    found += [default._replace(split=split) for split in (1, 2, 4)]
  else:
    shapes = itertools.product((64, 128, 192, 256), (1, 2, 3), (64, 128))
    found += [default._replace(tile_m=tile_m, warpgroups=workers, tile_k=tile_k)
              for tile_m, workers, tile_k in shapes]
    found += [default._replace(row_group=group) for group in (1, 2, 4, 16)]
    found += [default._replace(balanced=False)]
  fitting = []
  for config in found:
    for stages in (6, 4, 3, 2):          # as many as fit, and the default's own
      config = config._replace(stages=stages)
      if hopper.why_not(operation, config, problem) is None:
        fitting.append(config)
        break
  return list(dict.fromkeys([default, *fitting]))


def tuned_cells() -> Iterator[tuple[str, Cell]]:
  """Yields (operation, cell) in the order in which a table should be filled."""
  for m, block, operation in itertools.product((2048, 8192, 128), (128, 64), OPERATIONS):
    yield operation, Cell(m, 4096, block, 0.1)


def chained(function: Callable[[Operands], Any]) -> Callable[[Sequence[Operands]], Any]:
  """Returns a jitted function that computes it for each of several operands, back to back."""
  inner = jax.jit(function)       # traced and lowered once for all operands
  return jax.jit(lambda many: [inner(o) for o in many])


def seconds_each(programs: dict[str, Callable[[Any], Any]], many: Sequence[Operands],
                 rounds: int) -> dict[str, np.ndarray]:
  """Times compiled programs in turn; returns {name: seconds a product, (rounds,)}."""
  def call(program):
    return lambda: jax.block_until_ready(program(many))
  samples = interleaved({name: call(program) for name, program in programs.items()}, rounds,
                        warmup=2)
  return {name: times / 1e3 / len(many) for name, times in samples.items()}


class Step(NamedTuple):
  """A whole training step, dense or sparse.

  Attributes:
    name: of the network. run: jitted, state -> state. state: parameters, optimiser's state, batch.
  """

  name: str
  run: Callable[[Any], Any]
  state: Any


def mlp_step(sparse: bool, *, batch: int = 2048, width: int = 4096, layers: int = 3,
             block: int = 128, density: float = 0.1) -> Step:
  """784 inputs, `layers` square layers of `width`, 10 classes; bfloat16, SGD with momentum."""
  keys = iter(jax.random.split(jax.random.key(0), layers + 4))
  hidden = [_layer(Cell(batch, width, block, density), sparse, next(keys)) for _ in range(layers)]
  params = {'in': _dense(next(keys), 784, width), 'hidden': hidden,
            'out': _dense(next(keys), width, 10)}
  x = jax.random.normal(next(keys), (batch, 784), jnp.bfloat16)
  labels = jax.random.randint(next(keys), (batch,), 0, 10)

  def loss(params):
    h = jax.nn.relu(x @ params['in'])
    for weight in params['hidden']:
      h = block_sparse_matmul(h, weight, activation='relu') if sparse else jax.nn.relu(h @ weight)
    logits = (h @ params['out']).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
  return _step('mlp', loss, params)


def lstm_step(sparse: bool, *, batch: int = 128, width: int = 4096, length: int = 32,
              symbols: int = 128, block: int = 128, density: float = 0.1) -> Step:
  """Embedding, one LSTM layer of `width` units whose eight kernels are square, and a head."""
  keys = iter(jax.random.split(jax.random.key(0), 12))
  layer = lambda rows: _layer(Cell(rows, width, block, density), sparse, next(keys))
  params = {'embed': _dense(next(keys), symbols, width),
            'inputs': [layer(batch * length) for _ in range(4)],
            'state': [layer(batch) for _ in range(4)], 'head': _dense(next(keys), width, symbols)}
  tokens = jax.random.randint(next(keys), (length + 1, batch), 0, symbols)
  multiply = block_sparse_matmul if sparse else jnp.matmul

  def loss(params):
    entered = [multiply(params['embed'][tokens[:-1]], w) for w in params['inputs']]

    def time_step(carry, now):
      c, h = carry
      i, f, o, u = (a + multiply(h, w) for a, w in zip(now, params['state']))
      c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(u)
      h = jax.nn.sigmoid(o) * jnp.tanh(c)
      return (c, h), h
    zeros = jnp.zeros((batch, width), jnp.bfloat16)
    states = jax.lax.scan(time_step, (zeros, zeros), entered)[1]
    logits = (states @ params['head']).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[1:]).mean()
  return _step('lstm', loss, params)


def _step(name, loss, params):
  optimiser = optax.sgd(0.01, momentum=0.9)

  def step(state):
    params, memory = state
    grads = jax.grad(loss, allow_int=True)(params)
    updates, memory = optimiser.update(_trained(grads), memory)
    return _replaced(params, optax.apply_updates(_trained(params), updates)), memory
  return Step(name, jax.jit(step), (params, optimiser.init(_trained(params))))


def _trained(params):
  """The numbers of a tree, without the layouts."""
  return jax.tree.map(lambda p: p.blocks if isinstance(p, BlockSparse) else p, params,
                      is_leaf=lambda p: isinstance(p, BlockSparse))


def _replaced(params, numbers):
  return jax.tree.map(lambda p, n: p.replace(blocks=n) if isinstance(p, BlockSparse) else n, params,
                      numbers, is_leaf=lambda p: isinstance(p, BlockSparse))


def _layer(cell, sparse, key):
  if not sparse:
    return _dense(key, cell.side, cell.side)
  weight = weight_of(cell)
  scale = math.sqrt(cell.density * cell.side)
  return weight.replace(blocks=operands(cell._replace(m=1), weight, key).blocks / scale)


def _dense(key, inputs, outputs):
  return jax.random.normal(key, (inputs, outputs), jnp.bfloat16) / math.sqrt(inputs)
