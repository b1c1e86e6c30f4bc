"""The envelope of a container: magic, version, lengths and a SHA-256 over all of it.

Layout, integers little-endian:

  8 bytes    magic
  4 bytes    format version
  8 bytes    length of the stored header
  8 bytes    length of its JSON; if the two differ, it is stored as a zstandard frame
  8 bytes    length of all streams
  32 bytes   SHA-256 of the file without these 32 bytes
  header     canonical JSON (`header.py`)
  streams    of the leaves, one behind the other, in the order of the header
"""
from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence

import zstandard

from sparsejax.codec.header import MAX_BYTES
from sparsejax.codec.values import unzstd

MAGIC = b'\x89SJX\r\n\x1a\n'         # as PNG's: shows transfers that change line ends or bit 8
FORMAT_VERSION = 1
_PREFIX = struct.Struct('<8sIQQQ32s')
_DIGEST_AT = _PREFIX.size - 32
_HEADER_LEVEL = 19


def seal(header: bytes, streams: Sequence[bytes]) -> bytes:
  """Returns the file that holds this header and these streams."""
  squeezed = zstandard.ZstdCompressor(level=_HEADER_LEVEL).compress(header)
  stored = squeezed if len(squeezed) < len(header) else header
  prefix = _PREFIX.pack(MAGIC, FORMAT_VERSION, len(stored), len(header), sum(map(len, streams)),
                        bytes(32))[:_DIGEST_AT]
  digest = hashlib.sha256(prefix)
  for part in (stored, *streams):
    digest.update(part)
  return b''.join([prefix, digest.digest(), stored, *streams])


def unseal(path: str | os.PathLike[str]) -> tuple[bytes, memoryview, int]:
  """Returns (header, streams, bytes before the streams), once lengths and digest are right.

  Raises:
    ValueError: for anything that `seal` does not give, and for another format version.
    FileNotFoundError: if there is no such file.
  """
  with open(path, 'rb') as file:
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(_PREFIX.size)
    if len(prefix) < _PREFIX.size or not prefix.startswith(MAGIC):
      raise ValueError(f'its {size} bytes do not start as a container does')
    _, version, stored, length, streams, digest = _PREFIX.unpack(prefix)
    if _PREFIX.size + stored + streams != size:
      raise ValueError(f'it has {size} bytes in the place of {_PREFIX.size + stored + streams}')
    body = memoryview(file.read())
  found = hashlib.sha256(prefix[:_DIGEST_AT])
  found.update(body)
  if found.digest() != digest or len(body) != stored + streams:
    raise ValueError('the SHA-256 of its bytes is not the one it was written with; write it again '
                     'or fetch a sound copy')
  if version != FORMAT_VERSION:
    raise ValueError(f'it has format version {version}; this sparsejax reads {FORMAT_VERSION}; '
                     'read it with the release that wrote it')
  if not stored <= length <= MAX_BYTES:
    raise ValueError(f'a header of {length} bytes, stored as {stored}')
  header = bytes(body[:stored]) if stored == length else unzstd(body[:stored], length)
  return header, body[stored:], _PREFIX.size + stored
