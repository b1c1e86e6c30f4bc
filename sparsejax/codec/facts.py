"""Numbers and names of a file's header, each checked before anything trusts it."""
from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any


def fields(entry: Any, names: Collection[str], what: str) -> Mapping[str, Any]:
  """Returns `entry`, which must be an object with exactly these fields.

  Raises: ValueError.
  """
  if not isinstance(entry, dict) or set(entry) != set(names):
    found = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
    raise ValueError(f'{what} must have the fields {", ".join(sorted(names))}; found {found}')
  return entry


def whole(entry: Mapping[str, Any], name: str, low: int, high: int) -> int:
  """Returns entry[name], which must be an integer in [low, high].

  Raises: ValueError.
  """
  value = entry.get(name)
  if type(value) is not int or not low <= value <= high:       # bool is an int to isinstance
    raise ValueError(f'{name}={value!r} must be an integer between {low} and {high}')
  return value


def one_of(entry: Mapping[str, Any], name: str, known: Collection[str]) -> str:
  """Returns entry[name], which must be one of `known`.

  Raises: ValueError.
  """
  value = entry.get(name) if isinstance(entry, dict) else None
  if not isinstance(value, str) or value not in known:
    raise ValueError(f'{name}={value!r} is unknown; this sparsejax reads {", ".join(known)}')
  return value


def exact_bytes(data: memoryview | bytes, expected: int, what: str) -> None:
  """Raises ValueError unless the stream has this many bytes."""
  if len(data) != expected:
    raise ValueError(f'{what} take {expected} bytes, but the stream has {len(data)}')
