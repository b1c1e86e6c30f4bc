"""A kernel as a grid of blocks: the arithmetic of shapes, and the way there and back.

A kernel of several axes is a matrix whose rows are its leading `input_axes` axes and whose columns
are the rest; a ragged edge is padded with zeros. A method that keeps kernels in another form needs
their shapes back, as plain numbers also under `jit`, from arrays alone, for a state is nothing
else: `shape_record` has one array for each axis, as long as that axis.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.paths import Tree

Array = jax.Array
BlockSize = int | tuple[int, int]


class BlockGrid(NamedTuple):
  """How blocks cover one kernel; build it by `block_grid`.

  Attributes:
    shape: of the kernel. input_axes: how many of its leading axes are rows of the matrix.
    block: (b_in, b_out).
  """

  shape: tuple[int, ...]
  input_axes: int
  block: tuple[int, int]

  @property
  def matrix(self) -> tuple[int, int]:
    """(inputs, outputs), without padding."""
    return (math.prod(self.shape[:self.input_axes]), math.prod(self.shape[self.input_axes:]))

  @property
  def grid(self) -> tuple[int, int]:
    """(rows, columns) of blocks."""
    return (-(-self.matrix[0] // self.block[0]), -(-self.matrix[1] // self.block[1]))

  def tiles(self, kernel: Any) -> Any:
    """Returns the blocks of a kernel, (rows, columns, b_in, b_out); edges are padded with zeros."""
    (inputs, outputs), (rows, columns), (b_in, b_out) = self.matrix, self.grid, self.block
    matrix = kernel.reshape(inputs, outputs)
    if (rows * b_in, columns * b_out) != (inputs, outputs):
      matrix = jnp.pad(matrix, ((0, rows * b_in - inputs), (0, columns * b_out - outputs)))
    return matrix.reshape(rows, b_in, columns, b_out).swapaxes(1, 2)

  def kernel(self, tiles: Any) -> Any:
    """The inverse of `tiles`: returns the kernel of `shape`, padding cut off."""
    (inputs, outputs), (rows, columns), (b_in, b_out) = self.matrix, self.grid, self.block
    matrix = tiles.reshape(rows, columns, b_in, b_out).swapaxes(1, 2)
    return matrix.reshape(rows * b_in, columns * b_out)[:inputs, :outputs].reshape(self.shape)

  def inputs_of_rows(self) -> list[int]:
    """Returns how many real inputs each block row has: b_in but for a ragged last one."""
    return [min(self.block[0], self.matrix[0] - start)
            for start in range(0, self.matrix[0], self.block[0])]


def block_grid(path: str, shape: tuple[int, ...], block: tuple[int, int],
               input_axes: int | None = None, pad: bool = False) -> BlockGrid:
  """Returns the grid of a kernel.

  Args:
    path: of the kernel, for messages. shape: of the kernel, at least two axes.
    block: (b_in, b_out). pad: whether blocks may stick out of a ragged edge.
    input_axes: leading axes that are rows of the matrix; all but the last by default.

  Raises:
    ValueError: for a leaf that is no matrix, or blocks that do not divide it without `pad`.
  """
  axes = len(shape) - 1 if input_axes is None else input_axes
  if not 1 <= axes < len(shape):
    raise ValueError(f'{path} {shape} with {axes} input axes is no matrix, which blocks need; '
                     'leave it out of the rule, or correct input_axes')
  grid = BlockGrid(tuple(shape), axes, block)
  if not pad and (grid.matrix[0] % block[0] or grid.matrix[1] % block[1]):
    raise ValueError(f'blocks of {block[0]} x {block[1]} do not divide {path} {tuple(shape)}, a '
                     f'matrix of {grid.matrix[0]} x {grid.matrix[1]}; choose divisors of it')
  return grid


def block_pair(block_size: BlockSize) -> tuple[int, int]:
  """Returns (b_in, b_out); one number stands for both.

  Raises:
    ValueError: for anything but one or two numbers from 1 on.
  """
  pair = (block_size, block_size) if isinstance(block_size, int) else tuple(block_size)
  if len(pair) != 2 or not all(isinstance(side, int) and side >= 1 for side in pair):
    raise ValueError(f'block_size={block_size!r} must be a number from 1 on, or a pair (b_in, '
                     'b_out)')
  return (pair[0], pair[1])


def shape_record(shape: tuple[int, ...]) -> Tree:
  """Returns arrays that carry a shape: {'0': bool (shape[0],), '1': bool (shape[1],), ...}."""
  return {str(axis): jnp.zeros(length, bool) for axis, length in enumerate(shape)}


def recorded_shape(record: Tree) -> tuple[int, ...]:
  """Returns the shape in a record; static, whatever traces the record."""
  return tuple(record[str(axis)].shape[0] for axis in range(len(record)))
