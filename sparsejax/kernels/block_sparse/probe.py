"""Gradients of blocks that are not stored, as norms, only in the steps that ask for them.

A pattern that moves to where the loss falls most (RigL) must know the gradient with respect to the
whole matrix once in many steps. A weight that carries a `Probe` lets it be asked for: what autodiff
returns as the gradient of `scores` are the Frobenius norms of x^T g, block by block. They are
formed one block row at a time, so that the dense gradient is never held, and under a condition, so
that other steps pay nothing. (Under `vmap` a condition becomes a choice, and is paid every time.)
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


class Probe(NamedTuple):
  """Asks for the norms of the gradient of every block.

  A weight that is used several times in one pass, or by several devices on parts of a batch, gets
  the sum of the norms of all uses, which is at least the norm of the sum.

  Attributes:
    scores: zeros (rows, columns), float32; its gradient is the answer.
    due: bool scalar, whether it is asked for now; if not, the answer is zeros.
  """

  scores: Array
  due: Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def watch(z: Array, x: Array, probe: Probe, block: tuple[int, int]) -> Array:
  """Returns z = x @ weight (+ bias) as it is; on the way back it answers the probe.

  Args:
    z: (m, outputs). x: (m, inputs), gated. block: (b_in, b_out). Ragged edges need no padding here.
  """
  del x, probe, block
  return z


def _forward(z, x, probe, block):
  del block
  return z, (x, probe)


def _backward(block, residuals, g):
  x, probe = residuals
  (b_in, b_out), (rows, columns) = block, probe.scores.shape

  def norms():
    wide = jnp.pad(g.astype(x.dtype), ((0, 0), (0, columns * b_out - g.shape[1])))
    tall = jnp.pad(x, ((0, 0), (0, rows * b_in - x.shape[1])))

    def of_row(inputs):         # (m, b_in) -> (columns,)
      product = lax.dot_general(inputs, wide, (((0,), (0,)), ((), ())),
                                preferred_element_type=jnp.float32)
      return jnp.sqrt(jnp.square(product).reshape(b_in, columns, b_out).sum(axis=(0, 2)))
    return lax.map(of_row, tall.reshape(-1, rows, b_in).swapaxes(0, 1))
  scores = lax.cond(probe.due, norms, lambda: probe.scores)
  return g, jnp.zeros_like(x), Probe(scores, None)


watch.defvjp(_forward, _backward)
