"""Bytes, speed and memory of containers, on layers of known statistics.

  python -m benchmarks.codec              every case on one core; rows to benchmarks/results
  python -m benchmarks.codec --quick      small arrays: does it run, times mean nothing

Bytes are those of the streams, the header aside, against the description length of the same arrays
(`codec.entropy`), zstandard at level 19 of their raw bytes, and `scipy.sparse.save_npz`. Speed is
float32 bytes of the arrays per second of `codec.write` and `codec.read`, the file system included,
the best of --codec_rounds. Memory is the peak that Python and NumPy allocate while reading or
writing, in multiples of the arrays, which themselves are not counted in writing.
"""

from __future__ import annotations

import datetime
import io
import os
import pathlib
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import zstandard
from absl import app, flags
from rich.console import Console
from rich.table import Table

from benchmarks import results
from sparsejax import codec, ledger
from sparsejax.codec import entropy

RESULTS = 'benchmarks/results/codec.jsonl'
SEED = 7
OVER_AT_MOST = 1.02            # coded bytes over the bound
MEGABYTES_AT_LEAST = 20.0      # of float32 per second
MEMORY_AT_MOST = 3.0           # multiples of the arrays
ZSTD_LEVEL = 19


def define_flags() -> None:
  """Defines the flags, only when run as a command: other benchmarks have a --quick as well."""
  flags.DEFINE_bool('quick', False, 'Small arrays: a check that it runs.')
  flags.DEFINE_integer('codec_rounds', 5, 'Times each case is written and read.', lower_bound=1)
  flags.DEFINE_string('results', RESULTS, 'File to append rows to; empty for none.')


