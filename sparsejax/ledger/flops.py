"""Multiply-adds of a traced program, summed per named scope. Nothing is computed.

Two operations per multiply-add. What counts, in words that can be checked by hand:

* `dot_general`: entries of the result x length of the contraction.
* convolution: output positions x kernel entries, for each image. Positions in the padding count, as
  in published tables. A transposed convolution (or input dilation) counts input positions instead:
  each input entry meets each kernel entry once, and the zeros in between are never multiplied.
* what stands in a scan of n steps counts n times; of a `cond`, the dearer branch per scope.

Bias additions, activations, normalisation, pooling and table look-ups are no multiply-adds here.
"""
from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from jax.extend import core

_SCOPE = re.compile(r'sparsejax_scope_(\d+)_')


def scope_name(index: int) -> str:
  """The `jax.named_scope` under which operations are booked on `index`; the innermost one wins."""
  return f'sparsejax_scope_{index}_'


def scoped_flops(program: core.ClosedJaxpr, transposed: Collection[int] = ()) -> Counter[int]:
  """Returns {scope index: flops} of the matrix products and convolutions in `program`.

  Args:
    program: from `jax.make_jaxpr`.
    transposed: the indices whose convolutions count input positions.
  Raises: ValueError if a counted product stands in a loop of unknown length.
  """
  return _walk(program.jaxpr, None, transposed)


def _walk(jaxpr: core.Jaxpr, scope: int | None, transposed: Collection[int]) -> Counter[int]:
  totals: Counter[int] = Counter()
  for equation in jaxpr.eqns:
    found = _SCOPE.findall(str(equation.source_info.name_stack))
    inner = int(found[-1]) if found else scope
    name = equation.primitive.name
    if name in ('dot_general', 'conv_general_dilated'):
      if inner is not None:
        count = _dot if name == 'dot_general' else _convolution
        totals[inner] += 2 * count(equation, inner in transposed)
      continue
    parts = [_walk(sub, inner, transposed) for sub in _subprograms(equation)]
    if name == 'cond':
      totals += _elementwise_max(parts)
      continue
    if name in ('while', 'pallas_call') and any(parts):
      raise ValueError(f'a layer is applied inside `{name}`, whose number of rounds is not in the '
                       'program; use nn.scan or nn.RNN, whose length is known')
    for part in parts:
      for key, flops in part.items():
        totals[key] += flops * (equation.params['length'] if name == 'scan' else 1)
  return totals


def _elementwise_max(parts: list[Counter[int]]) -> Counter[int]:
  largest: Counter[int] = Counter()
  for part in parts:
    largest |= part
  return largest


def _subprograms(equation: Any) -> Iterator[core.Jaxpr]:
  for value in equation.params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(item, core.ClosedJaxpr):
        yield item.jaxpr
      elif isinstance(item, core.Jaxpr):
        yield item


def _dot(equation: Any, transposed: bool) -> int:
  del transposed
  (contracted, _), _ = equation.params['dimension_numbers']
  left, result = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
  return math.prod(result) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: Any, transposed: bool) -> int:
  numbers = equation.params['dimension_numbers']
  image, kernel = (variable.aval.shape for variable in equation.invars[:2])
  result = equation.outvars[0].aval.shape
  positions = result[numbers.out_spec[0]]
  dilations = equation.params['lhs_dilation']
  for left, right, dilation in zip(numbers.lhs_spec[2:], numbers.out_spec[2:], dilations,
                                   strict=True):
    positions *= image[left] if transposed or dilation > 1 else result[right]
  return positions * math.prod(kernel)     # the kernel has in/groups x out entries per tap
