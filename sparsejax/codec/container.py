"""The container `.sjx`: one file with a network's weights, each leaf in its smallest form.

Any changed, missing or added byte is seen before anything is decoded (`envelope.py`); a file made
in bad faith, with a right checksum, meets the limits of `header.py` and the checks of each form.
"""
from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from sparsejax.codec import envelope, leaf, models, packed_tensors, tree_paths, values
from sparsejax.codec import header as headers
from sparsejax.codec.atomic import write_atomically
from sparsejax.structured import densify

EXTENSION = '.sjx'


def write(path: str | os.PathLike[str], weights: dict[str, Any], *, model: Any = None,
          facts: Mapping[str, Any] | None = None, coding: str | Mapping[str, str] = 'smallest',
          probabilities: Mapping[str, tuple[Any, Any]] | None = None,
          provenance: Mapping[str, str | int | float] | None = None) -> int:
  """Writes a container, atomically; the same input gives the same bytes.

  Args:
    path: the file; its folder must exist.
    weights: nested dict, string keys, of NumPy or JAX arrays or of packed weights; for `model`,
      its variables, {'params': ...}.
    model: the network that these are the variables of, of `models.MODELS`.
    facts: what else running it needs, such as {'scale': 1 / 255, 'mean': array}: JSON values and
      arrays.
    coding: one of `leaf.CODINGS`, or {path: coding} ('smallest' for the others).
    probabilities: {path: (values, probabilities)}, each (k,): a learned prior over the values of a
      leaf, zero among them, to code it by in place of the frequencies found.
    provenance: where the weights come from.

  Returns: the size of the file in bytes.
  Raises: ValueError, naming the key or path, for what the file cannot hold.
  """
  provenance = dict(provenance or {})
  headers.check_provenance(provenance)
  plain, packed = packed_tensors.take_out(weights)
  leaves, empty = tree_paths.flatten(plain)
  # A dict of packed weights alone is left without keys by take_out, and is not empty.
  empty = [path for path in empty
           if not any(name.startswith(f'{path}/') or not path for name in packed)]
  arrays = [('weights', name, array) for name, array in leaves.items()]
  entries = {}
  for name, weight in sorted(packed.items()):
    tensors, inner = weight.to_tensors()
    arrays += [('packed', f'{name}/{key}', array)
               for key, array in tree_paths.flatten(dict(tensors))[0].items()]
    shape, dtype = _shape_and_dtype(weight)
    entries[name] = {'kind': type(weight).__name__, 'shape': shape, 'dtype': dtype,
                     'facts': inner, 'tensors': sorted(tensors)}
  plain_facts, fact_arrays = _split_facts(facts or {})
  arrays += [('facts', name, array) for name, array in fact_arrays.items()]
  choose = _chooser(coding, probabilities or {}, {name for _, name, _ in arrays})
  rows, streams = [], []
  offset, allowance = 0, leaf.ALLOWANCE
  for section, name, array in arrays:
    coded = choose(name, array, allowance)
    allowance -= leaf.excess_bytes(coded.facts)
    rows.append({**coded.facts, 'offset': offset, 'path': name, 'section': section})
    streams.append(coded.data)
    offset += len(coded.data)
  header = headers.to_bytes({
      'empty': empty, 'facts': plain_facts, 'leaves': rows, 'packed': entries,
      'model': None if model is None else models.describe(model), 'provenance': provenance})
  headers.parse(header, offset)        # what a reader would refuse is never written
  return write_atomically(path, envelope.seal(header, streams))


