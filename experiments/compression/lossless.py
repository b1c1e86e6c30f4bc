"""The deployed network as it is: cut to its living units and coded without loss."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from experiments.compression.recipes import Compressed
from experiments.compression.subject import Subject

OPTIONS: dict[str, Any] = {'coding': 'smallest'}


def compress(subject: Subject, options: dict[str, Any], console: Console) -> Compressed:
  """Returns the compact network; `coding` is one of `codec.leaf.CODINGS`."""
  del console
  model, variables = subject.compacted()
  return Compressed(model, variables, options['coding'])
