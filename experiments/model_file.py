"""The file a network is shipped in, and what else running it needs.

`experiments.evaluate --model=FILE` runs it from the file alone.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
import safetensors.numpy
import zstandard

from sparsejax import codec
from sparsejax.codec import container, tree_paths
from sparsejax.codec.entropy import description_length
from sparsejax.ledger.schema import BYTES_DENOMINATOR
from sparsejax.paths import Tree, flatten, unflatten
from sparsejax.post_training.int8 import ZSTD_LEVEL
from sparsejax.structured import Packed
from sparsejax.training.fit import Recipe

MODEL_FILE = 'model.sjx'


def facts_of(config: ml_collections.ConfigDict, recipe: Recipe,
             examples: np.ndarray) -> dict[str, Any]:
  """Returns what a file needs beside the network to run it on raw examples (n, ...)."""
  preprocess = config.preprocess.to_dict()
  example = recipe.preprocess(examples[:1])
  facts = {'dataset': config.dataset, 'input_shape': list(example.shape[1:]),
           'input_dtype': np.dtype(example.dtype).name}
  if 'tokens' in preprocess:
    return {**facts, 'preprocess': 'tokens'}
  return {**facts, 'preprocess': 'images', 'scale': preprocess['scale'],
          'mean': recipe.preprocess.mean}


def with_packed(variables: Mapping[str, Any], deployed: Tree) -> dict[str, Any]:
  """Returns the variables with each weight in the packed form that its method deploys.

  Args:
    variables: of the compact network, {'params': arrays, ...}.
    deployed: what `finalise` returned; a packed weight of it takes its array's place where that
      array came through compaction as it was.
  """
  params = flatten(variables['params'])
  for path, weight in flatten(deployed).items():
    if isinstance(weight, Packed) and path in params and not isinstance(params[path], Packed):
      dense = np.asarray(weight.to_dense())
      if dense.shape == params[path].shape and np.array_equal(dense, params[path]):
        params[path] = weight
  return {**variables, 'params': unflatten(params)}


def write_model(folder: pathlib.Path, model: Any, variables: dict[str, Any], dense: dict[str, Any],
                facts: Mapping[str, Any], **provenance: str | int | float) -> dict[str, Any]:
  """Writes the container of the compact network; returns the ledger's keys on coded bytes.

  Args:
    model, variables: the compact network, weights packed or not.
    dense: variables of the network as deployed, before compaction: what ratios are relative to.
    facts: of `facts_of`.
  """
  path = folder / MODEL_FILE
  coded = container.write(path, variables, model=model, facts=facts, provenance=provenance)
  leaves, _ = tree_paths.flatten(_arrays(variables))
  plain = safetensors.numpy.save(leaves)
  zstd = len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(plain))
  whole = codec.float32_bytes(dense)
  described = sum(description_length(leaf).total_bytes for leaf in leaves.values())
  return {
      'bytes_zstd': zstd,
      'compression_zstd': whole / zstd,
      'compression_zstd_denominator': BYTES_DENOMINATOR,
      'bytes_coded': coded,
      'coded_sha256': hashlib.sha256(path.read_bytes()).hexdigest(),
      'compression_coded': whole / coded,
      'compression_coded_denominator': BYTES_DENOMINATOR,
      'bytes_described': described,
  }


def _arrays(tree: Any) -> Any:
  """The tree with each packed weight as a dict of its arrays."""
  if isinstance(tree, Packed):
    return {name: np.asarray(array) for name, array in tree.to_tensors()[0].items()}
  if isinstance(tree, dict):
    return {name: _arrays(child) for name, child in tree.items()}
  return np.asarray(tree)