class Container:
  """An open container, whole and checked: leaves are decoded one by one, when asked for.

  Attributes:
    header: the parsed header. header_bytes: what precedes the streams.
  """

  def __init__(self, path: str | os.PathLike[str]):
    """Reads and checks the file; decodes nothing.

    Raises:
      ValueError: naming the file, if it is damaged, or promises what no file holds.
      FileNotFoundError: if there is no such file.
    """
    self.path = os.fspath(path)
    try:
      header, self._streams, self.header_bytes = envelope.unseal(path)
      self.header = headers.parse(header, len(self._streams))
    except ValueError as error:
      raise ValueError(f'{self.path} is damaged or no container: {error}') from error
    self._entries = {(entry['section'], entry['path']): entry for entry in self.header['leaves']}

  def paths(self) -> tuple[str, ...]:
    """Returns the paths of the weights, packed ones too."""
    return (*(path for section, path in self._entries if section == 'weights'),
            *self.header['packed'])

  def leaf(self, path: str) -> Any:
    """Returns one array, or the packed weight, at a path of `paths()`.

    Raises:
      ValueError: if there is none, or its stream is not what the header says.
    """
    if path in self.header['packed']:
      return self._packed(path)
    if ('weights', path) not in self._entries:
      raise ValueError(f'{self.path} has no leaf {path!r}; it has {", ".join(self.paths())}')
    return self._array('weights', path)

  def weights(self, structured: bool = True) -> dict[str, Any]:
    """Returns the nested dict that was written; packed weights dense unless `structured`."""
    tree = tree_paths.unflatten({path: self.leaf(path) for path in self.paths()},
                                self.header['empty'])
    return tree if structured else _dense(tree)

  def model(self) -> Any:
    """Returns the network that the weights are the variables of.

    Raises:
      ValueError: if the file names none, or one that cannot be built.
    """
    if self.header['model'] is None:
      raise ValueError(f'{self.path} names no model; write it with model=')
    try:
      return models.build(self.header['model'])
    except ValueError as error:
      raise ValueError(f'{self.path}: {error}') from error

  def facts(self) -> dict[str, Any]:
    """Returns the facts that were written, arrays as NumPy arrays."""
    arrays = {path: self._array(section, path) for section, path in self._entries
              if section == 'facts'}
    return {**self.header['facts'], **arrays}

  def provenance(self) -> dict[str, str | int | float]:
    """Returns the provenance that was written."""
    return dict(self.header['provenance'])

  def arrays(self) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
    """Yields (path, array, facts) of each stream, those of packed weights and facts too."""
    for (section, path), entry in self._entries.items():
      yield path, self._array(section, path), entry

  def _array(self, section: str, path: str) -> np.ndarray:
    entry = self._entries[section, path]
    start = entry['offset']
    try:
      return leaf.decode(entry, self._streams[start:start + entry['bytes']])
    except ValueError as error:
      raise ValueError(f'{self.path}: leaf {path}: {error}') from error

  def _packed(self, path: str) -> Any:
    entry = self.header['packed'][path]
    tensors = {name: self._array('packed', f'{path}/{name}') for name in entry['tensors']}
    leaves = {f'{path}//{name}': array for name, array in tensors.items()}
    try:
      weight = packed_tensors.from_leaves(leaves, {path: entry})[path]
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
      raise ValueError(f'{self.path}: the arrays of {path} make no {entry["kind"]} weight: '
                       f'{error!r}') from error
    if _shape_and_dtype(weight) != (entry['shape'], entry['dtype']):
      raise ValueError(f'{self.path}: {path} has shape and dtype {_shape_and_dtype(weight)}, the '
                       f'header says {entry["shape"]} and {entry["dtype"]}')
    return weight


def _shape_and_dtype(weight: Any) -> tuple[list[int], str]:
  return [int(size) for size in weight.shape], np.dtype(weight.dtype).name


def _split_facts(facts: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Returns the facts that JSON holds, and the arrays among them."""
  arrays = {key: value for key, value in facts.items() if hasattr(value, '__array__')}
  plain = {key: value for key, value in facts.items() if key not in arrays}
  try:
    plain = json.loads(json.dumps(plain, allow_nan=False))
  except (TypeError, ValueError) as error:
    raise ValueError(f'facts must be JSON values or arrays: {error}') from error
  return plain, tree_paths.flatten(arrays)[0]


def _chooser(coding: str | Mapping[str, str], probabilities: Mapping[str, tuple[Any, Any]],
             paths: set[str]) -> Callable[[str, np.ndarray, int], leaf.Coded]:
  """Returns (path, array, allowance) -> coded leaf, as the arguments of `write` ask."""
  asked = {} if isinstance(coding, str) else dict(coding)
  for path in (*asked, *probabilities):
    if path not in paths:
      raise ValueError(f'no leaf {path!r} to code; leaves are {", ".join(sorted(paths))}')

  def choose(path: str, array: np.ndarray, allowance: int) -> leaf.Coded:
    try:
      book = None
      if path in probabilities:
        book = values.codebook_of(array.dtype, *probabilities[path])
      return leaf.encode(array, asked.get(path, 'smallest') if asked or not isinstance(coding, str)
                         else coding, book, allowance)
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from error
  return choose


def _dense(tree: dict[str, Any]) -> dict[str, Any]:
  def visit(node):
    if isinstance(node, dict):
      return {key: visit(child) for key, child in node.items()}
    return node if isinstance(node, np.ndarray) else np.array(densify(node))
  return visit(tree)
