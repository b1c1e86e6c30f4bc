"""Compresses a finished run by a recipe, writes the file, and measures the network in the file."""

from __future__ import annotations

import json
import os
import pathlib
import time
from typing import Any

import safetensors.numpy
import zstandard
from rich.console import Console
from rich.table import Table

from experiments.compression import recipes, subject
from experiments.scores import read_test_set, validation_error_percent
from sparsejax import codec, ledger
from sparsejax.codec import packed_tensors, tree_paths
from sparsejax.post_training.int8 import ZSTD_LEVEL

Numbers = dict[str, Any]


def compress_run(folder: str | pathlib.Path, name: str, out: str | pathlib.Path,
                 given: tuple[str, ...] = (), console: Console | None = None) -> Numbers:
  """Compresses the run in `folder` to the file `out`; returns the sheet, which lies beside it.

  Errors 'after' are those of the network read back from the file. The test set is read once, for
  that network; the error 'before' is the ledger's.

  Args:
    folder: of a finished run. name: of `recipes.RECIPES`. given: options, 'name=value'.
    out: ends in '.sjx'; the sheet has the same name and ends in '.json'.

  Raises:
    ValueError: for a folder without a finished run, or an unknown recipe or option.
  """
  console = console or Console()
  out = pathlib.Path(out)
  if out.suffix != '.sjx':
    raise ValueError(f'--out={out} must end in .sjx: the file is a container')
  if not out.parent.is_dir():
    raise ValueError(f'--out={out}: its folder does not exist; create it first')
  module = recipes.recipe(name)
  options = recipes.options(module.OPTIONS, given)
  run = subject.load(folder)
  clock = time.perf_counter()
  made = module.compress(run, options, console)
  seconds = time.perf_counter() - clock
  coded = codec.write(out, made.variables, model=made.model, facts=run.facts(),
                      coding=made.coding, recipe=name, config=run.sheet['config_hash'][:16],
                      seed=run.config.seed)
  sheet = {
      'recipe': name, 'options': options, 'run': run.sheet['config'],
      'config_hash': run.sheet['config_hash'], 'seed': run.config.seed,
      'data_hash': run.sheet['data_hash'], 'seconds': seconds,
      **sizes(run.variables, made.variables, coded), **errors(run, out),
      'stages': list(made.stages), 'layers': list(made.layers), **ledger.describe_run()}
  codec.write_atomically(out.with_suffix('.json'), (json.dumps(sheet, indent=1) + '\n').encode())
  for table in tables(sheet):
    console.print(table)
  console.print(f'Files: {out}, {out.with_suffix(".json")}')
  return sheet


def sizes(deployed: dict[str, Any], compressed: dict[str, Any], coded: int) -> Numbers:
  """Returns bytes, under the ledger's keys, and what they are relative to.

  Args:
    deployed: variables of the run; ratios are relative to them as dense float32, zeros and all.
    compressed: variables in the file; Zstandard gets their arrays, packed weights as theirs.
    coded: bytes of the file.
  """
  plain, packed = packed_tensors.take_out(compressed)
  leaves = tree_paths.flatten(plain)[0] | packed_tensors.to_leaves(packed)[0]
  compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
  zstd = len(compressor.compress(safetensors.numpy.save(leaves)))
  dense = codec.float32_bytes(deployed)
  return {'bytes_float32': dense, 'bytes_zstd': zstd, 'bytes_coded': coded,
          'compression_zstd': dense / zstd, 'compression_coded': dense / coded}


def errors(run: subject.Subject, path: str | os.PathLike[str]) -> Numbers:
  """Returns errors of the run, from its ledger, and of the network in the file."""
  loaded = codec.read_model(path)
  recipe = run.recipe._replace(model=loaded.model)
  after = None
  if run.data.watched == 'validation':
    after = validation_error_percent(recipe, loaded.variables, run.data.watched_images,
                                     run.data.watched_labels)
  scores = read_test_set(recipe, loaded.variables, run.data.dataset.test_images,
                         run.data.dataset.test_labels)
  return {'validation_error_percent_before': run.sheet['validation_error_percent'],
          'validation_error_percent': after,
          'test_error_percent_before': run.sheet['test_error_percent'], **scores}


def tables(sheet: Numbers) -> list[Table]:
  """Returns what is printed of a sheet: bytes and errors, and the layers where there are any."""
  summary = Table('', 'dense', 'zstd', 'file', title=f'{sheet["recipe"]} of {sheet["run"]}',
                  title_justify='left')
  summary.add_row('bytes', *(f'{sheet[f"bytes_{form}"]:,}'
                             for form in ('float32', 'zstd', 'coded')))
  summary.add_row('times smaller', '1', f'{sheet["compression_zstd"]:.1f}',
                  f'{sheet["compression_coded"]:.1f}')
  for part in ('validation', 'test'):
    before, after = (sheet[f'{part}_error_percent{when}'] for when in ('_before', ''))
    if after is not None:
      summary.add_row(f'{part} error', f'{before:.2f} %', '', f'{after:.2f} %')
  if not sheet['layers']:
    return [summary]
  layers = Table('layer', 'weights', 'kept', 'fillers', 'weight bits', 'index bits', 'size %',
                 title='Layers in the form of Deep Compression: fixed width -> Huffman',
                 title_justify='left')
  for row in sheet['layers']:
    layers.add_row(row['layer'].removesuffix('/kernel'), f'{row["weights"]:,}',
                   f'{row["kept_percent"]:.1f} %', f'{row["fillers"]:,}',
                   f'{row["weight_bits"]:g} -> {row["weight_bits_huffman"]:.1f}',
                   f'{row["index_bits"]:g} -> {row["index_bits_huffman"]:.1f}',
                   f'{row["fixed_percent"]:.2f} / {row["huffman_percent"]:.2f}')
  return [summary, layers]
