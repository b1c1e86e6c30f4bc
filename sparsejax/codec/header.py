"""The header of a container: canonical JSON, parsed with limits and checked against the file.

Nothing is decoded here and no array is made: what a header promises is refused before it costs
memory. The fields:

  leaves       one object for each array, see `leaf.FIELDS`, and 'path', 'section', 'offset'; of the
               sections 'weights', 'packed' (an array of a packed weight: the path's last part is
               its name) and 'facts' (an array among the facts)
  empty        paths of the empty dicts of the weights
  packed       {path: {'kind', 'shape', 'dtype', 'facts', 'tensors'}}
  model        {'name', 'fields'} of the network (`models.py`), or null
  facts        what else a network needs to be run, such as its preprocessing; JSON values
  provenance   {name: string, int or float}
"""
from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import numpy as np

from sparsejax.codec import facts, leaf

FIELDS = ('empty', 'facts', 'leaves', 'model', 'packed', 'provenance')
LEAF_FIELDS = (*leaf.FIELDS, 'offset', 'path', 'section')
SECTIONS = ('weights', 'packed', 'facts')
PACKED_FIELDS = ('kind', 'shape', 'dtype', 'facts', 'tensors')
MAX_BYTES = 1 << 26           # of JSON
MAX_DEPTH = 64                # parts of a path, and levels of nested JSON
MAX_PATH = 1024               # characters


def to_bytes(header: dict[str, Any]) -> bytes:
  """Returns the header as JSON, keys sorted, without spaces, UTF-8.

  Raises:
    ValueError: for what JSON does not hold, or a header larger than a reader accepts.
  """
  try:
    text = json.dumps(header, sort_keys=True, separators=(',', ':'), allow_nan=False,
                      ensure_ascii=False)
  except TypeError as error:
    raise ValueError(f'the header must hold what JSON holds: {error}') from error
  data = text.encode()
  if len(data) > MAX_BYTES:
    raise ValueError(f'a header of {len(data)} bytes exceeds {MAX_BYTES}; write several files')
  return data


def parse(data: bytes, stream_bytes: int) -> dict[str, Any]:
  """Returns the header, once all in it is possible in a file with `stream_bytes` of streams.

  Raises:
    ValueError: for anything that `to_bytes` does not write of a tree the writer accepts.
  """
  _require_shallow(data)
  try:
    header = json.loads(data.decode('utf-8'), parse_constant=_refuse_constant)
    canonical = to_bytes(header) == data
  except (UnicodeError, RecursionError) as error:
    raise ValueError(f'the header is no UTF-8 JSON: {error}') from error
  if not canonical:      # a key given twice is lost in parsing, so it shows here too
    raise ValueError('the header is not in canonical form')
  facts.fields(header, FIELDS, 'the header')
  _check_types(header)
  _check_leaves(header['leaves'], stream_bytes)
  _check_paths(header)
  return header


def check_provenance(provenance: dict[str, Any]) -> None:
  """Raises ValueError, naming the entry, unless each is a string, an int or a finite float."""
  for key, value in provenance.items():
    if not isinstance(value, (str, int, float)):
      raise ValueError(f'provenance {key!r} is a {type(value).__name__}; pass str, int or float')
    if isinstance(value, float) and not math.isfinite(value):
      raise ValueError(f'provenance {key!r} is {value}; JSON holds finite numbers only')


def _require_shallow(data: bytes) -> None:
  """Counts brackets, those in strings too, before the parser recurses into them."""
  stored = np.frombuffer(data, np.uint8)
  steps = np.isin(stored, list(b'[{')).astype(np.int32) - np.isin(stored, list(b']}'))
  deepest = int(np.cumsum(steps, dtype=np.int32).max(initial=0))
  if deepest > 2 * MAX_DEPTH:
    raise ValueError(f'the header nests {deepest} levels deep')


def _refuse_constant(name: str) -> Any:
  raise ValueError(f'the header holds {name}, which is no JSON')


def _check_types(header: dict[str, Any]) -> None:
  for field, kind in (('leaves', list), ('empty', list), ('packed', dict), ('facts', dict),
                      ('provenance', dict)):
    if not isinstance(header[field], kind):
      raise ValueError(f'{field} must be a {kind.__name__}')
  if header['model'] is not None:
    fields = facts.fields(header['model'], ('name', 'fields'), 'model')
    if not isinstance(fields['name'], str) or not isinstance(fields['fields'], dict):
      raise ValueError('model must have a name and an object of fields')
  check_provenance(header['provenance'])


