"""What the device does at best: dense products, copies, launches; and PyTorch's BSR beside ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.hopper_cells import Cell, Operands
from benchmarks.timing import estimate, interleaved
from sparsejax.kernels.block_sparse import BlockSparse

Array = jax.Array
SIDE = 8192
COPIED = 2**30          # numbers of one byte
LAUNCHES = 200


def measure(rounds: int) -> dict[str, float]:
  """Returns cuBLAS' rate in bfloat16, bandwidth of a copy (read and written) and seconds a launch.

  Ten products, or copies, a program; a launch is one of many products too small to take time.
  """
  a, b = (jax.random.normal(key, (SIDE, SIDE), jnp.bfloat16)
          for key in jax.random.split(jax.random.key(0)))
  wide = jnp.arange(COPIED, dtype=jnp.uint8)
  tiny = jnp.ones((16, 16), jnp.bfloat16)

  def chain(y):
    for _ in range(LAUNCHES):
      y = jnp.dot(y, tiny)
    return y
  programs: dict[str, Callable[[], Any]] = {
      'dot': _ready(jax.jit(lambda a, b: [jnp.dot(a + i, b) for i in range(10)]), a, b),
      'add': _ready(jax.jit(lambda a: [a + i for i in range(10)]), a),
      'copy': _ready(jax.jit(lambda x: [x + np.uint8(i + 1) for i in range(10)]), wide),
      'launch': _ready(jax.jit(chain), tiny)}
  seconds = {name: estimate(t).median / 1e3
             for name, t in interleaved(programs, rounds, warmup=2).items()}
  # The sums keep the ten products apart; their own time, measured alone, is taken off.
  return {'flops_per_second': 10 * 2 * SIDE**3 / (seconds['dot'] - seconds['add']),
          'bytes_per_second': 10 * 2 * COPIED / seconds['copy'],
          'launch_seconds': seconds['launch'] / LAUNCHES}


def roofline(limits: Mapping[str, float], flops: float, moved: float, launches: int) -> float:
  """Returns the least seconds that a product can take on the measured device."""
  return max(flops / limits['flops_per_second'], moved / limits['bytes_per_second'],
             launches * limits['launch_seconds'])


def torch_bsr(cell: Cell, weight: BlockSparse,
              many: Sequence[Operands]) -> dict[str, Callable[[Any], None]]:
  """Returns {'torch_bsr': program} of PyTorch's block-sparse linear layer; {} without CUDA."""
  try:
    import torch
  except ModuleNotFoundError:
    return {}
  if not torch.cuda.is_available():
    return {}
  # A linear layer multiplies with the transpose: rows of blocks are our columns.
  layout = weight.layout
  ptr, row = (torch.from_numpy(np.asarray(a)).long().cuda() for a in (layout.ptr, layout.row))
  blocks = torch.randn(weight.blocks.shape, dtype=torch.bfloat16, device='cuda')
  matrix = torch.sparse_bsr_tensor(ptr, row, blocks.transpose(1, 2).contiguous(),
                                   size=(cell.side, cell.side))
  xs = [torch.randn(cell.m, cell.side, dtype=torch.bfloat16, device='cuda') for _ in many]

  def program(_):
    for x in xs:
      torch.nn.functional.linear(x, matrix)
    torch.cuda.synchronize()
  return {'torch_bsr': program}


def _ready(program: Callable[..., Any], *operands: Array) -> Callable[[], None]:
  return lambda: jax.block_until_ready(program(*operands))
