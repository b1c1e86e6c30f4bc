"""Reader of gzipped IDX files of unsigned bytes, the format of MNIST and its successors.

Layout after gunzip: two zero bytes, a type byte (8 is unsigned byte), the number of dimensions;
then each dimension as a big-endian uint32; then the bytes, row-major. Source: Y. LeCun, C. Cortes,
C. Burges, The MNIST database.
"""
import gzip
import math
import os
import zlib

import numpy as np

_UNSIGNED_BYTE = 0x08
_REPAIR = 'delete the file and fetch it again'


def read(path: str | os.PathLike, dimensions: int) -> np.ndarray:
  """Returns the uint8 array in the gzipped IDX file at `path`.

  Args:
    path: a file such as train-images-idx3-ubyte.gz.
    dimensions: how many the file must have: 3 for grey images (N, H, W), 1 for labels (N,).
  Raises: ValueError if the gzip stream is damaged or cut short, the magic number is another one, or
    the payload is not as long as the header says; OSError if the file cannot be opened.
  """
  path = os.fspath(path)
  data = _gunzip(path)
  header = 4 + 4 * dimensions
  if len(data) < 4:
    raise ValueError(f'{path}: truncated: {len(data)} bytes after gunzip, too few for an IDX '
                     f'header; {_REPAIR}')
  magic, expected = int.from_bytes(data[:4], 'big'), _UNSIGNED_BYTE << 8 | dimensions
  if magic != expected:
    raise ValueError(f'{path}: IDX magic number 0x{magic:08x}, expected 0x{expected:08x} (unsigned '
                     f'bytes, dimensions: {dimensions}); check that it is an IDX file, and that '
                     'images and labels are not exchanged')
  if len(data) < header:
    raise ValueError(f'{path}: truncated: {len(data)} bytes after gunzip, but the header alone '
                     f'takes {header}; {_REPAIR}')
  shape = tuple(int(d) for d in np.frombuffer(data, '>u4', dimensions, offset=4))
  promised, present = math.prod(shape), len(data) - header
  if promised != present:
    kind = 'truncated' if present < promised else 'too long'
    raise ValueError(f'{path}: {kind}: the header says {shape}, which is {promised} bytes, but '
                     f'{present} follow; {_REPAIR}')
  return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _gunzip(path: str) -> bytes:
  with open(path, 'rb') as raw:            # outside the try: BadGzipFile is an OSError, as is this
    try:
      with gzip.open(raw) as stream:
        return stream.read()
    except EOFError as error:
      raise ValueError(f'{path}: truncated: the gzip stream ends early; {_REPAIR}') from error
    except (gzip.BadGzipFile, zlib.error) as error:
      raise ValueError(f'{path}: not an intact gzip file ({error}); {_REPAIR}') from error
