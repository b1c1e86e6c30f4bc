"""diverged.json: what is left of a member whose training met numbers that are not finite."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from sparsejax.codec.atomic import write_atomically
from sparsejax.training.loop import NonFiniteLoss

DIVERGED_FILE = 'diverged.json'


def read_diverged(folder: pathlib.Path) -> dict[str, Any] | None:
  """Returns {'epoch', 'step', 'leaf', 'message'} of a member that diverged, None of others."""
  path = folder / DIVERGED_FILE
  if not path.exists():
    return None
  try:
    found = json.loads(path.read_bytes())
    return {name: found[name] for name in ('epoch', 'step', 'leaf', 'message')}
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f'{path} is damaged: {error}; remove it, and the member is trained '
                     'again') from error


def write_diverged(folder: pathlib.Path, error: NonFiniteLoss) -> None:
  """Says in the folder of a member how it diverged."""
  content = {'epoch': error.epoch, 'step': error.step, 'leaf': error.leaf, 'message': str(error)}
  write_atomically(folder / DIVERGED_FILE, (json.dumps(content, indent=1) + '\n').encode())
