"""Named problems of the block-sparse product, shared by its tests and its benchmarks.

`CORRECTNESS` holds small ones with every corner a walk over blocks can stumble at, `BENCHMARKS` the
sizes whose times are reported. `arguments` draws the numbers of one with NumPy, from its seed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.kernels.block_sparse.layout import capacity_for
from sparsejax.kernels.block_sparse.weight import BlockSparse

Array = jax.Array


class Spec(NamedTuple):
  """One problem: y (m, outputs) = x (m, inputs) @ W.

  Attributes:
    name: unique. block: (b_in, b_out); edges that it does not divide are padded.
    density: fraction of the blocks that are stored, drawn at random, at least one.
    empty_columns, empty_rows: the first of the output and the last of the input blocks, emptied.
    spare: capacity beyond what the pattern takes. seed: of the numbers and the pattern.
  """

  name: str
  m: int
  inputs: int
  outputs: int
  block: tuple[int, int]
  density: float = 0.5
  empty_columns: int = 0
  empty_rows: int = 0
  spare: int = 0
  seed: int = 0

  @property
  def grid(self) -> tuple[int, int]:
    """(rows, columns) of blocks."""
    return (-(-self.inputs // self.block[0]), -(-self.outputs // self.block[1]))


class Arguments(NamedTuple):
  """The numbers of a problem.

  Attributes:
    x: (m, inputs). weight: BlockSparse. bias, output_gate: (outputs,). input_gate: (inputs,).
    cotangent: (m, outputs). mask: (rows, columns) bool, on the host.
    dense: (inputs, outputs) NumPy float64, the matrix that `weight` stands for.
  """

  x: Array
  weight: BlockSparse
  bias: Array
  input_gate: Array
  output_gate: Array
  cotangent: Array
  mask: np.ndarray
  dense: np.ndarray


# The corners, all in one small shape: enough for a quick look at a new implementation.
MIXED = Spec('mixed', m=13, inputs=75, outputs=100, block=(16, 24), empty_columns=1, empty_rows=1,
             spare=3)
NOTHING = Spec('nothing', m=3, inputs=32, outputs=48, block=(16, 16), density=0.0)

CORRECTNESS = (
    MIXED,
    NOTHING,
    Spec('nothing_but_spare', m=2, inputs=32, outputs=32, block=(16, 16), density=0.0, spare=5),
    Spec('full', m=8, inputs=32, outputs=64, block=(16, 16), density=1.0),
    Spec('one_block_of_many', m=4, inputs=64, outputs=64, block=(16, 16), density=1e-9),
    Spec('one_block', m=4, inputs=24, outputs=40, block=(24, 40), density=1.0),
    Spec('empty_columns', m=8, inputs=64, outputs=64, block=(16, 16), empty_columns=2),
    Spec('empty_rows', m=8, inputs=64, outputs=64, block=(16, 16), empty_rows=2),
    Spec('ragged', m=8, inputs=50, outputs=70, block=(16, 16)),
    Spec('tall_blocks', m=8, inputs=128, outputs=24, block=(64, 8)),
    Spec('wide_blocks', m=8, inputs=24, outputs=256, block=(8, 128)),
    Spec('one_row', m=1, inputs=64, outputs=96, block=(32, 32)),
    Spec('odd_rows', m=37, inputs=64, outputs=64, block=(32, 32)),
    Spec('spare', m=8, inputs=48, outputs=64, block=(16, 16), spare=7),
    Spec('single_column', m=8, inputs=96, outputs=16, block=(16, 16)),
    Spec('single_row', m=8, inputs=16, outputs=96, block=(16, 16)),
    *(Spec(f'block_{b}', m=16, inputs=2 * b, outputs=3 * b, block=(b, b)) for b in (
        8, 16, 32, 64, 128, 256)),
)

BENCHMARKS = tuple(
    Spec(f'{m}x{k}x{n}_b{block}_d{density:g}', m, k, n, (block, block), density)
    for m, k, n in ((128, 1024, 1024), (512, 1024, 1024), (1, 4096, 4096), (512, 2048, 2048),
                    (128, 4096, 4096))
    for block in (8, 16, 32, 64, 128)
    for density in (0.5, 0.2, 0.1, 0.05, 0.01)
)


def pattern(spec: Spec) -> np.ndarray:
  """Returns which blocks are stored, (rows, columns) bool; an exact number of them at random.

  Density 0 is the empty matrix; with emptied rows or columns fewer blocks than asked for remain.
  """
  size = math.prod(spec.grid)
  count = max(1, round(spec.density * size)) if spec.density else 0
  mask = np.zeros(size, bool)
  mask[np.random.default_rng(spec.seed).choice(size, count, replace=False)] = True
  mask = mask.reshape(spec.grid)
  mask[:, :spec.empty_columns] = False
  mask[spec.grid[0] - spec.empty_rows:] = False
  return mask


def arguments(spec: Spec, dtype: Any = jnp.float32, *, integers: bool = False) -> Arguments:
  """Draws the numbers of a problem.

  Args:
    dtype: of all arrays but `dense`, which holds the weight as `dtype` rounds it.
    integers: draws small integers, and gates of 0, 1/2 and 1, of which float32 forms every sum of
      the product and of its gradients exactly, in any order: results can be compared bit by bit.
      Otherwise standard normal numbers, weights scaled so that outputs are of order one.
  """
  rng = np.random.default_rng([spec.seed, 1])
  mask = pattern(spec)
  (m, inputs, outputs), (b_in, b_out) = spec[1:4], spec.block

  def draw(*shape):
    return rng.integers(-3, 4, shape) if integers else rng.standard_normal(shape)

  def gates(size):
    return rng.integers(0, 3, size) / 2 if integers else rng.uniform(0, 1, size)
  dense = draw(inputs, outputs)
  if not integers:
    dense = dense / math.sqrt(max(1, mask.sum() / spec.grid[1]) * b_in)
  dense = dense * np.kron(mask, np.ones((b_in, b_out)))[:inputs, :outputs]
  dense = np.asarray(jnp.asarray(dense, jnp.float32).astype(dtype))
  weight = BlockSparse.from_dense(jnp.asarray(dense), spec.block, mask=mask, pad=True,
                                  capacity=capacity_for(mask) + spec.spare)
  x, bias, input_gate, output_gate, cotangent = (
      jnp.asarray(value, jnp.float32).astype(dtype)
      for value in (draw(m, inputs), draw(outputs), gates(inputs), gates(outputs),
                    draw(m, outputs)))
  return Arguments(x, weight, bias, input_gate, output_gate, cotangent, mask,
                   dense.astype(np.float64))
