"""Few bits after training, and integers alone: error, bytes and time of a trained MLP.

  python -m experiments.train --config=experiments/configs/QUANT/binary_connect.py:dense \
      --workdir=out/dense
  python -m benchmarks.quantisation --float_run=out/dense

Every grid rounds the kernels of the trained network, biases stay float32; bytes are those of the
container with the packed weights in it, beside the float32 network in the same container. The
integer network is calibrated on training images. Nothing is chosen by the test set: all that was
tried is a row. Times are interleaved, one batch of --float_batch test images on all cores.
"""

from __future__ import annotations

import datetime
import functools
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

import sparsejax
from benchmarks import results, timing
from experiments import build, datasets
from sparsejax import codec, ledger
from sparsejax.packed import grids
from sparsejax.post_training import calibration
from sparsejax.post_training.integer_network import IntegerMLP
from sparsejax.post_training.quantisation import quantise

RESULTS = 'benchmarks/results/quantisation.jsonl'
CALIBRATION_BATCHES, CALIBRATION_SIZE = 20, 100


def define_flags() -> None:
  """Defines the flags, only when run as a command: modules share one space of names."""
  flags.DEFINE_string('float_run', None, 'Folder of a finished run of an MLP.', required=True)
  flags.DEFINE_integer('float_batch', 128, 'Images per timed call.', lower_bound=1)
  flags.DEFINE_integer('quantisation_rounds', 31, 'Timed calls of each.', lower_bound=6)
  flags.DEFINE_string('quantisation_results', RESULTS, 'File to append rows to; empty for none.')


