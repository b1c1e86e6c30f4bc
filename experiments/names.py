"""Names in configs: known or not, with the nearest one in the error."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any


def near(name: str, known: Collection[str]) -> str:
  """Returns 'did you mean ...? ' for the nearest known name, or ''."""
  found = difflib.get_close_matches(str(name), known, n=1)
  return f'did you mean {found[0]!r}? ' if found else ''


def known_name(name: str, known: Collection[str], where: str) -> str:
  """Returns the name; raises ValueError with the nearest one if it is not known."""
  if name not in known:
    raise ValueError(f'{where}={name!r} is unknown; {near(name, known)}choose one of '
                     f'{", ".join(sorted(known))}')
  return name


def require_names(fields: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
  """Raises ValueError unless the fields are exactly those named."""
  if set(fields) != set(names):
    raise ValueError(f'{where} needs the fields {", ".join(names)}, got {", ".join(fields)}')
