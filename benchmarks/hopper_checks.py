"""The Hopper kernels against float64, on fresh numbers and on memory that was filled with NaN."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.kernels.block_sparse import block_sparse_matmul
from sparsejax.kernels.block_sparse.arg_specs import Arguments, Spec, arguments

IMPLEMENTATION = 'pallas_mosaic_gpu'
POISON_BYTES = 2**30


class Check(NamedTuple):
  """One problem.

  Attributes:
    spec: shapes and pattern. dtype: by name.
    activation: of the epilogue, a smooth one: at a kink, rounding decides the gradient.
    gates: whether gates and a bias are given.
  """

  spec: Spec
  dtype: str = 'bfloat16'
  activation: str | None = None
  gates: bool = False

  @property
  def name(self) -> str:
    """Unique."""
    return f'{self.spec.name}-{self.dtype}-{self.activation}{"-gates" if self.gates else ""}'


_EDGES = {'empty_columns': 1, 'empty_rows': 1, 'spare': 3}
CHECKS = (
    Check(Spec('b64', 256, 512, 512, (64, 64), 0.3, **_EDGES)),
    Check(Spec('b128', 1024, 1024, 2048, (128, 128), 0.2, **_EDGES)),
    Check(Spec('b128', 1024, 1024, 2048, (128, 128), 0.2, **_EDGES), 'float16'),
    Check(Spec('b64', 256, 512, 512, (64, 64), 0.3, **_EDGES), 'bfloat16', 'gelu', True),
    Check(Spec('ragged', 333, 1000, 1500, (64, 64), 0.3, **_EDGES), 'bfloat16', 'silu', True),
    Check(Spec('b256', 512, 1024, 1024, (256, 256), 0.4, **_EDGES)),
    Check(Spec('b64x128', 100, 512, 1024, (64, 128), 0.3, **_EDGES), 'float16', 'tanh', True),
    Check(Spec('b192', 192, 768, 768, (192, 192), 0.5)),
    Check(Spec('one_row', 1, 512, 512, (64, 64), 0.3)),
    Check(Spec('nothing', 64, 256, 256, (128, 128), 0.0)),
    Check(Spec('full', 512, 1024, 1024, (128, 128), 1.0)),
    Check(Spec('many_tiles', 8192, 2048, 2048, (128, 128), 0.1, **_EDGES)),
    Check(Spec('large', 2048, 4096, 4096, (64, 64), 0.1, **_EDGES)),
)


def program(check: Check, seed: int = 0) -> tuple[Callable[..., Any], Arguments]:
  """Returns (function of the arguments -> value and gradients of x and blocks, the arguments)."""
  args = arguments(check.spec._replace(seed=seed), jnp.dtype(check.dtype))

  def compute(args):
    def product(x, blocks):
      fused = {'bias': args.bias, 'input_gate': args.input_gate,
               'output_gate': args.output_gate} if check.gates else {}
      return block_sparse_matmul(x, args.weight.replace(blocks=blocks), activation=check.activation,
                                 implementation=IMPLEMENTATION, **fused)
    y, pull_back = jax.vjp(product, args.x, args.weight.blocks)
    x_grad, block_grads = pull_back(args.cotangent)
    return product(args.x, args.weight.blocks), x_grad, block_grads
  return compute, args


def check(spec: Check) -> dict[str, Any]:
  """Runs one problem twice after poisoning memory.

  Returns {'good', 'seed', 'errors': relative errors ||found - wanted|| / ||wanted|| of value, x and
  blocks, 'same': whether both runs gave the same bits, 'bound'}. Two-byte results and two-byte
  intermediate values round by at most 2^-9 (bfloat16) or 2^-12 (float16) of themselves each, of
  which three in a row (gated x, g, result) with slopes below 1.2 stay below four such units.
  """
  seed = secrets.randbelow(2**31)
  compute, args = program(spec, seed)
  compute = jax.jit(compute)
  runs = []
  for _ in range(2):
    poison()
    runs.append([np.asarray(a.astype(jnp.float32), np.float64) for a in compute(args)])
  wanted = reference(spec, args)
  errors = [_relative(found, right) for found, right in zip(runs[1], wanted)]
  same = all(np.array_equal(a, b) for a, b in zip(*runs))
  bound = 4 * 2.0**{'bfloat16': -9, 'float16': -12}[spec.dtype]
  return {'good': bool(same and all(error <= bound for error in errors)), 'seed': seed,
          'errors': errors, 'same': same, 'bound': bound}


def poison() -> None:
  """Fills free memory with NaN, so that what a kernel does not write is seen."""
  size = POISON_BYTES // 4
  jax.block_until_ready(jnp.full(size, jnp.nan, jnp.float32)).delete()


def reference(spec: Check, args: Arguments) -> list[np.ndarray]:
  """Returns value and gradients in float64 with NumPy; the activation's slope by differences."""
  wide = lambda a: np.asarray(a.astype(jnp.float32), np.float64)
  x, g, dense = wide(args.x), wide(args.cotangent), args.dense
  gate_in, gate_out, bias = (wide(a) if spec.gates else neutral for a, neutral in (
      (args.input_gate, 1.0), (args.output_gate, 1.0), (args.bias, 0.0)))
  z = (x * gate_in) @ dense + bias
  value, slope = _activated(spec.activation, z)
  g = g * gate_out * slope
  weight, spare = args.weight, np.asarray(args.weight.layout.live)
  (b_in, b_out), (rows, columns) = weight.block_size, weight.grid
  whole = np.zeros((rows * b_in, columns * b_out))
  whole[:x.shape[1], :z.shape[1]] = (x * gate_in).T @ g
  tiles = whole.reshape(rows, b_in, columns, b_out).transpose(0, 2, 1, 3)
  blocks = tiles[np.asarray(weight.layout.row), np.asarray(weight.layout.col)]
  return [value * gate_out, (g @ dense.T) * gate_in, blocks * spare[:, None, None]]


def _activated(name, z):
  """The activation and its derivative in float64."""
  sigmoid = 1 / (1 + np.exp(-z))
  if name == 'gelu':               # JAX's, the approximation by tanh
    inner = np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)
    t = np.tanh(inner)
    return z / 2 * (1 + t), (1 + t) / 2 + z / 2 * (1 - t**2) * np.sqrt(2 / np.pi) * (
        1 + 3 * 0.044715 * z**2)
  return {None: (z, 1.0), 'tanh': (np.tanh(z), 1 - np.tanh(z)**2),
          'silu': (z * sigmoid, sigmoid * (1 + z * (1 - sigmoid)))}[name]


def _relative(found, wanted):
  if not np.isfinite(found).all():
    return float('inf')
  size = np.linalg.norm(wanted)
  return float(np.linalg.norm(found - wanted) / size if size else np.abs(found).max())
