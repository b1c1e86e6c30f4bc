"""Which axes of a recurrent network die together.

Three kinds of units: tokens (rows of the embedding, or of the first input kernels where inputs are
one-hot) and entries of real inputs, which the network does not make and hence can only be unread;
embedding dimensions; hidden units. Of a hidden unit, the columns of all gates, their biases and the
carried state are one end, the recurrent rows and the rows of the next layer the other.

A hidden unit without incoming weights is no constant, since its state starts at zero and drifts.
But some emit zero at every step, whatever their gates do: where nothing is written into the state.
That is the candidate of an LSTM (columns of ig and hg and their bias), of a GRU (columns and biases
of in and hn) and all of a plain unit. Such units are cut out; one whose gates alone are constant
stays, with gates f(b).

The outputs of the network (classes, predicted tokens) are never cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sparsejax.compaction.couplings import Coupling, Leaves, Read, Write

# What writes into the state, by the matrices that a cell has.
_CANDIDATES = ({'ig', 'hg'}, {'in', 'hn'}, {'i', 'h'})


def couplings_of(variables: Mapping[str, Any], layers: int, embedding: bool,
                 source: str) -> tuple[Coupling, ...]:
  """Returns the couplings of an embedding (if any), cells cell0, cell1, ... and the layer head.

  Args:
    variables: of the model; from the collection 'carry', if there, the carried states are cut too.
    layers: how many cells. embedding: whether tokens have one.
    source: the name of the coupling of what is read from outside.
  """
  params = variables['params']
  inputs = _input_reads(params, 0)
  if embedding:
    rows = [Coupling(source, (), (Read('embed/embedding', -2),)),
            Coupling('embed', (Write('embed/embedding', -1),), tuple(
                Read(read.path, -2, emits=_zeros('embed/embedding')) for read in inputs))]
  else:
    rows = [Coupling(source, (), inputs)]
  for i in range(layers):
    rows.append(_hidden(variables, i, last=i == layers - 1))
  return tuple(rows)


def compacted_fields(alive: Mapping[str, np.ndarray], kept_tokens: tuple[int, ...] | None = None,
                     kept_inputs: tuple[int, ...] | None = None) -> dict[str, Any]:
  """Returns the attributes of the smaller model; `alive` is {coupling: bool mask of units}."""
  cells = [name for name in alive if name.startswith('cell')]
  fields: dict[str, Any] = {'widths': tuple(int(alive[name].sum()) for name in cells)}
  if 'embed' in alive:
    fields['embedding'] = int(alive['embed'].sum())
  for source, field, before in (('tokens', 'kept_tokens', kept_tokens),
                                ('inputs', 'kept_inputs', kept_inputs)):
    if source in alive and not (before is None and alive[source].all()):
      ids = np.arange(alive[source].size) if before is None else np.array(before)
      fields[field] = tuple(int(i) for i in ids[alive[source]])
  return fields


def _hidden(variables, layer, last):
  name = f'cell{layer}'
  cell = variables['params'][name]
  candidate = next(own for own in _CANDIDATES if own <= set(cell))
  writes = []
  for matrix in sorted(cell):
    # Only what can bring a signal into the state is a 'weight': the others scale it.
    role = 'weight' if matrix in candidate else 'offset'
    writes += [Write(f'{name}/{matrix}/{leaf}', -1, role=role)
               for leaf in sorted(cell[matrix])]
  # The first write tells how many units there are, and a weight is a safer teller than a bias.
  writes.sort(key=lambda write: (write.role != 'weight', not write.path.endswith('kernel')))
  carry = variables.get('carry', {}).get(name, {})
  for part in sorted(carry):
    # A state that is not zero is a signal too; a state of zero is no parameter, and has no gate.
    known = hasattr(carry[part], '__array__')              # a shape alone has no values
    role = 'weight' if known and np.any(np.asarray(carry[part])) else 'statistic'
    writes.append(Write(f'carry/{name}/{part}', -1, role=role))
  readers = [f'{name}/{matrix}/kernel' for matrix in sorted(cell) if matrix.startswith('h')]
  readers += (['head/kernel'] if last else
              [read.path for read in _input_reads(variables['params'], layer + 1)])
  zeros = _zeros(writes[0].path)
  return Coupling(name, tuple(writes), tuple(Read(path, -2, emits=zeros) for path in readers))


def _input_reads(params, layer):
  cell = f'cell{layer}'
  return tuple(Read(f'{cell}/{matrix}/kernel', -2) for matrix in sorted(params[cell])
               if matrix.startswith('i'))


def _zeros(path: str) -> Callable[[Leaves], np.ndarray]:
  """The `emits` of units that a leaf makes along its last axis, and that emit 0."""
  return lambda leaves: np.zeros(leaves[path].shape[-1])