class Subject:
  """A finished run of an MLP: its deployed weights, inputs made ready, and labels.

  Attributes:
    model, weights; calibration: a list of batches of training inputs; inputs, labels: of the test.
  """

  def __init__(self, folder: str | pathlib.Path):
    folder = pathlib.Path(folder)
    path = folder / 'config.json'
    if not path.exists():
      raise ValueError(f'{folder} holds no finished run: there is no config.json in it')
    config = ml_collections.ConfigDict(json.loads(path.read_text()))
    data = datasets.load(config.dataset)
    ready = build.preprocess(config.preprocess, data.train_images)
    self.model = build.model(config.model)
    self.weights = codec.read(folder / 'deployed.safetensors', structured=False)['params']
    batches = min(CALIBRATION_BATCHES, len(data.train_images) // CALIBRATION_SIZE)
    examples = np.asarray(ready(data.train_images[:batches * CALIBRATION_SIZE]))
    self.calibration = np.split(examples, batches)
    self.inputs = np.asarray(ready(data.test_images))
    self.labels = np.asarray(data.test_labels)

  def wrong(self, classify: Callable[[np.ndarray], Any]) -> np.ndarray:
    """Returns which test images a function inputs -> logits gets wrong, (n,) bool."""
    return np.argmax(np.asarray(classify(self.inputs)), axis=-1) != self.labels


def weight_grids() -> Iterator[tuple[str, int, str, grids.Grid]]:
  """Yields (name, bits, 'tensor' or 'channel', grid)."""
  for axis, scope in ((None, 'tensor'), (-1, 'channel')):
    for bits in (8, 6, 5, 4, 3, 2):
      yield 'affine', bits, scope, functools.partial(grids.affine, bits=bits, axis=axis)
    for bits in (4, 2):
      yield 'affine_unsigned', bits, scope, functools.partial(grids.affine, bits=bits, axis=axis,
                                                              signed=False)
    yield 'ternary', 2, scope, functools.partial(grids.ternary, axis=axis)
    yield 'sign', 1, scope, functools.partial(grids.sign, axis=axis)
  for bits in (5, 4, 3):
    yield 'power_of_two', bits, 'tensor', functools.partial(grids.power_of_two, bits=bits)


def file_bytes(tree: dict[str, Any]) -> int:
  """Returns the bytes of a container that holds the tree."""
  with tempfile.TemporaryDirectory() as folder:
    return codec.write(pathlib.Path(folder) / 'weights.sjx', tree)


def score(wrong: np.ndarray, before: np.ndarray) -> results.Row:
  """Returns the error and how it differs from that of the float network, image by image."""
  return {'test_error_percent': 100 * float(wrong.mean()),
          'difference_percent': 100 * float(wrong.mean() - before.mean()),
          'newly_wrong': int(np.sum(wrong & ~before)), 'newly_right': int(np.sum(before & ~wrong))}


def measure_weights(subject: Subject, before: np.ndarray) -> Iterator[results.Row]:
  """Yields a row for each grid."""
  run = jax.jit(lambda params, x: subject.model.apply({'params': params}, x))
  for name, bits, scope, grid in weight_grids():
    packed = quantise(subject.weights, {'.*kernel': grid})
    dense = sparsejax.densify(packed)
    yield {'kind': 'weights', 'grid': name, 'bits': bits, 'scale_per': scope,
           'bytes_file': file_bytes({'params': packed}),
           **score(subject.wrong(functools.partial(run, dense)), before)}


def integer_networks(subject: Subject) -> dict[tuple[str, str, int], IntegerMLP]:
  """Returns {(calibration, 'tensor' or 'channel', bits of the logits): network}."""
  seen = calibration.observe(subject.model, {'params': subject.weights}, subject.calibration)
  ranges = {'moving': calibration.moving_ranges(seen),
            'percentile 0.1': calibration.percentile_ranges(seen, 0.1)}
  return {(how, scope, bits): IntegerMLP.from_float(subject.model, subject.weights, spans,
                                                    axis=axis, output_bits=bits)
          for how, spans in ranges.items()
          for axis, scope in ((-1, 'channel'), (None, 'tensor')) for bits in (16, 8)}


def measure_integers(subject: Subject, before: np.ndarray, batch: int,
                     rounds: int) -> Iterator[results.Row]:
  """Yields a row for each integer network, the first of them timed against the float one."""
  networks = integer_networks(subject)
  run = jax.jit(lambda network, x: network(x))
  inputs = jax.numpy.asarray(subject.inputs[:batch])
  float_run = jax.jit(lambda params, x: subject.model.apply({'params': params}, x))
  weights, first = jax.device_put(subject.weights), next(iter(networks))
  timed = timing.interleaved({
      'float32': lambda: float_run(weights, inputs).block_until_ready(),
      'integer': lambda: run(networks[first], inputs).block_until_ready()}, rounds, warmup=2)
  for name, network in networks.items():
    how, scope, bits = name
    row = {'kind': 'integer', 'calibration': how, 'scale_per': scope, 'output_bits': bits,
           'bytes_file': file_bytes(network.to_tree()),
           **score(subject.wrong(functools.partial(run, network)), before)}
    if name == first:
      slower = timing.ratio(timed['integer'], timed['float32'])
      row |= {'batch': batch, 'rounds': rounds,
              'milliseconds': timing.estimate(timed['integer']).median,
              'float_milliseconds': timing.estimate(timed['float32']).median,
              'time_ratio': slower.median, 'time_ratio_low': slower.low,
              'time_ratio_high': slower.high}
    yield row


def show(console: Console, rows: list[results.Row]) -> None:
  """Prints the rows as two tables."""
  weights = Table(title='Kernels rounded after training', title_justify='left')
  for name in ('grid', 'bits', 'scale', 'error %', 'change', 'bytes'):
    weights.add_column(name, justify='left' if name in ('grid', 'scale') else 'right')
  integers = Table(title='Integers alone', title_justify='left')
  for name in ('ranges', 'scale', 'logits', 'error %', 'change', 'bytes', 'ms', 'of float'):
    integers.add_column(name, justify='left' if name in ('ranges', 'scale') else 'right')
  for row in rows:
    scored = (f'{row["test_error_percent"]:.2f}', f'{row["difference_percent"]:+.2f}',
              f'{row["bytes_file"]:,}')
    if row['kind'] == 'integer':
      times = ((f'{row["milliseconds"]:.2f}', f'{row["time_ratio"]:.2f}')
               if 'milliseconds' in row else ('', ''))
      integers.add_row(row['calibration'], row['scale_per'], str(row['output_bits']), *scored,
                       *times)
    else:
      weights.add_row(row.get('grid', 'float32'), str(row.get('bits', 32)),
                      row.get('scale_per', ''), *scored)
  console.print(weights)
  console.print(integers)


def measure(folder: str, batch: int, rounds: int) -> list[results.Row]:
  """Returns all rows; the first is the float network's."""
  subject = Subject(folder)
  run = jax.jit(lambda x: subject.model.apply({'params': subject.weights}, x))
  before = subject.wrong(run)
  return [{'kind': 'float', 'bytes_file': file_bytes({'params': subject.weights}),
           'bytes_float32': codec.float32_bytes({'params': subject.weights}),
           **score(before, before)},
          *measure_weights(subject, before),
          *measure_integers(subject, before, batch, rounds)]


def main(arguments: list[str]) -> None:
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments {arguments[1:]}; every option is a --flag')
  given = flags.FLAGS
  setting = {'benchmark': 'quantisation', **ledger.describe_run(),
             'date': datetime.date.today().isoformat(), 'load_before': os.getloadavg()[0]}
  try:
    rows = measure(given.float_run, given.float_batch, given.quantisation_rounds)
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
  console = Console()
  show(console, rows)
  if given.quantisation_results:
    results.append(given.quantisation_results, ({**setting, **row} for row in rows))
    console.print(f'Rows appended to {given.quantisation_results}')


if __name__ == '__main__':
  define_flags()
  app.run(main)
