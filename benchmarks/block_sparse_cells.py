"""One cell of the block-sparse benchmark: the same product by every means, timed in turn."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.experimental import sparse

from benchmarks.timing import PAUSE_SECONDS, estimate, interleaved, ratio
from sparsejax.kernels.block_sparse import BlockSparse, block_sparse_matmul
from sparsejax.kernels.block_sparse.arg_specs import BENCHMARKS
from sparsejax.packing import pack
from sparsejax.training.step_timing import split_floats

Array = jax.Array
OTHERS_AT = (32, 128)        # masks and unstructured formats hardly depend on the block
LEAST_MILLISECONDS = 2.0     # of a sample
BCOO_ENTRIES = 2 * 10**6     # times rows: beyond it takes seconds a call


class Cell(NamedTuple):
  """x (m, k) times a k x n matrix of which `density` of the square blocks are not zero."""

  m: int
  k: int
  n: int
  block: int
  density: float

  @property
  def shape(self) -> str:
    """Such as '128x1024x1024'."""
    return f'{self.m}x{self.k}x{self.n}'


LARGE = ('512x2048x2048', '128x4096x4096')      # slow: not every block and density


def _kept(cell):
  return cell.shape not in LARGE or (cell.block in (32, 128) and cell.density < 0.5)


CELLS = [cell for cell in (Cell(spec.m, spec.inputs, spec.outputs, spec.block[0], spec.density)
                           for spec in BENCHMARKS) if _kept(cell)]
QUICK_CELLS = [cell for cell in CELLS if cell.shape == '128x1024x1024' and cell.block in (32, 128)
               and cell.density in (0.5, 0.1, 0.05)]


def time_cell(cell: Cell, rounds: int, others: bool) -> list[dict[str, Any]]:
  """Returns one row per product ('forward', 'training') and contender.

  Keys: m, k, n, block, density (of the blocks really drawn), product, contender, implementation
  (what ours ran), milliseconds, dense_milliseconds, speedup, low, high, efficiency.

  Args:
    rounds: timed calls of each. others: also time what is not ours.
  """
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((cell.m, cell.k)), jnp.float32)
  mask = _pattern(rng, cell)
  dense = rng.standard_normal((cell.k, cell.n)).astype(np.float32)
  weight = BlockSparse.from_dense(dense, cell.block, mask=mask)
  zeros = weight.to_dense()
  density = float(mask.mean())
  rows = []
  for product in ('forward', 'training'):
    functions = _ours(product, x, weight, zeros, cell)
    if others:
      functions |= _masked(product, x, dense, zeros)
    if others and product == 'forward' and cell.block in OTHERS_AT:
      functions |= _other_formats(x, zeros, cell)
    pause = PAUSE_SECONDS if 'torch BSR' in functions else 0.0
    samples = interleaved({name: call for name, (call, _) in functions.items()}, rounds, warmup=2,
                          pause=pause, least=LEAST_MILLISECONDS)
    for name, (_, implementation) in functions.items():
      if name == 'dense':
        continue
      gain = ratio(samples['dense'], samples[name])
      rows.append({
          **cell._asdict(), 'density': density, 'product': product, 'contender': name,
          'implementation': implementation, 'milliseconds': estimate(samples[name]).median,
          'dense_milliseconds': estimate(samples['dense']).median, 'speedup': gain.median,
          'low': gain.low, 'high': gain.high, 'efficiency': gain.median * density})
  return rows


def _pattern(rng, cell):
  mask = np.zeros((cell.k // cell.block) * (cell.n // cell.block), bool)
  mask[rng.permutation(mask.size)[:max(1, round(cell.density * mask.size))]] = True
  return mask.reshape(cell.k // cell.block, -1)


def _ours(product, x, weight, zeros, cell):
  """Returns {name: (call, implementation)} of dense, of what `pack` decides, and of the blocks."""
  purpose = 'inference' if product == 'forward' else 'training'
  packed, (found,) = pack({'w': weight}, {'w': cell.block}, rows=cell.m, purpose=purpose)
  calls = {'dense': (_jitted(product, jnp.dot, x, zeros), 'jnp.dot')}
  if found.packed:
    calls['ours'] = (_jitted(product, block_sparse_matmul, x, packed['w']), 'blocks')
  else:
    calls['ours'] = (_jitted(product, jnp.dot, x, packed['w']), 'dense')
    calls['blocks'] = (_jitted(
        product, functools.partial(block_sparse_matmul, implementation='xla'), x, weight), 'blocks')
  return calls


def _masked(product, x, dense, zeros):
  mask = jnp.asarray(np.asarray(zeros) != 0, jnp.float32)

  def multiply(x, pair):
    return x @ (pair['w'] * jax.lax.stop_gradient(pair['mask']))
  return {'mask': (_jitted(product, multiply, x, {'w': jnp.asarray(dense), 'mask': mask}),
                   'mask')}


def _other_formats(x, zeros, cell):
  host = np.asarray(zeros)
  transposed = x.T
  calls: dict[str, tuple[Callable[[], None], str]] = {}
  bcsr = sparse.BCSR.fromdense(zeros.T)
  calls['BCSR'] = (_jitted('forward', lambda a, b: b @ a, transposed, bcsr), 'W^T @ x^T')
  if bcsr.nse * cell.m <= BCOO_ENTRIES * 32:
    bcoo = sparse.BCOO.fromdense(zeros.T)
    calls['BCOO'] = (_jitted('forward', lambda a, b: b @ a, transposed, bcoo), 'W^T @ x^T')
  rows = np.ascontiguousarray(np.asarray(transposed))
  for name, matrix in (('SciPy CSR', scipy.sparse.csr_array(host.T)),
                       ('SciPy BSR', scipy.sparse.bsr_array(host.T, blocksize=(cell.block,) * 2))):
    calls[name] = (functools.partial(_discard, matrix.__matmul__, rows), 'one thread')
  return calls | _torch(x, host, cell)


def _torch(x, host, cell):
  try:
    import torch
  except ModuleNotFoundError:
    return {}
  columns = torch.from_numpy(np.ascontiguousarray(np.asarray(x).T))
  matrix = torch.from_numpy(np.ascontiguousarray(host.T)).to_sparse_bsr((cell.block, cell.block))
  return {'torch BSR': (functools.partial(_discard, torch.matmul, matrix, columns),
                        f'torch {torch.__version__}')}


def _discard(function, *operands):
  function(*operands)


def _jitted(product, function, x, weight):
  """Returns a call that runs the product, or the product with the gradients of both operands."""
  compiled, operands = jax.jit(function), (x, weight)
  if product == 'training':
    cotangent = jax.random.normal(jax.random.key(0), jax.eval_shape(function, x, weight).shape)
    compiled, operands = jax.jit(functools.partial(_both, function)), (x, weight, cotangent)

  def call():
    jax.block_until_ready(compiled(*operands))
  return call


def _both(function, x, weight, cotangent):
  """The product and its two gradients; index arrays of a weight have none."""
  values, rebuild = split_floats(weight)
  y, pull_back = jax.vjp(lambda x, values: function(x, rebuild(values)), x, values)
  return y, pull_back(cotangent)
