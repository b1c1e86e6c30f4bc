"""Weights in a safetensors file: lossless, each leaf in the smaller of two forms, bytes checked.

A leaf is either one dense tensor under its '/'-joined path, or two tensors: `<path>//mask`, one bit
per entry (packed uint8, most significant bit first, C order), and `<path>//values`, the entries
whose bit is set. Only an entry whose bits are all 0 (+0.0, not -0.0) is left out, hence nothing is
lost. The form is chosen by size, header entries included. No key is empty, so '//' is in no path.
A packed weight is several leaves, `<path>//<name>` (`packed_tensors.py`).

The metadata holds one JSON string under the key `sparsejax`, which starts with the SHA-256 of the
whole file, taken with 64 zeros in the place of the digest itself: it covers names, dtypes, shapes,
contents, provenance and layout alike, so that any changed, missing or added byte is seen.
Safetensors: https://github.com/huggingface/safetensors (8-byte length, JSON header, bytes).
"""
from __future__ import annotations

import hashlib
import json
import math
import os
import re
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from sparsejax.codec import packed_tensors, tree_paths
from sparsejax.codec.atomic import write_atomically

FORMAT_VERSION = 1
MASK, VALUES = '//mask', '//values'
_NO_DIGEST = '0' * 64
# Quotes inside any JSON string of the header carry a backslash, so this matches our key alone.
_DIGEST = re.compile(rb'"sparsejax":"{\\"sha256\\":\\"(.{64})\\",')
_SAFETENSORS_DTYPES = {
    'BOOL': 'bool', 'I8': 'int8', 'I16': 'int16', 'I32': 'int32', 'I64': 'int64', 'U8': 'uint8',
    'U16': 'uint16', 'U32': 'uint32', 'U64': 'uint64', 'F16': 'float16', 'BF16': 'bfloat16',
    'F32': 'float32', 'F64': 'float64',
}