def pruned_mlp(rng: np.random.Generator, scale: int) -> dict[str, np.ndarray]:
  """LeNet-300-100 as Deep Compression leaves it: 8, 9 and 26 % kept, 64 values a layer."""
  shapes = {'dense0': (784, 300, 0.08), 'dense1': (300, 100, 0.09), 'head': (100, 10, 0.26)}
  return {name: shared(rng, (max(2, rows // scale), columns), kept, 64)
          for name, (rows, columns, kept) in shapes.items()}


def shared(rng: np.random.Generator, shape: tuple[int, int], density: float, values: int
           ) -> np.ndarray:
  """Values of a Gaussian codebook, nearer ones more often, on a mask without structure."""
  book = np.sort(rng.standard_normal(values)).astype(np.float32)
  weights = book[np.clip(rng.normal(values / 2, values / 5, shape).astype(int), 0, values - 1)]
  return np.where(rng.random(shape) < density, weights, np.float32(0))


def floats(rng: np.random.Generator, shape: tuple[int, int], density: float) -> np.ndarray:
  """Gaussian float32 on a mask without structure."""
  weights = rng.standard_normal(shape, np.float32) / np.float32(30)
  return np.where(rng.random(shape) < density, weights, np.float32(0))


# name: (rng, divisor of the sizes) -> arrays
CASES: dict[str, Callable[[np.random.Generator, int], dict[str, np.ndarray]]] = {
    'lenet_300_100, 8 %, 64 values': pruned_mlp,
    '5 M, 8 %, 64 values': lambda rng, s: {'w': shared(rng, (5000 // s, 1000), 0.08, 64)},
    '5 M, 1 %, 16 values': lambda rng, s: {'w': shared(rng, (5000 // s, 1000), 0.01, 16)},
    '5 M, dense, 256 values': lambda rng, s: {'w': shared(rng, (5000 // s, 1000), 1.0, 256)},
    '5 M, 10 % floats': lambda rng, s: {'w': floats(rng, (5000 // s, 1000), 0.1)},
    '5 M, dense floats': lambda rng, s: {'w': floats(rng, (5000 // s, 1000), 1.0)},
}


def measure(name: str, arrays: dict[str, np.ndarray], folder: pathlib.Path, rounds: int
            ) -> results.Row:
  """Returns the row of one case."""
  path = folder / 'case.sjx'
  raw = sum(array.nbytes for array in arrays.values())
  seconds: dict[str, list[float]] = {'encode': [], 'decode': []}
  for _ in range(rounds):
    clock = time.perf_counter()
    size = codec.write(path, arrays)
    seconds['encode'].append(time.perf_counter() - clock)
    clock = time.perf_counter()
    read = codec.read(path)
    seconds['decode'].append(time.perf_counter() - clock)
  assert all(read[key].tobytes() == array.tobytes() for key, array in arrays.items())
  del read
  header = codec.open(path).header_bytes
  bound = entropy.total(entropy.describe(arrays)).total_bytes
  memory = {'encode': peak(lambda: codec.write(path, arrays)),
            'decode': peak(lambda: codec.read(path))}
  return {
      'kind': 'codec', 'case': name, 'entries': sum(array.size for array in arrays.values()),
      'bytes_float32': raw, 'bytes_streams': size - header, 'bytes_header': header,
      'bytes_bound': bound, 'over_bound': (size - header) / bound,
      'bytes_zstd': len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(
          b''.join(array.tobytes() for array in arrays.values()))),
      'zstd_level': ZSTD_LEVEL,
      'bytes_scipy_npz': sum(map(npz_bytes, arrays.values())),
      'rounds': rounds,
      **{f'{way}_megabytes_per_second': raw / min(times) / 1e6 for way, times in seconds.items()},
      **{f'{way}_memory': found / raw for way, found in memory.items()},
  }


def peak(call: Callable[[], Any]) -> int:
  """Returns the most bytes that the call held at once."""
  tracemalloc.start()
  try:
    call()
    return tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()


def npz_bytes(array: np.ndarray) -> int:
  """Returns the bytes of SciPy's compressed file of the array in CSR form."""
  file = io.BytesIO()
  scipy.sparse.save_npz(file, scipy.sparse.csr_array(array))
  return len(file.getvalue())


def verdicts(row: results.Row) -> dict[str, bool]:
  """Returns, for each goal, whether the row reaches it."""
  speeds = [row[f'{way}_megabytes_per_second'] for way in ('encode', 'decode')]
  return {'bytes': row['over_bound'] <= OVER_AT_MOST,
          'speed': min(speeds) >= MEGABYTES_AT_LEAST,
          'memory': max(row['encode_memory'], row['decode_memory']) <= MEMORY_AT_MOST}


def show(console: Console, rows: list[results.Row]) -> None:
  """Prints a line per case; a figure that misses its goal is followed by an exclamation mark."""
  table = Table(title='Containers, header aside', title_justify='left')
  for name in ('case', 'float32', 'coded', 'bound', 'over', 'zstd -19', 'save_npz', 'MB/s in',
               'MB/s out', 'memory in', 'memory out'):
    table.add_column(name, justify='left' if name == 'case' else 'right')
  for row in rows:
    good = {goal: '' if kept else '!' for goal, kept in verdicts(row).items()}
    table.add_row(
        row['case'], f'{row["bytes_float32"]:,}', f'{row["bytes_streams"]:,}',
        f'{row["bytes_bound"]:,.0f}', f'{100 * (row["over_bound"] - 1):+.2f} %{good["bytes"]}',
        f'{row["bytes_zstd"]:,}', f'{row["bytes_scipy_npz"]:,}',
        *(f'{row[f"{way}_megabytes_per_second"]:.0f}{good["speed"]}'
          for way in ('encode', 'decode')),
        *(f'{row[f"{way}_memory"]:.2f}{good["memory"]}' for way in ('encode', 'decode')))
  console.print(table)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  quick = flags.FLAGS.quick
  if hasattr(os, 'sched_setaffinity'):       # one core, where the system can bind a process to it
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
  facts = {'benchmark': 'codec', 'date': datetime.date.today().isoformat(), 'quick': quick,
           'seed': SEED, 'load_before': os.getloadavg()[0],
           **{key: value for key, value in ledger.describe_run().items() if key != 'time_utc'}}
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for name, build in CASES.items():
      arrays = build(np.random.default_rng(SEED), 50 if quick else 1)
      rows.append(measure(name, arrays, pathlib.Path(folder),
                          1 if quick else flags.FLAGS.codec_rounds) | facts)
  show(Console(width=160), rows)
  if flags.FLAGS.results and not quick:
    results.append(flags.FLAGS.results, rows)


if __name__ == '__main__':
  define_flags()
  app.run(main)