def _check_leaves(leaves: list[Any], stream_bytes: int) -> None:
  """The streams fill the file without gap or overlap, and decode to a bounded number of bytes."""
  offset = excess = 0
  for entry in leaves:
    facts.fields(entry, LEAF_FIELDS, 'a leaf')
    facts.one_of(entry, 'section', SECTIONS)
    facts.whole(entry, 'offset', offset, offset)
    offset += facts.whole(entry, 'bytes', 0, stream_bytes - offset)
    facts.whole(entry, 'position_bytes', 0, entry['bytes'])
    excess += leaf.excess_bytes(entry)
    if excess > leaf.ALLOWANCE:
      raise ValueError(f'{entry["path"]} of shape {entry["shape"]} does not fit its '
                       f'{entry["bytes"]} bytes: the file would take more than '
                       f'{leaf.ALLOWANCE} bytes beyond what its streams account for')
  if offset != stream_bytes:
    raise ValueError(f'the leaves take {offset} bytes, but {stream_bytes} follow the header')


def _check_paths(header: dict[str, Any]) -> None:
  """Every path is sound, no two name the same place, and none lies inside another."""
  places: dict[str, list[str]] = {section: [] for section in SECTIONS}
  for entry in header['leaves']:
    check_path(entry['path'])
    places[entry['section']].append(entry['path'])
  weights = [*places['weights'], *header['packed'], *header['empty']]
  for path in (*header['packed'], *(path for path in header['empty'] if path != '')):
    check_path(path)
  for group in (weights, places['packed'], places['facts']):
    _require_disjoint(group)
  if '' in header['empty'] and len(weights) > 1:
    raise ValueError('the tree is said to be empty, but has leaves')
  if set(places['facts']) & set(header['facts']):
    raise ValueError('a fact is both a value and an array')
  promised = []
  for path, entry in header['packed'].items():
    facts.fields(entry, PACKED_FIELDS, f'packed weight {path}')
    if not isinstance(entry['tensors'], list) or not isinstance(entry['facts'], dict):
      raise ValueError(f'packed weight {path} must have a list of tensors and an object of facts')
    if not all(isinstance(name, str) for name in (entry['kind'], *entry['tensors'])):
      raise ValueError(f'kind and tensors of packed weight {path} must be strings')
    _check_packed_shape(path, entry)
    promised += [f'{path}/{name}' for name in entry['tensors']]
  if sorted(promised) != sorted(places['packed']):
    raise ValueError('the arrays of packed weights are not those that they name')


def _check_packed_shape(path: str, entry: dict[str, Any]) -> None:
  """A packed weight may be made dense, so its dense size must be within the allowance."""
  shape, dtype = leaf.shape_and_dtype({'shape': entry['shape'], 'dtype': entry['dtype']})
  if math.prod(shape) * dtype.itemsize > leaf.ALLOWANCE:
    raise ValueError(f'packed weight {path} of shape {list(shape)} would take more than '
                     f'{leaf.ALLOWANCE} bytes as a dense array')
  inner = entry['facts'].get('shape', entry['shape'])
  if inner != entry['shape']:
    raise ValueError(f'packed weight {path} of shape {entry["shape"]} says {inner} of itself')


def check_path(path: Any) -> None:
  """Raises ValueError unless `path` is '/'-joined keys that a tree of weights can have."""
  if not isinstance(path, str) or len(path) > MAX_PATH:
    raise ValueError(f'path {str(path)[:80]!r} must be a string of at most {MAX_PATH} characters')
  parts = path.split('/')
  if len(parts) > MAX_DEPTH or any(part in ('', '.', '..') or '\0' in part for part in parts):
    raise ValueError(f"path {path!r} must have at most {MAX_DEPTH} parts, none of them empty, '.' "
                     "or '..'")


def _require_disjoint(paths: list[str]) -> None:
  known = Counter(paths)
  twice = [path for path, number in known.items() if number > 1]
  if twice:
    raise ValueError(f'path {twice[0]!r} is there twice')
  for path in paths:
    parts = path.split('/')
    for end in range(1, len(parts)):
      if '/'.join(parts[:end]) in known:
        raise ValueError(f'path {path!r} lies inside the leaf {"/".join(parts[:end])!r}')
