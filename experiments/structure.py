"""What stays of a recurrent network of a run, as its papers count it, and so in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsejax.compaction.structure_count import StructureCount, structure_count
from sparsejax.ledger.schema import STRUCTURE_DENOMINATOR
from sparsejax.paths import flatten

MODELS = ('recurrent_classifier', 'recurrent_language_model')


def is_recurrent(config: Mapping[str, Any]) -> bool:
  """Whether the network that a config names is one of `MODELS`."""
  return config.get('model', {}).get('name') in MODELS


def count(deployed: Mapping[str, Any]) -> StructureCount:
  """Returns what stays of the deployed weights of one of `MODELS`, plain arrays by path."""
  embedding = 'embed/embedding' if 'embed/embedding' in deployed else None
  return structure_count(deployed, embedding=embedding)


def ledger_keys(config: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the keys of the papers' count for deployed weights; none for another network.

  A network of which nothing is left by this count has no ratio.
  """
  if not is_recurrent(config):
    return {}
  found = count(flatten(weights))
  ratio = {'compression_structure': found.compression,
           'compression_structure_denominator': STRUCTURE_DENOMINATOR} if found.remaining else {}
  return {'structure_total': found.total, 'structure_kept': found.remaining, **ratio}