def write(path: str | os.PathLike[str], weights: dict[str, Any],
          **provenance: str | int | float) -> int:
  """Writes `weights` and `provenance` to `path`, atomically; the same input gives the same bytes.

  Args:
    path: the file; its folder must exist.
    weights: nested dict, string keys, of NumPy or JAX arrays: bool, (u)int8 to (u)int64, float16,
      bfloat16, float32 or float64; or of packed weights.
    **provenance: strings, ints and finite floats that say where the weights come from.

  Returns: the size of the file in bytes.
  Raises: ValueError, naming the key or path, for what the file cannot hold.
  """
  _check_provenance(provenance)
  weights, packed_weights = packed_tensors.take_out(weights)
  leaves, empty = tree_paths.flatten(weights)
  tensors: dict[str, np.ndarray] = {}
  shapes: dict[str, list[int]] = {}
  packed_leaves, packed_entries = packed_tensors.to_leaves(packed_weights)
  for name, leaf in (leaves | packed_leaves).items():
    if name == '__metadata__':
      raise ValueError("key '__metadata__' at the top is reserved by safetensors; rename it")
    bitmask = _bitmask(name, leaf)
    shape = json.dumps({name: leaf.shape})
    if _stored_bytes(bitmask) + len(shape) < _stored_bytes({name: leaf}):
      tensors |= bitmask
      shapes[name] = list(leaf.shape)
    else:
      tensors[name] = leaf
  contents = {'sha256': _NO_DIGEST, 'format_version': FORMAT_VERSION, 'bitmask_shapes': shapes,
              'empty': empty, 'provenance': dict(sorted(provenance.items()))}
  if packed_entries:
    contents['packed'] = packed_entries
  metadata = {'sparsejax': json.dumps(contents, separators=(',', ':'), allow_nan=False)}
  data = safetensors.numpy.save(tensors, metadata)
  found = _DIGEST.search(data)
  assert found is not None, 'safetensors no longer writes the metadata as compact JSON'
  start, end = found.span(1)
  digest = hashlib.sha256(data).hexdigest().encode()
  return write_atomically(path, data[:start] + digest + data[end:])


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads what `write` wrote: the same structure, dtypes, shapes and bits, as NumPy arrays.

  Packed weights come back as what they were, a `BlockSparse` one without spare capacity.

  Raises: ValueError, naming the file, if one byte differs from what was written or the format
    version is unknown; FileNotFoundError if there is no such file.
  """
  data, contents = _verified(path)
  stored = {name: _array(tensor) for name, tensor in safetensors.deserialize(data)}
  leaves = {}
  for name, array in stored.items():
    if name.endswith(MASK):
      continue
    if name.endswith(VALUES):
      name = name.removesuffix(VALUES)
      array = _from_bitmask(stored[name + MASK], array, contents['bitmask_shapes'][name])
    leaves[name] = array
  leaves = packed_tensors.from_leaves(leaves, contents.get('packed', {}))
  return tree_paths.unflatten(leaves, contents['empty'])


def read_provenance(path: str | os.PathLike[str]) -> dict[str, str | int | float]:
  """Reads the provenance given to `write`; checks the whole file, and raises, as `read` does."""
  return _verified(path)[1]['provenance']


def float32_bytes(weights: dict[str, Any]) -> int:
  """Size in bytes of a plain safetensors file with every leaf of `weights` dense in float32.

  It is serialised in memory, not estimated: 4 bytes an entry, and the header.
  """
  leaves, _ = tree_paths.flatten(weights)
  return len(safetensors.numpy.save({n: leaf.astype(np.float32) for n, leaf in leaves.items()}))


def _bitmask(name: str, leaf: np.ndarray) -> dict[str, np.ndarray]:
  flat = leaf.reshape(-1)
  keep = flat.view(f'u{leaf.dtype.itemsize}') != 0       # compares bits: -0.0 and NaN are kept
  return {name + MASK: np.packbits(keep), name + VALUES: flat[keep]}


def _from_bitmask(mask: np.ndarray, values: np.ndarray, shape: list[int]) -> np.ndarray:
  flat = np.zeros(math.prod(shape), values.dtype)
  flat[np.unpackbits(mask, count=flat.size).astype(bool)] = values
  return flat.reshape(shape)


def _stored_bytes(tensors: dict[str, np.ndarray]) -> int:
  """Bytes these tensors take in a file, header entries included (to a few digits of offset)."""
  return sum(array.nbytes + len(json.dumps(
      {name: {'dtype': 'F32', 'shape': array.shape, 'data_offsets': [0, array.nbytes]}},
      separators=(',', ':'))) for name, array in tensors.items())


def _array(tensor: dict[str, Any]) -> np.ndarray:
  dtype = tree_paths.DTYPES[_SAFETENSORS_DTYPES[tensor['dtype']]]
  return np.frombuffer(tensor['data'], dtype).reshape(tensor['shape']).copy()


def _verified(path: str | os.PathLike[str]) -> tuple[bytes, dict[str, Any]]:
  """Returns the bytes of the file and its parsed metadata, once digest and version are right."""
  with open(path, 'rb') as file:
    data = file.read()
  name = os.fspath(path)
  length = int.from_bytes(data[:8], 'little')
  if len(data) < 8 or len(data) - 8 < length:
    raise ValueError(f'{name} is truncated or damaged: it has {len(data)} bytes, fewer than its '
                     'header needs; write it again')
  found = _DIGEST.search(data, 8, 8 + length)
  if found is None:
    raise ValueError(f'{name} holds no sparsejax metadata: it is damaged, or was not written by '
                     'sparsejax.codec.write')
  start, end = found.span(1)
  digest = hashlib.sha256(data[:start] + _NO_DIGEST.encode() + data[end:]).hexdigest()
  if digest.encode() != found.group(1):
    raise ValueError(f'{name} is damaged: the SHA-256 of its bytes is not the one it was written '
                     'with; write it again or fetch a sound copy')
  contents = json.loads(json.loads(data[8:8 + length])['__metadata__']['sparsejax'])
  if contents['format_version'] != FORMAT_VERSION:
    raise ValueError(f'{name} has format version {contents["format_version"]}; this sparsejax '
                     f'reads version {FORMAT_VERSION}; read it with the release that wrote it')
  return data, contents


def _check_provenance(provenance: dict[str, Any]) -> None:
  for key, value in provenance.items():
    if not isinstance(value, (str, int, float)):
      raise ValueError(f'provenance {key!r} is a {type(value).__name__}; pass str, int or float')
    if isinstance(value, float) and not math.isfinite(value):
      raise ValueError(f'provenance {key!r} is {value}; JSON holds finite numbers only')
